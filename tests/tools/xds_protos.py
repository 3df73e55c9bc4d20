"""Writes every descriptor that PyPI's xds-protos carries to stdout, as one FileDescriptorSet.

Used by tests/xds_protos.rs. Needs nothing else; set up with `.ci/setup`.
"""

import importlib
import importlib.metadata
import sys

from google.protobuf import descriptor_pb2, descriptor_pool


def files():
    for file in importlib.metadata.files("xds-protos"):
        path = str(file)
        # test/ is a stray of the package that cannot be imported.
        if path.endswith("_pb2.py") and not path.startswith("test/"):
            yield path.removesuffix("_pb2.py")


def main():
    pool = descriptor_pool.Default()
    found = descriptor_pb2.FileDescriptorSet()
    for path in files():
        importlib.import_module(path.replace("/", ".") + "_pb2")
        try:
            pool.FindFileByName(path + ".proto").CopyToProto(found.file.add())
        except KeyError:
            # Python spells `a-b.proto` as `a_b_pb2`; none of those is in our subset.
            del found.file[-1]
    sys.stdout.buffer.write(found.SerializeToString())


main()
