#!/usr/bin/env python3
"""Draws one picture through the generated stubs (make_stubs.sh), showing progress.

  generate.py PROMPT FILE [SERVER]
"""

import sys

import grpc

from fresco.v1 import image_generation_pb2 as pb
from fresco.v1 import image_generation_pb2_grpc as rpc


def draw(server, prompt, path):
    with grpc.insecure_channel(server) as channel:
        request = pb.GenerateRequest(prompt=prompt, seed=1)
        picture = bytearray()
        for event in rpc.ImageGenerationStub(channel).Generate(request):
            kind = event.WhichOneof("event")
            if kind == "progress":
                print(f"step {event.progress.step} of {event.progress.total_steps}")
            elif kind == "image":  # large pictures come in several chunks
                picture += event.image.data
            elif kind == "completed":
                for warning in event.completed.warnings:
                    print("warning:", warning.message)
    with open(path, "wb") as file:
        file.write(picture)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__.strip())
    try:
        draw(sys.argv[3] if len(sys.argv) == 4 else "127.0.0.1:8500", sys.argv[1], sys.argv[2])
    except grpc.RpcError as error:
        sys.exit(f"{error.code().name}: {error.details()}")
