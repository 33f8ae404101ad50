#!/usr/bin/env bash
# descriptors.sh [FILE]: writes the descriptor set that Envoy's JSON transcoder reads (default: deploy/envoy/fresco.binpb, which is committed:
# run this after a change of proto/fresco/v1). It holds google/rpc/error_details.proto too, without which errors would lose their details.
# Takes protoc (protobuf-compiler), else grpc_tools of PYTHON; google/api and google/rpc come from FRESCO_GOOGLEAPIS_ROOT, else from .deps.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
out=$(realpath -m "${1:-$root/deploy/envoy/fresco.binpb}")
google=${FRESCO_GOOGLEAPIS_ROOT:-}
if [ -z "$google" ]; then
  status=$(compgen -G "$root/.deps/venv/lib/python3*/site-packages/google/rpc/status.proto" | head -n 1) ||
    { echo "descriptors.sh: googleapis-common-protos is missing: run ./dev setup, or set FRESCO_GOOGLEAPIS_ROOT" >&2; exit 1; }
  google=${status%/google/rpc/status.proto}
fi
if command -v protoc >/dev/null; then protoc=(protoc); else protoc=("${PYTHON:-python3}" -m grpc_tools.protoc); fi
"${protoc[@]}" -I"$root/proto" -I"$google" --include_imports --descriptor_set_out="$out" \
  fresco/v1/image_generation.proto fresco/v1/operations.proto google/rpc/error_details.proto
