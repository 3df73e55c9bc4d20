// gRPC servers, and a gRPC client that has its configuration from xDS (`xds:///`) and nothing else; for Node.js.
//
//     grpc_peer.js v1 v2 ...     starts a server a name, on free ports; `v1=50051` one that has its listener from xDS
//
// Talks as grpc_peer.py does, line by line. Used by tests/system; set up with `.ci/setup`.
"use strict";

const readline = require("node:readline");
const { setTimeout: sleep } = require("node:timers/promises");
const grpc = require("@grpc/grpc-js");
const xds = require("@grpc/grpc-js-xds");

const METHODS = ["/shop.Reviews/Get", "/shop.Reviews/List"];
const bytes = (message) => message;

xds.register();

function service(name) {
  const answer = async (call, tell) => {
    const value = (key) => String(call.metadata.get(key)[0] ?? "");
    await sleep(Number(value("x-delay-s") || 0) * 1000);
    if (["all", name].includes(value("x-fail"))) {
      tell({ code: grpc.status.UNAVAILABLE, details: "as wanted" });
    } else {
      tell(null, Buffer.from(name));
    }
  };
  const of = (path) => ({
    path,
    requestStream: false,
    responseStream: false,
    requestSerialize: bytes,
    requestDeserialize: bytes,
    responseSerialize: bytes,
    responseDeserialize: bytes,
    originalName: path.split("/").pop(),
  });
  const definition = Object.fromEntries(METHODS.map((path) => [path.split("/").pop(), of(path)]));
  const handlers = Object.fromEntries(Object.keys(definition).map((method) => [method, answer]));
  return [definition, handlers];
}

function bind(server, address, credentials) {
  return new Promise((resolve, reject) => {
    server.bindAsync(address, credentials, (error, port) => (error ? reject(error) : resolve(port)));
  });
}

async function start(argument) {
  const [name, port] = argument.split("=");
  const plain = grpc.ServerCredentials.createInsecure();
  const server = port ? new xds.XdsServer() : new grpc.Server();
  server.addService(...service(name));
  if (!port) return [name, await bind(server, "127.0.0.1:0", plain)];
  // Its port is bound when the listener has come.
  bind(server, `127.0.0.1:${port}`, new xds.XdsServerCredentials(plain)).catch((error) => {
    console.error(error);
    process.exit(1);
  });
  return [name, Number(port)];
}

class Outcomes {
  constructor() {
    this.names = {};
    this.errors = {};
    this.started = process.hrtime.bigint();
  }

  call(client, method, timeoutS, metadata) {
    return new Promise((done) => {
      const deadline = Date.now() + timeoutS * 1000;
      client.makeUnaryRequest(method, bytes, bytes, Buffer.alloc(0), metadata, { deadline }, (error, answer) => {
        const [counts, key] = error
          ? [this.errors, `${grpc.status[error.code]}: ${error.details}`]
          : [this.names, answer.toString()];
        counts[key] = (counts[key] ?? 0) + 1;
        done();
      });
    });
  }

  told() {
    const seconds = Number(process.hrtime.bigint() - this.started) / 1e9;
    return { names: this.names, errors: this.errors, seconds };
  }
}

class Hammer {
  constructor(client) {
    this.outcomes = new Outcomes();
    this.going = true;
    this.run = this.calls(client);
  }

  async calls(client) {
    while (this.going) {
      await this.outcomes.call(client, METHODS[0], 20, new grpc.Metadata());
      await sleep(10);
    }
  }

  async stop() {
    this.going = false;
    await this.run;
    return this.outcomes.told();
  }
}

async function calls(client, asked) {
  const outcomes = new Outcomes();
  const metadata = new grpc.Metadata();
  for (const [key, value] of Object.entries(asked.metadata ?? {})) metadata.set(key, value);
  let left = asked.count ?? 1;
  const one = async (_, nth) => {
    await sleep(nth * (asked.stagger_s ?? 0) * 1000);
    while (left-- > 0) await outcomes.call(client, asked.method ?? METHODS[0], asked.timeout_s ?? 20, metadata);
  };
  await Promise.all(Array.from({ length: asked.concurrency ?? 1 }, one));
  return outcomes.told();
}

async function main() {
  const clients = {};
  let hammers = [];
  const say = (told) => console.log(JSON.stringify(told));
  const ports = [];
  for (const argument of process.argv.slice(2)) ports.push(await start(argument));
  console.log("ready", JSON.stringify(Object.fromEntries(ports)));

  for await (const line of readline.createInterface({ input: process.stdin })) {
    const asked = JSON.parse(line);
    if (asked.stop) {
      say(await Promise.all(hammers.map((hammer) => hammer.stop())));
      hammers = [];
      continue;
    }
    // What the cluster says: TLS with the bootstrap file's certificates, or plain text.
    const credentials = new xds.XdsChannelCredentials(grpc.credentials.createInsecure());
    const client = (clients[asked.target] ??= new grpc.Client(asked.target, credentials));
    if (asked.hammer) {
      hammers.push(new Hammer(client));
      say({});
    } else {
      say(await calls(client, asked));
    }
  }
  process.exit(0);
}

main();
