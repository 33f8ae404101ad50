#!/usr/bin/env python3
"""One step of SD3.5's transformer beside diffusers' SD3Transformer2DModel: same shape, type, threads and machine, in turns.

  step_beside_diffusers.py FRESCO_MODEL [--preset sd3.5-medium] [--layers 4] [--precision bf16] [--size 512 512] [--batch 1 4]

  on a GPU: step_beside_diffusers.py FRESCO_MODEL --device cuda:0 --layers 0 --precision bf16 --ours fp8 --size 1024 1024
            --batch 1 16 --guidance 7 --compile --steps 10

Needs a Python with diffusers (./dev reference). Both have random weights of one distribution; with guidance an image is two samples.
With --compile diffusers' blocks are compiled too (torch.compile, by diffusers' compile_repeated_blocks). Prints medians and their
ratios, and a JSON line.
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
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TEXT_TOKENS = 333
WARM_UP = 2  # steps: the first compiles or allocates


def transformer(preset, layers, precision, device):
    shape = dict(SHAPES[preset])
    dual = shape.pop("dual")
    shape["num_layers"] = layers or shape["num_layers"]
    dual_layers = tuple(range(min(dual, shape["num_layers"])))
    torch.set_default_dtype(TYPES[precision])
    torch.set_default_device(device)
    model = SD3Transformer2DModel(sample_size=128, patch_size=2, in_channels=16, out_channels=16, attention_head_dim=64,
                                  joint_attention_dim=4096, pooled_projection_dim=2048, qk_norm="rms_norm",
                                  dual_attention_layers=dual_layers, **shape)
    torch.set_default_dtype(torch.float32)
    return model.eval()


def synchronize(device):
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def diffusers_steps(model, options, batch):
    kind = TYPES[options.precision]
    width, height = options.size
    arguments = dict(hidden_states=torch.randn(batch, 16, height // 8, width // 8, dtype=kind),
                     encoder_hidden_states=torch.randn(batch, TEXT_TOKENS, 4096, dtype=kind),
                     pooled_projections=torch.randn(batch, 2048, dtype=kind), timestep=torch.full((batch,), 500.0))
    seconds = []
    with torch.inference_mode():
        for _ in range(options.steps + WARM_UP):
            synchronize(options.device)
            begin = time.perf_counter()
            model(**arguments)
            synchronize(options.device)
            seconds.append(time.perf_counter() - begin)
    return seconds[WARM_UP:]


def fresco_step(options, batch):
    command = [options.program, "bench", "--preset", options.preset, "--layers", str(options.layers), "--precision", options.ours or options.precision,
               "--device", options.device,
               "--width", str(options.size[0]), "--height", str(options.size[1]), "--guidance", str(options.guidance), "--batch", str(batch),
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
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--guidance", type=float, default=1)
    parser.add_argument("--ours", help="our precision [--precision]")
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = transformer(options.preset, options.layers, options.precision, options.device)
    samples = 2 if options.guidance > 1 else 1
    rows = []
    print(f"{options.preset}, {options.layers or 'all'} layers, diffusers in {options.precision}, Fresco in {options.ours or options.precision}, "
          f"{options.size[0]}x{options.size[1]}, guidance {options.guidance:g}, {options.device}, seconds a step (medians of {options.rounds} rounds in turns):")
    for batch in options.batch:
        times = {"diffusers": [], "fresco": []}
        for _ in range(options.rounds):
            times["diffusers"] += diffusers_steps(model, options, batch * samples)
            times["fresco"].append(fresco_step(options, batch))
        rows.append({"batch": batch, **{f"{name}_seconds": statistics.median(taken) for name, taken in times.items()}})
    if options.compile:  # for good: so eager steps come first
        model.compile_repeated_blocks()
        for row in rows:
            row["compiled_seconds"] = statistics.median(diffusers_steps(model, options, row["batch"] * samples))
    for row in rows:
        row["speedup"] = row["diffusers_seconds"] / row["fresco_seconds"]
        line = f"batch {row['batch']}: diffusers {row['diffusers_seconds']:.4f}, Fresco {row['fresco_seconds']:.4f}, {row['speedup']:.2f} x"
        if options.compile:
            row["speedup_of_compiled"] = row["compiled_seconds"] / row["fresco_seconds"]
            line += f"; diffusers compiled {row['compiled_seconds']:.4f}, {row['speedup_of_compiled']:.2f} x"
        print(line, flush=True)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
