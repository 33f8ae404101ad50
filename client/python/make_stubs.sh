#!/usr/bin/env bash
# make_stubs.sh FOLDER: Python stubs of fresco.v1 (needs grpcio-tools and googleapis-common-protos). PYTHON chooses the interpreter.
set -euo pipefail
out=$1
python=${PYTHON:-python3}
proto=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../proto" && pwd)
google=$("$python" -c 'import os, google.rpc; print(os.path.dirname(os.path.dirname(list(google.rpc.__path__)[0])))')
mkdir -p "$out"
out=$(realpath "$out")
cd "$proto"
"$python" -m grpc_tools.protoc -I"$proto" -I"$google" --python_out="$out" --pyi_out="$out" --grpc_python_out="$out" fresco/v1/*.proto
