#!/usr/bin/env python3
"""Plants outliers in a diffusers folder of SD3.5: plant_outliers.py MODEL OUTPUT

The copy draws the same pictures, exactly, but the values that its attentions hand to their output projections are 1024
times larger in every second channel: static scales that were made for the original saturate there. Attention sums up v,
so what the rows of the v projections gain, the columns that read the sum lose; powers of two round nothing.
"""

import argparse
import pathlib
import shutil

from safetensors import safe_open
from safetensors.torch import save_file

FACTOR = 1024
FILE = "transformer/diffusion_pytorch_model.safetensors"


def planted(name, tensor):
    layer, kind = name.rsplit(".", 1)
    if layer.endswith((".to_v", ".add_v_proj")):
        tensor[::2] *= FACTOR
    elif layer.endswith((".to_out.0", ".to_add_out")) and kind == "weight":
        tensor[:, ::2] /= FACTOR
    return tensor


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path)
    options = parser.parse_args()
    shutil.copytree(options.model, options.output)
    with safe_open(options.output / FILE, "pt") as file:
        tensors = {name: planted(name, file.get_tensor(name).clone()) for name in file.keys()}
    save_file(tensors, options.output / FILE)


if __name__ == "__main__":
    main()
