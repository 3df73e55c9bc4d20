"""Calls the greeter as the mesh leads it, once: caller.py [HEADER=VALUE]

Everything it knows of the mesh is in GRPC_XDS_BOOTSTRAP.
"""

import sys

import grpc
import grpc.experimental

plain = grpc.experimental.insecure_channel_credentials()
metadata = [tuple(argument.split("=", 1)) for argument in sys.argv[1:]]
with grpc.secure_channel("xds:///greeter:50051", grpc.xds_channel_credentials(plain)) as channel:
    greet = channel.unary_unary("/example.Greeter/Greet")
    print(greet(b"", timeout=10, metadata=metadata).decode())
