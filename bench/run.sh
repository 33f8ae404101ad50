#!/usr/bin/env bash
# run.sh BUILD_FOLDER [GOOGLE_BENCHMARK_ARGS...]: every benchmark; the comparison with diffusers where ./dev reference has been run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
build=$1
shift
"$build/bin/engine_bench" "$@"
"$build/bin/service_bench" "$@"
# Threads wait for each other as the server's do. It fails where sharing steps or scheduling is not what docs/SCHEDULING.md promises.
OMP_WAIT_POLICY=passive "$build/bin/scheduling_overhead"
OMP_WAIT_POLICY=passive "$build/bin/decode_overlap"
"$build/bin/products_bench"
# It fails where inspect --activations makes a step more than twice as long.
"$build/bin/inspection_cost"
# The service alone, with an engine that draws nothing; it fails when a goal of docs/RELIABILITY.md is missed.
"$build/bin/service_load"
if [ -x .deps/reference/bin/python ]; then
  .deps/reference/bin/python bench/against_diffusers.py "$build/bin/draw_on_demand" models/demo
  .deps/reference/bin/python bench/step_beside_diffusers.py "$build/bin/fresco-model"
else
  echo "For images per second beside diffusers: ./dev reference, then ./dev bench again."
fi
# Ten minutes on one core; it fails when a promise of docs/SCHEDULING.md is not kept.
"$build/bin/scheduler_bench"
