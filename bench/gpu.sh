#!/usr/bin/env bash
# gpu.sh [OPTIONS] [-- BENCH_ARGS...]: on a machine with a GPU, builds the pipeline alone (no gRPC), runs the device tests, and
# measures a step of SD3.5 in fp16, fp8, int8 and fp8-weight-only. Writes the figures, with the GPU's name, as Markdown and JSON.
#   --device D      what to measure on [cuda:0]
#   --output FILE   without its ending [out/gpu-NAME]
#   --no-setup      install nothing: everything is there
#   --no-build      build-pipeline/ is built (elsewhere, for this processor, with FRESCO_CUDA=ON)
#   BENCH_ARGS      fresco-model bench's: -- --width 512 --height 512
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

device=cuda:0 output="" setup=yes build=yes
while [ $# -gt 0 ]; do
  case "$1" in
    --device) device=$2; shift ;;
    --output) output=$2; shift ;;
    --no-setup) setup=no ;;
    --no-build) setup=no build=no ;;
    --) shift; break ;;
    *) sed -n '2,8s/^# //p' "$0" >&2; exit 2 ;;
  esac
  shift
done

folder=build-pipeline
tests=(device_rows_test device_kernels_test device_mmdit_test device_autoencoder_test device_step_test device_pictures_test)
targets=(fresco-model fresco_cuda "${tests[@]}")
[ $setup = no ] || FRESCO_CUDA=ON ./dev setup
if [ $build = yes ]; then
  cmake --preset pipeline -DFRESCO_CUDA=ON
  cmake --build $folder -j "${FRESCO_JOBS:-$(nproc)}" --target "${targets[@]}"
fi

# The figures are worth having even where a test fails. On a GPU none may have been skipped.
status=0
for test in "${tests[@]}"; do
  log=$($folder/tests/$test --gtest_brief=1 2>&1) || status=1
  uniq <<<"$log"
  case "$device,$log" in cuda*SKIPPED*) status=1 ;; esac
done
python3 bench/gpu_table.py $folder/bin/fresco-model --device "$device" ${output:+--output "$output"} -- "$@"
[ $status = 0 ] || { echo "gpu.sh: device tests failed: see above" >&2; exit 1; }
