// fresco.yaml, which comes with a model.
#include <optional>
#include <string>

#include "pipeline/engine/model_defaults.h"
#include "tests/fuzz/fuzz.h"

namespace fresco::fuzz {
namespace {

template <typename T>
bool Within(const std::optional<T>& value, T min, T max) {
  return !value || (*value >= min && *value <= max);
}

void CheckDefaults(const ModelDefaults& defaults) {
  Check(Within(defaults.steps, 1, 1000), "steps out of range");
  Check(Within(defaults.width, 1, 16384) && Within(defaults.height, 1, 16384), "a size out of range");
  Check(Within(defaults.max_sequence_length, 1, 512), "max_sequence_length out of range");
  Check(Within(defaults.guidance_scale, 0.0F, 30.0F), "guidance_scale out of range");
  for (const LayerTable::Rule& rule : defaults.layers) {
    Check(!rule.pattern.empty() && !rule.origin.empty(), "a rule of nothing, or from nowhere");
    // Any pattern against any name: in the time that it takes to read both, more or less.
    (void)MatchesPattern(rule.pattern, "transformer_blocks.11.ff_context.net.0.proj");
  }
}

}  // namespace
}  // namespace fresco::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fresco::fuzz;  // NOLINT(google-build-using-namespace)
  static const ScratchFolder folder;
  const std::string path = folder.Write("fresco.yaml", TextOf(data, size));
  const auto defaults = fresco::ReadModelDefaults(path);
  if (defaults.ok()) {
    CheckDefaults(*defaults);
  } else {
    CheckError(defaults.status(), path);
  }
  return 0;
}
