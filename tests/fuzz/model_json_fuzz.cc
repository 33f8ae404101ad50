// A component's config.json and a model's index, as a tree and as the configurations that are read from it.
#include <nlohmann/json.hpp>
#include <string>

#include "pipeline/checkpoint/json_config.h"
#include "pipeline/checkpoint/json_parse.h"
#include "pipeline/diffusion/schedule.h"
#include "pipeline/engine/model_source.h"
#include "pipeline/models/mmdit_config.h"
#include "tests/fuzz/fuzz.h"

namespace fresco::fuzz {
namespace {

constexpr int kDepth = 32;  // JsonConfig's

// What was parsed is the same after it was printed, and no deeper than it may be.
void CheckTree(std::string_view text) {
  const auto tree = ParseJson(text, kDepth);
  if (!tree.ok()) return Check(IsPrintable(std::string(tree.status().message())), "an error that is not printable");
  const std::string printed = tree->dump();
  const auto again = ParseJson(printed, kDepth);
  Check(again.ok() && *again == *tree && again->dump() == printed, "JSON that changes when it is printed:", printed);
}

template <typename T>
void CheckValue(const absl::StatusOr<T>& value, const std::string& path) {
  if (!value.ok()) CheckError(value.status(), path);
}

// Of any type a key is asked for, there is a value or an error that names file and key.
void CheckKeys(const JsonConfig& config) {
  const std::string& path = config.path();
  for (const std::string& key : config.Keys()) {
    CheckValue(config.Int(key, 7, -100, 1 << 20), path);
    CheckValue(config.Double(key, {}), path);
    CheckValue(config.Bool(key, false), path);
    CheckValue(config.String(key, {}), path);
    CheckValue(config.Ints(key, {}, 0, 1 << 20), path);
    CheckValue(config.Strings(key, {}), path);
    if (const auto value = config.Int(key, 7, 0, 9); value.ok()) Check(*value >= 0 && *value <= 9, "out of range");
    CheckError(config.Error(key, "wrong"), path);
  }
}

void CheckTransformer(const absl::StatusOr<MmditConfig>& config, const std::string& path) {
  if (!config.ok()) return CheckError(config.status(), path);
  Check(config->num_layers > 0 && config->dim() > 0 && config->patch_size > 0 && config->sample_size > 0,
        "a transformer of nothing");
  for (const int64_t layer : config->dual_attention_layers) {
    Check(layer >= 0 && layer < config->num_layers && config->dual_attention(layer), "a layer that is not there");
  }
}

void CheckSchedule(const absl::StatusOr<ScheduleConfig>& config, const std::string& path) {
  if (!config.ok()) return CheckError(config.status(), path);
  Check(config->shift > 0 && config->shift <= 1000 && config->train_timesteps > 0, "a schedule of nothing");
}

// A folder that has nothing but the index.
void CheckIndex(const absl::StatusOr<ModelSource>& source, const std::string& folder) {
  if (!source.ok()) return CheckError(source.status(), folder);
  Check(source->Has("vae"), "a model without what every model has");
  CheckError(source->CheckComplete(), folder);
  CheckError(source->TransformerConfig().status(), folder);
}

}  // namespace
}  // namespace fresco::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fresco;        // NOLINT(google-build-using-namespace)
  using namespace fresco::fuzz;  // NOLINT(google-build-using-namespace)
  static const ScratchFolder folder;
  const std::string_view text = TextOf(data, size);
  CheckTree(text);
  const std::string path = folder.Write("config.json", text);
  const auto config = JsonConfig::Open(path);
  if (config.ok()) {
    CheckKeys(*config);
  } else {
    CheckError(config.status(), path);
  }
  CheckTransformer(ReadMmditConfig(folder.path()), path);
  CheckSchedule(ReadScheduleConfig(path), path);
  folder.Write("model_index.json", text);
  CheckIndex(ModelSource::Open(folder.path(), ""), folder.path());
  return 0;
}
