#!/usr/bin/env bash
# make_stubs.sh: Go stubs of fresco.v1 in ./frescov1. Needs protoc, protoc-gen-go and protoc-gen-go-grpc (Debian: protobuf-compiler,
# protoc-gen-go, protoc-gen-go-grpc), and google/api/annotations.proto: of PyPI's googleapis-common-protos, or under FRESCO_GOOGLEAPIS_ROOT.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
python=${PYTHON:-$root/.deps/venv/bin/python}
[ -x "$python" ] || python=python3
google=${FRESCO_GOOGLEAPIS_ROOT:-$("$python" -c 'import os, google.rpc; print(os.path.dirname(os.path.dirname(list(google.rpc.__path__)[0])))')}
cd "$root/proto"
options=(module=fresco/client/go)
for proto in fresco/v1/*.proto; do options+=("M$proto=fresco/client/go/frescov1"); done
arguments=(--go_out="$here" --go-grpc_out="$here")
for option in "${options[@]}"; do arguments+=(--go_opt="$option" --go-grpc_opt="$option"); done
protoc -I"$root/proto" -I"$google" "${arguments[@]}" fresco/v1/*.proto
