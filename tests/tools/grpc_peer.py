"""gRPC servers, and a gRPC client that has its configuration from xDS (`xds:///`) and nothing else.

    grpc_peer.py v1 v2 ...     starts a server a name, on free ports; `v1=50051` one that has its listener from xDS

Prints `ready {"v1": port, ...}`, then answers each line of its standard input, a JSON object, with one line:
    {"target", "authority", "method", "metadata", "timeout_s", "count", "concurrency",
     "stagger_s"}
        -> {"names": {"v1": 7}, "errors": {"UNAVAILABLE: details": 3}, "seconds": 0.1}
    {"target", "hammer": true}     calls about a hundred times a second until
    {"stop": true}                 -> the same for all of these calls
Servers answer with their name; `x-delay-s` in a call's metadata makes them late, `x-fail` fails the call.
The client reads GRPC_XDS_BOOTSTRAP. Used by tests/system/grpc.rs; set up with `.ci/setup`.
"""

import collections
import concurrent.futures
import json
import sys
import threading
import time

import grpc
import grpc.experimental

METHODS = ["/shop.Reviews/Get", "/shop.Reviews/List"]


class Handler(grpc.GenericRpcHandler):
    def __init__(self, name):
        self.name = name

    def service(self, call):
        def answer(_request, context):
            metadata = dict(call.invocation_metadata)
            time.sleep(float(metadata.get("x-delay-s", "0")))
            if metadata.get("x-fail") in ("all", self.name):
                context.abort(grpc.StatusCode.UNAVAILABLE, "as wanted")
            return self.name.encode()

        return grpc.unary_unary_rpc_method_handler(answer)


class Outcomes:
    def __init__(self):
        self.names, self.errors = collections.Counter(), collections.Counter()
        self.started = time.monotonic()

    def call(self, stub, timeout, metadata):
        try:
            self.names[stub(b"", timeout=timeout, metadata=metadata).decode()] += 1
        except grpc.RpcError as error:
            self.errors[f"{error.code().name}: {error.details()}"] += 1

    def told(self):
        seconds = time.monotonic() - self.started
        return {"names": self.names, "errors": self.errors, "seconds": seconds}


class Hammer:
    def __init__(self, stub):
        self.outcomes, self.going = Outcomes(), True
        self.thread = threading.Thread(target=self.run, args=(stub,), daemon=True)
        self.thread.start()

    def run(self, stub):
        while self.going:
            self.outcomes.call(stub, 20, [])
            time.sleep(0.01)

    def stop(self):
        self.going = False
        self.thread.join()
        return self.outcomes.told()


def main():
    # The servers keep what they are given in use: nothing stops before the process does.
    ports, servers, channels, hammers = {}, [], {}, []
    for argument in sys.argv[1:]:
        name, _, port = argument.partition("=")
        server = grpc.server(
            concurrent.futures.ThreadPoolExecutor(max_workers=16),
            handlers=[Handler(name)],
            xds=bool(port),
        )
        if port:
            plain = grpc.insecure_server_credentials()
            address, credentials = f"127.0.0.1:{port}", grpc.xds_server_credentials(plain)
            # Its port is bound when the listener has come.
            server.add_secure_port(address, credentials)
            ports[name] = int(port)
        else:
            ports[name] = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
    print("ready", json.dumps(ports), flush=True)

    for line in sys.stdin:
        asked = json.loads(line)
        if "stop" in asked:
            told = [hammer.stop() for hammer in hammers]
            hammers = []
            print(json.dumps(told), flush=True)
            continue
        target = asked["target"]
        key = target, asked.get("authority")
        if key not in channels:
            # What the cluster says: TLS with the bootstrap file's certificates, or plain text.
            plain = grpc.experimental.insecure_channel_credentials()
            options = [("grpc.default_authority", key[1])] if key[1] else []
            channels[key] = grpc.secure_channel(
                target, grpc.xds_channel_credentials(plain), options
            )
        stub = channels[key].unary_unary(asked.get("method", METHODS[0]))
        if asked.get("hammer"):
            hammers.append(Hammer(stub))
            print(json.dumps({}), flush=True)
            continue
        outcomes = Outcomes()
        metadata = list(asked.get("metadata", {}).items())
        timeout = asked.get("timeout_s", 20)
        with concurrent.futures.ThreadPoolExecutor(asked.get("concurrency", 1)) as pool:
            for nth in range(asked.get("count", 1)):
                time.sleep(asked.get("stagger_s", 0) if nth else 0)
                pool.submit(outcomes.call, stub, timeout, metadata)
        print(json.dumps(outcomes.told()), flush=True)


main()
