"""A gRPC server that knows the mesh by GRPC_XDS_BOOTSTRAP alone: greeter.py VERSION PORT

Answers with its version and whom it has verified as the caller.
"""

import concurrent.futures
import sys

import grpc


class Greeter(grpc.GenericRpcHandler):
    def __init__(self, version):
        self.version = version

    def service(self, call):
        def greet(_request, context):
            caller = context.auth_context().get("x509_subject_alternative_name", [b"nobody"])
            return f"{self.version} {caller[0].decode()}".encode()

        return grpc.unary_unary_rpc_method_handler(greet)


version, port = sys.argv[1:]
server = grpc.server(
    concurrent.futures.ThreadPoolExecutor(8), handlers=[Greeter(version)], xds=True
)
# Certificates and whose calls are taken: as the mesh says. Without a mesh: plain text.
credentials = grpc.xds_server_credentials(grpc.insecure_server_credentials())
server.add_secure_port(f"127.0.0.1:{port}", credentials)
server.start()
print("ready {}", flush=True)
server.wait_for_termination()
