#!/usr/bin/env python3
"""Seconds per step and per image of SD3.5's transformer by precision, beside what the device could do at best.

  gpu_table.py FRESCO_MODEL [--device cuda:0] [--presets P,...] [--precisions P,...] [--output FILE] [-- BENCH_ARGS...]

Runs `fresco-model bench` (random weights) for each, prints a table, and writes it to FILE.md and the figures to FILE.json. A
precision's speed is of steps that took turns with steps of the first precision, so that a machine whose speed changes from
minute to minute changes both. A precision that fails is named with its message, and the exit code is 1.
"""

import argparse
import json
import os
import re
import subprocess
import sys

# Inner dimension, layers, and how many of these have the image's own attention too (docs/facts/sd35.md).
SHAPES = {"sd3.5-medium": (1536, 24, 13), "sd3.5-large": (2432, 38, 0), "sd3.5-large-turbo": (2432, 38, 0)}

# Dense TFLOP/s of the tensor cores by the data sheets: 16 bits, 8 bits. The first name that the device's contains.
PEAKS = {"H200": (989, 1979), "H100 PCIe": (756, 1513), "H100": (989, 1979), "L40S": (362, 733), "A100": (312, 624)}


def device_name(device):
    if device.startswith("cuda"):
        index = device.partition(":")[2] or "0"
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader", "-i", index]
        try:
            return subprocess.run(query, check=True, capture_output=True, text=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError) as error:
            sys.exit(f"gpu_table.py: {device}: {error}")
    with open("/proc/cpuinfo") as info:
        return re.search(r"model name\s*: (.*)", info.read()).group(1)


def tflop_per_step(preset, layers, width, height, text_tokens, batch, guidance):
    """Of the blocks' linears, and of attention: a forward of every sample."""
    dim, all_layers, dual = SHAPES[preset]
    layers = layers or all_layers
    dual = min(dual, layers)
    image = (width // 16) * (height // 16)
    samples = batch * (2 if guidance > 1 else 1)
    linears = 24 * dim**2 * (image + text_tokens) * layers + 8 * dim**2 * image * dual
    attention = 4 * dim * ((image + text_tokens) ** 2 * layers + image**2 * dual)
    return samples * linears / 1e12, samples * attention / 1e12


def least_seconds(name, precision, linears, attention):
    """Where every product runs at its type's peak; attention is in 16 bits always. None for a device that is not known."""
    for known, (wide, narrow) in PEAKS.items():
        if known in name:
            return linears / (narrow if precision in ("fp8", "int8") else wide) + attention / wide
    return None


def measure(program, device, preset, precision, beside, bench_args):
    command = [program, "bench", "--preset", preset, "--device", device, "--precision", precision, "--json", *bench_args]
    if precision != beside:
        command += ["--beside", beside]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout)
    said = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("(--help")]
    return {"error": said[-1] if said else f"exit code {done.returncode}"}


def row(figures, name):
    if "error" in figures:
        return f"| {figures['preset']} | {figures['asked']} | {figures['error']} |" + " |" * 7
    step, gib = figures["step_seconds"], 1 << 30
    linears, attention = figures["tflop_linears"], figures["tflop_attention"]
    least = least_seconds(name, figures["precision"], linears, attention)
    gain = f"{figures['beside']['speed']:.3f} ×" if "beside" in figures else "1"
    share = f"{least / step:.0%}" if least else "–"
    precision = figures["precision"] if figures["precision"] == figures["asked"] else f"{figures['asked']} ({figures['precision']})"
    return (f"| {figures['preset']} | {precision} | {step:.4f} | {28 * step:.2f} | {30 * step:.2f} | {gain} "
            f"| {(linears + attention) / step:.1f} | {share} "
            f"| {figures['weight_bytes'] / gib:.2f} | {figures['peak_memory_bytes'] / gib:.2f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--presets", default="sd3.5-large,sd3.5-medium")
    parser.add_argument("--precisions", default="fp16,fp8,int8,fp8-weight-only", help="the first is what the others are compared with")
    parser.add_argument("--output", help="without its ending [out/gpu-NAME]")
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    options, bench_args = parser.parse_args(sys.argv[1:split]), sys.argv[split + 1:]

    name = device_name(options.device)
    layers = argparse.ArgumentParser(add_help=False)
    layers.add_argument("--layers", type=int, default=0)
    layers.add_argument("--text-tokens", type=int, default=333)
    known = layers.parse_known_args(bench_args)[0]

    lines = ["| shape | precision | step, s | 28 steps, s | 30 steps, s | speed | TFLOP/s | of the roofline | weights, GiB | peak, GiB |",
             "|---|---|---|---|---|---|---|---|---|---|"]
    results = []
    precisions = options.precisions.split(",")
    for preset in options.presets.split(","):
        for precision in precisions:
            figures = {"preset": preset, "asked": precision,
                       **measure(options.program, options.device, preset, precision, precisions[0], bench_args)}
            if "error" not in figures:
                figures["tflop_linears"], figures["tflop_attention"] = tflop_per_step(
                    preset, known.layers, figures["width"], figures["height"], known.text_tokens, figures["batch"], figures["guidance"])
            results.append(figures)
            lines.append(row(figures, name))
            print(lines[-1], file=sys.stderr)

    first = next((r for r in results if "error" not in r), None)
    what = f"{name}: the transformer alone, random weights"
    if first:
        what += f", {first['width']}×{first['height']}, batch {first['batch']}, guidance {first['guidance']}, {known.text_tokens} text tokens"
        what += f", {known.layers} layers" if known.layers else ""
        what += f", median of {first['steps_measured']} steps"
    table = "\n".join([what, "", *lines, ""])
    output = options.output or "out/gpu-" + re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")
    os.makedirs(os.path.dirname(output) or ".", exist_ok=True)
    with open(output + ".md", "w") as file:
        file.write(table)
    with open(output + ".json", "w") as file:
        json.dump({"device": name, "results": results}, file, indent=1)
    print(table)
    print(f"{output}.md, {output}.json")
    return 1 if any("error" in r for r in results) else 0


if __name__ == "__main__":
    sys.exit(main())
