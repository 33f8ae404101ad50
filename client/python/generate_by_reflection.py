#!/usr/bin/env python3
"""Draws one picture knowing nothing but the server's address: the messages come from its reflection service.

  generate_by_reflection.py PROMPT FILE [SERVER]
"""

import sys

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


def draw(server, prompt, path):
    with grpc.insecure_channel(server) as channel:
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        method = pool.FindServiceByName("fresco.v1.ImageGeneration").FindMethodByName("Generate")
        request, event = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        generate = channel.unary_stream("/fresco.v1.ImageGeneration/Generate", request.SerializeToString, event.FromString)
        with open(path, "wb") as file:
            for message in generate(request(prompt=prompt, seed=1)):
                if message.WhichOneof("event") == "image":
                    file.write(message.image.data)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__.strip())
    try:
        draw(sys.argv[3] if len(sys.argv) == 4 else "127.0.0.1:8500", sys.argv[1], sys.argv[2])
    except grpc.RpcError as error:
        sys.exit(f"{error.code().name}: {error.details()}")
