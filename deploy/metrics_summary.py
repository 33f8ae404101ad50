#!/usr/bin/env python3
"""Prints what a fresco-server has done, for a person: latency and memory from its Prometheus metrics.

  metrics_summary.py http://127.0.0.1:9500/metrics
"""

import collections
import re
import sys
import urllib.request

SAMPLE = re.compile(r'^([A-Za-z_:][A-Za-z0-9_:]*)(?:\{(.*)\})?\s+(\S+)')
LABEL = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"')


def scrape(url):
    """{metric name: [(labels, value)]} of the text exposition at url."""
    samples = collections.defaultdict(list)
    with urllib.request.urlopen(url, timeout=10) as answer:
        for line in answer.read().decode().splitlines():
            if not line.startswith("#") and (match := SAMPLE.match(line)):
                samples[match[1]].append((dict(LABEL.findall(match[2] or "")), float(match[3])))
    return samples


def total(samples, name, **labels):
    return sum(value for have, value in samples[name] if all(have.get(k) == v for k, v in labels.items()))


def quantile(samples, name, q, **labels):
    """As Prometheus's histogram_quantile: linear within the bucket."""
    buckets = collections.Counter()
    for have, value in samples[name + "_bucket"]:
        if all(have.get(k) == v for k, v in labels.items()):
            buckets[float(have["le"])] += value
    edges = sorted(buckets)
    if not edges or buckets[edges[-1]] == 0:
        return None
    rank, below, low = q * buckets[edges[-1]], 0.0, 0.0
    for edge in edges:
        if buckets[edge] >= rank:
            if edge == float("inf"):
                return low
            return low + (edge - low) * (rank - below) / max(buckets[edge] - below, 1e-12)
        below, low = buckets[edge], edge
    return low


def mean(samples, name, **labels):
    count = total(samples, name + "_count", **labels)
    return total(samples, name + "_sum", **labels) / count if count else None


def seconds(value):
    if value is None:
        return "-"
    return f"{value * 1e3:.1f} ms" if value < 1 else f"{value:.2f} s"


def mebibytes(value):
    return f"{value / 2**20:.1f} MiB"


def rows(samples):
    yield "images drawn", f"{total(samples, 'fresco_images_total'):.0f}"
    yield "request latency", (f"p50 {seconds(quantile(samples, 'fresco_request_duration_seconds', 0.5))}, "
                              f"p95 {seconds(quantile(samples, 'fresco_request_duration_seconds', 0.95))}")
    yield "waiting in the queue", f"mean {seconds(mean(samples, 'fresco_queue_wait_seconds'))}"
    yield "one denoising step", f"mean {seconds(mean(samples, 'fresco_step_duration_seconds'))}, for {mean(samples, 'fresco_batch_size') or 0:.1f} images together"
    for stage in sorted({have["stage"] for have, _ in samples["fresco_stage_duration_seconds_count"] if "stage" in have}):
        yield f"stage {stage}", f"mean {seconds(mean(samples, 'fresco_stage_duration_seconds', stage=stage))}"
    hits, misses = total(samples, "fresco_prompt_cache_hits_total"), total(samples, "fresco_prompt_cache_misses_total")
    yield "prompt cache", f"{hits:.0f} hits, {misses:.0f} misses"
    for have, value in sorted(samples["fresco_device_memory_bytes"], key=lambda s: sorted(s[0].items())):
        yield f"memory on {have.get('device', '?')}", f"{mebibytes(value)} {have.get('kind', '')}"
    yield "process, resident", mebibytes(total(samples, "process_resident_memory_bytes"))
    yield "model load", seconds(total(samples, "fresco_model_load_seconds"))


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__.strip())
    samples = scrape(sys.argv[1])
    table = list(rows(samples))
    width = max(len(name) for name, _ in table)
    print("\nFrom the metrics:")
    for name, value in table:
        print(f"  {name:<{width}}  {value}")


if __name__ == "__main__":
    main()
