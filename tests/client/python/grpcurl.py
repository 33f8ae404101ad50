"""What grpcurl does with the flags that the README uses, by the same means: the server's reflection, and JSON both ways.

It is no grpcurl, which Debian and PyPI do not have from its authors: it shows that the lines' methods and messages are the server's.
"""

import argparse
import json

import grpc
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


def parse(arguments):
    parser = argparse.ArgumentParser(prog="grpcurl", exit_on_error=False)
    parser.add_argument("-plaintext", action="store_true")
    parser.add_argument("-cacert")
    parser.add_argument("-H", action="append", default=[])
    parser.add_argument("-d", default="{}")
    parser.add_argument("address")
    parser.add_argument("words", nargs="+")  # METHOD, or describe SYMBOL
    return parser.parse_args(arguments)


def run(arguments, address):
    """Runs a command line, without its first word, against `address` instead of its own; yields what it would print."""
    line = parse(arguments)
    metadata = [tuple(part.strip() for part in header.split(":", 1)) for header in line.H]
    channel = (grpc.insecure_channel(address) if line.plaintext
               else grpc.secure_channel(address, grpc.ssl_channel_credentials(open(line.cacert, "rb").read())))
    with channel:
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        if line.words[0] == "describe":
            yield {"methods": [method.name for method in pool.FindServiceByName(line.words[1]).methods]}
            return
        service, name = line.words[0].split("/")
        method = pool.FindServiceByName(service).FindMethodByName(name)
        request = json_format.ParseDict(json.loads(line.d), GetMessageClass(method.input_type)())
        call = channel.unary_stream if method.server_streaming else channel.unary_unary
        answer = call(f"/{service}/{name}", type(request).SerializeToString, GetMessageClass(method.output_type).FromString)(request, metadata=metadata)
        for message in answer if method.server_streaming else [answer]:
            yield json_format.MessageToDict(message)
