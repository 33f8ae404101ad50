// The model that a benchmark measures, and what a benchmark does when it cannot go on.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "pipeline/engine/load.h"

namespace fresco {

[[noreturn]] inline void Die(const absl::Status& status) {
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  std::exit(1);
}

template <typename T>
T OrDie(absl::StatusOr<T> value) {
  if (!value.ok()) Die(value.status());
  return *std::move(value);
}

// FRESCO_BENCH_MODEL, FRESCO_BENCH_PRECISION and FRESCO_BENCH_DEVICE; else models/demo, `precision`, cpu.
inline LoadOptions BenchModel(const char* precision) {
  const auto from_environment = [](const char* name, const char* otherwise) {
    const char* value = std::getenv(name);
    return std::string(value != nullptr ? value : otherwise);
  };
  LoadOptions options;
  options.name = "bench";
  options.path = from_environment("FRESCO_BENCH_MODEL", "models/demo");
  options.precision = from_environment("FRESCO_BENCH_PRECISION", precision);
  options.device = from_environment("FRESCO_BENCH_DEVICE", "cpu");
  return options;
}

}  // namespace fresco
