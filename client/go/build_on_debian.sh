#!/usr/bin/env bash
# build_on_debian.sh [FILE]: builds the example (default: ./draw) with Debian's own Go packages, without a module proxy:
#   apt-get install golang-go protobuf-compiler protoc-gen-go protoc-gen-go-grpc golang-google-grpc-dev golang-google-protobuf-dev golang-google-genproto-dev
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=$(realpath "${1:-$here/draw}")
"$here/make_stubs.sh"
# Debian's packages are a GOPATH; ours joins them as one more. Its gRPC is installed with golang/protobuf 1.3, which panics at today's generated
# messages; 1.5 knows them, but the two packages exclude each other, so that this one is unpacked beside.
path=$(mktemp -d)
trap 'rm -rf "$path"' EXIT
(cd "$path" && apt-get download golang-github-golang-protobuf-1-5-dev && dpkg -x golang-github-golang-protobuf-1-5-dev_*.deb newer)
mkdir -p "$path/src/fresco/client"
ln -s "$here" "$path/src/fresco/client/go"
cd "$path/src/fresco/client/go"
# Without cgo: no C compiler is needed.
export GO111MODULE=off GOFLAGS= CGO_ENABLED=0 GOPATH=$path:$path/newer/usr/share/gocode:/usr/share/gocode
go vet fresco/client/go
go build -o "$out" fresco/client/go
