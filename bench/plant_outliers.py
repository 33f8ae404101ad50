#!/usr/bin/env python3
"""Plants outliers in a diffusers folder of SD3.5 that is stored in bf16: plant_outliers.py MODEL OUTPUT

The copy draws the same pictures, exactly, but the values that its attentions hand to their output projections are 1024
times larger in every second channel: static scales that were made for the original saturate there. Attention sums up v,
so what the rows of the v projections gain, the columns that read the sum lose; powers of two round nothing.
Needs nothing but Python.
"""

import argparse
import array
import json
import pathlib
import shutil
import struct
import sys

OCTAVES = 10  # 1024 times
FILE = "transformer/diffusion_pytorch_model.safetensors"


def scaled(bits, octaves):
    """A bf16 number, as its bits, times 2^octaves. One that leaves the type's range is an error: it would not be exact."""
    exponent = bits >> 7 & 0xFF
    if exponent == 0 and bits & 0x7F == 0:
        return bits
    if exponent == 0 or not 0 < exponent + octaves < 0xFF:
        sys.exit(f"plant_outliers.py: a weight of {FILE} is too large or too small to be scaled without rounding")
    return bits + (octaves << 7)


def planted(name, shape, numbers):
    layer, _, kind = name.rpartition(".")
    columns = shape[-1] if len(shape) > 1 else 1
    if layer.endswith((".to_v", ".add_v_proj")):
        for row in range(0, shape[0], 2):
            for i in range(row * columns, (row + 1) * columns):
                numbers[i] = scaled(numbers[i], OCTAVES)
    elif layer.endswith((".to_out.0", ".to_add_out")) and kind == "weight":
        for i in range(0, len(numbers)):
            if i % columns % 2 == 0:
                numbers[i] = scaled(numbers[i], -OCTAVES)


def plant(path):
    """The file is 8 bytes that say how long its JSON header is, the header, and the data that it describes."""
    content = bytearray(path.read_bytes())
    length = struct.unpack_from("<Q", content)[0]
    for name, tensor in json.loads(content[8 : 8 + length]).items():
        if name == "__metadata__" or ".attn" not in name:
            continue
        if tensor["dtype"] != "BF16":
            sys.exit(f"plant_outliers.py: {name} is {tensor['dtype']}, not BF16")
        begin, end = (8 + length + offset for offset in tensor["data_offsets"])
        numbers = array.array("H", bytes(content[begin:end]))
        planted(name, tensor["shape"], numbers)
        content[begin:end] = numbers.tobytes()
    path.write_bytes(content)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path)
    options = parser.parse_args()
    shutil.copytree(options.model, options.output)
    plant(options.output / FILE)


if __name__ == "__main__":
    main()
