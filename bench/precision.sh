#!/usr/bin/env bash
# The precisions on the demo model: how near their pictures are to fp32's, what calibration and the two remedies bring,
# and how a quantised folder loads. Half an hour on two cores; docs/PRECISION.md has what it printed.
#   bench/precision.sh        after ./dev build and ./dev reference
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
tool=build/bin/fresco-model
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

say() { printf '\n== %s\n' "$*"; }
# Progress only where somebody watches.
quietly() { if [ -t 2 ]; then "$@"; else "$@" 2>"$work/err" || { cat "$work/err" >&2; return 1; }; fi; }
compare() { quietly "$tool" compare "$@"; }
rows() { compare "$@" | grep -E '^(precision|fp32|fp8|int8|bf16)  ? '; }

head -n 8 bench/prompts.txt >"$work/eight.txt"

say "32 prompts, 20 steps"
compare models/demo --prompts bench/prompts.txt --precisions fp32,bf16,fp8,fp8-weight-only,int8

say "the same, fp8 calibrated on 24 other prompts"
quietly "$tool" calibrate models/demo --prompts bench/calibration_prompts.txt --output "$work/calibration.json"
rows models/demo --prompts bench/prompts.txt --precisions fp32,fp8 --calibration "$work/calibration.json"

say "attention in fp8 as well: as it is, and calibrated"
rows models/demo --prompts bench/prompts.txt --precisions fp32,fp8 --attention fp8
rows models/demo --prompts bench/prompts.txt --precisions fp32,fp8 --attention fp8 --calibration "$work/calibration.json"

say "60 steps, fp8 as it is: without and with noise correction, which was fitted on the 24 prompts"
quietly "$tool" calibrate models/demo --prompts bench/calibration_prompts.txt --steps 60 --sensitivity-samples 0 \
  --rounding-samples 0 --output "$work/noise.json"
for flag in --no-noise-correction --noise-correction; do
  echo "$flag"
  rows models/demo --prompts bench/prompts.txt --precisions fp32,fp8 --steps 60 --calibration "$work/noise.json" $flag
done

say "60 steps, fp8 calibrated: without and with noise correction"
for flag in --no-noise-correction --noise-correction; do
  echo "$flag"
  rows models/demo --prompts bench/prompts.txt --precisions fp32,fp8 --steps 60 --calibration "$work/calibration.json" $flag
done

say "outliers planted in every second channel of v; static scales of the model without them"
python3 bench/plant_outliers.py models/demo "$work/planted"
for flag in --no-overflow-guard ""; do
  echo "static scales ${flag:-with the guard}"
  # shellcheck disable=SC2086
  rows "$work/planted" --prompts "$work/eight.txt" --precisions fp32,fp8 --calibration "$work/noise.json" --steps 20 \
    --no-noise-correction --static-scales $flag
done

say "loading the transformer: quantised at load, and quantised before"
quietly "$tool" quantize models/demo --precision fp8 --output "$work/fp8"
for model in models/demo "$work/fp8"; do quietly "$tool" bench "$model" --precision fp8 --steps 1; done
