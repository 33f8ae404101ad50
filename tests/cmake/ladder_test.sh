#!/usr/bin/env bash
# ladder_test.sh CMAKE_FOLDER: a tiny project built with Fresco's own CMake functions, in which a lower rung reaches for a
# higher one: by a dependency it must not configure, by an #include it must not compile.
set -euo pipefail
cmake_folder=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# project LOW_DEPS LOW_INCLUDE
project() {
  rm -rf "$work/project"
  mkdir -p "$work/project/low" "$work/project/high"
  cat >"$work/project/CMakeLists.txt" <<TEXT
cmake_minimum_required(VERSION 3.25)
project(ladder LANGUAGES CXX)
include("$cmake_folder/FrescoBuild.cmake")
add_subdirectory(low)
add_subdirectory(high)
TEXT
  echo "fresco_library(fresco_low RUNG checkpoint SOURCES low.cc $1)" >"$work/project/low/CMakeLists.txt"
  echo "fresco_library(fresco_high RUNG engine SOURCES high.cc DEPS fresco_low)" >"$work/project/high/CMakeLists.txt"
  echo "#include \"$2\"" >"$work/project/low/low.cc"
  echo "#pragma once" | tee "$work/project/low/low.h" >"$work/project/high/high.h"
  echo '#include "low/low.h"' >"$work/project/high/high.cc"
}
configure() { cmake -G Ninja -S "$work/project" -B "$work/project/build" >"$work/log" 2>&1; }
build() { cmake --build "$work/project/build" >"$work/log" 2>&1; }
expect() { grep -q "$1" "$work/log" || { cat "$work/log"; echo "expected: $1"; exit 1; }; }
fail() { cat "$work/log"; echo "$1"; exit 1; }

project "" low/low.h
configure && build || fail "a dependency downwards must build"

project "DEPS fresco_high" low/low.h
! configure || fail "a dependency upwards configured"
expect "may not depend on fresco_high"

project "DEPS fresco_nobody" low/low.h
! configure || fail "a dependency on nothing configured"
expect "fresco_nobody, which is no target"

project "" high/high.h
configure || fail "the project with a forbidden include must configure"
! build || fail "an include upwards compiled"
expect "high/high.h"
