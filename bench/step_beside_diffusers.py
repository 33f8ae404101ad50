#!/usr/bin/env python3
"""One step of SD3.5's transformer beside diffusers' SD3Transformer2DModel: same shape, type, threads and machine, in turns.

  step_beside_diffusers.py FRESCO_MODEL [--preset sd3.5-medium] [--layers 4] [--precision bf16] [--size 512 512] [--batch 1 4]

Needs a Python with diffusers (./dev reference). Both have random weights; guidance is off, so that a batch of N is N samples.
Prints medians and their ratio, and a JSON line.
"""

import argparse
import json
import os
import statistics
import subprocess
import time

import torch
from diffusers import SD3Transformer2DModel

# What the published transformer/config.json of each says.
SHAPES = {
    "sd3.5-medium": dict(num_layers=24, num_attention_heads=24, caption_projection_dim=1536, pos_embed_max_size=384, dual=13),
    "sd3.5-large": dict(num_layers=38, num_attention_heads=38, caption_projection_dim=2432, pos_embed_max_size=192, dual=0),
}
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TEXT_TOKENS = 333


def transformer(preset, layers, precision):
    shape = dict(SHAPES[preset])
    dual = shape.pop("dual")
    shape["num_layers"] = layers or shape["num_layers"]
    dual_layers = tuple(range(min(dual, shape["num_layers"])))
    torch.set_default_dtype(TYPES[precision])
    model = SD3Transformer2DModel(sample_size=128, patch_size=2, in_channels=16, out_channels=16, attention_head_dim=64,
                                  joint_attention_dim=4096, pooled_projection_dim=2048, qk_norm="rms_norm",
                                  dual_attention_layers=dual_layers, **shape)
    torch.set_default_dtype(torch.float32)
    return model.eval()


def diffusers_steps(model, precision, size, batch, steps):
    kind = TYPES[precision]
    width, height = size
    arguments = dict(hidden_states=torch.randn(batch, 16, height // 8, width // 8, dtype=kind),
                     encoder_hidden_states=torch.randn(batch, TEXT_TOKENS, 4096, dtype=kind),
                     pooled_projections=torch.randn(batch, 2048, dtype=kind), timestep=torch.full((batch,), 500.0))
    seconds = []
    with torch.inference_mode():
        for _ in range(steps + 1):
            begin = time.perf_counter()
            model(**arguments)
            seconds.append(time.perf_counter() - begin)
    return seconds[1:]  # the first warms up


def fresco_step(options, batch):
    command = [options.program, "bench", "--preset", options.preset, "--layers", str(options.layers), "--precision", options.precision,
               "--width", str(options.size[0]), "--height", str(options.size[1]), "--guidance", "1", "--batch", str(batch),
               "--text-tokens", str(TEXT_TOKENS), "--steps", str(options.steps), "--threads", str(options.threads), "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["step_seconds"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--preset", choices=SHAPES, default="sd3.5-medium")
    parser.add_argument("--layers", type=int, default=4, help="0: all")
    parser.add_argument("--precision", choices=TYPES, default="bf16")
    parser.add_argument("--size", type=int, nargs=2, default=[512, 512])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = transformer(options.preset, options.layers, options.precision)
    rows = []
    print(f"{options.preset}, {options.layers or 'all'} layers, {options.precision}, {options.size[0]}x{options.size[1]}, {options.threads} threads, "
          f"seconds a step (median of {options.rounds} rounds in turns):")
    print("batch   diffusers   fresco  speed-up")
    for batch in options.batch:
        theirs, ours = [], []
        for _ in range(options.rounds):
            theirs += diffusers_steps(model, options.precision, options.size, batch, options.steps)
            ours.append(fresco_step(options, batch))
        row = dict(batch=batch, diffusers_seconds=statistics.median(theirs), fresco_seconds=statistics.median(ours))
        row["speedup"] = row["diffusers_seconds"] / row["fresco_seconds"]
        rows.append(row)
        print(f"{batch:5} {row['diffusers_seconds']:11.3f} {row['fresco_seconds']:8.3f} {row['speedup']:8.2f}x", flush=True)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
