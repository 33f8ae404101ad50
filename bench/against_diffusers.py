#!/usr/bin/env python3
"""Images per second beside diffusers: same machine, checkpoint, type, threads and requests, drawn alternately in one run.

  against_diffusers.py BUILD/bin/draw_on_demand MODEL [--rounds 8] [--precision fp32] [--threads 2] [--size 128 128]

Needs a Python with diffusers (./dev reference). Prints a table of medians and their ratio, and a JSON line.
"""

import argparse
import json
import os
import statistics
import subprocess
import time

import torch
from diffusers import StableDiffusion3Pipeline

PROMPT = "a red apple on a light blue background"


class Fresco:
    def __init__(self, program, model, precision, threads):
        self.process = subprocess.Popen([program, model, precision, str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def draw(self, width, height, steps, guidance, seed, prompt):
        self.process.stdin.write(f"{width} {height} {steps} {guidance} {seed} {prompt}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Diffusers:
    def __init__(self, model, precision, threads, max_sequence_length):
        torch.set_num_threads(threads)
        self.pipeline = StableDiffusion3Pipeline.from_pretrained(model, torch_dtype={"fp32": torch.float32, "bf16": torch.bfloat16}[precision])
        self.pipeline.set_progress_bar_config(disable=True)
        self.max_sequence_length = max_sequence_length

    def draw(self, width, height, steps, guidance, seed, prompt):
        begin = time.perf_counter()
        self.pipeline(prompt, width=width, height=height, num_inference_steps=steps, guidance_scale=guidance,
                      max_sequence_length=self.max_sequence_length, generator=torch.Generator("cpu").manual_seed(seed))
        return time.perf_counter() - begin


def measure(options, precision):
    """{program: seconds of each image}, drawn in turn; the first round warms up and is not counted."""
    programs = {"diffusers": Diffusers(options.model, precision, options.threads, options.max_sequence_length),
                "fresco": Fresco(options.program, options.model, precision, options.threads)}
    seconds = {name: [] for name in programs}
    for seed in range(options.rounds + 1):
        for name, program in programs.items():
            taken = program.draw(*options.size, options.steps, options.guidance, seed, f"{PROMPT} {seed}")
            if seed > 0:
                seconds[name].append(taken)
    programs["fresco"].close()
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--precision", nargs="+", choices=["fp32", "bf16"], help="default: fp32, and bf16 where oneDNN has it for this processor")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--size", type=int, nargs=2, default=[128, 128])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--max-sequence-length", type=int, default=16)
    options = parser.parse_args()

    if options.precision is None:
        options.precision = ["fp32"]
        # Elsewhere diffusers takes 14 s for 4 steps.
        if torch.ops.mkldnn._is_mkldnn_bf16_supported():
            options.precision.append("bf16")
        else:
            print("bf16 is left out: this processor does not compute in it (--precision bf16 draws all the same)", flush=True)

    rows = []
    for precision in options.precision:
        seconds = measure(options, precision)
        median = {name: statistics.median(values) for name, values in seconds.items()}
        rows.append({"precision": precision, "diffusers_seconds": median["diffusers"], "fresco_seconds": median["fresco"],
                     "speedup": median["diffusers"] / median["fresco"]})
    print(f"{options.size[0]}x{options.size[1]}, {options.steps} steps, guidance {options.guidance}, {options.threads} threads, "
          f"{options.rounds} images each, seconds per image (median):")
    print(f"{'precision':<10}{'diffusers':>11}{'fresco':>9}{'speed-up':>10}")
    for row in rows:
        print(f"{row['precision']:<10}{row['diffusers_seconds']:>11.3f}{row['fresco_seconds']:>9.3f}{row['speedup']:>9.2f}x")
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
