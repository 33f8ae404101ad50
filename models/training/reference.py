"""Draws `reference/requests.json` of a model folder with diffusers in fp32: what other programs must match."""

import argparse
import json
from pathlib import Path

import torch

from evaluate import Painter


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("model", type=Path)
    p.add_argument("--threads", type=int, default=2)
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    painter = Painter(args.model)
    for request in json.loads((args.model / "reference/requests.json").read_text()):
        picture = painter.pipe(
            request["prompt"], negative_prompt=request["negative_prompt"], num_inference_steps=request["steps"],
            guidance_scale=request["guidance_scale"], width=request["width"], height=request["height"],
            max_sequence_length=painter.tokens, generator=torch.Generator().manual_seed(request["seed"])).images[0]
        picture.save(args.model / "reference" / request["file"])


if __name__ == "__main__":
    main()
