// A single file of a whole model: its names in each layout, its parts, what its shapes say of the transformer.
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "pipeline/checkpoint/single_file.h"
#include "pipeline/checkpoint/single_file_names.h"
#include "pipeline/models/mmdit_shape.h"
#include "tests/fuzz/checkpoint_checks.h"
#include "tests/fuzz/fuzz.h"

namespace fresco::fuzz {
namespace {

// What diffusers calls a tensor has a place in the layout, and what lies there is called the same again.
void CheckName(const SingleFileLayout& layout, std::string_view stored) {
  constexpr int64_t kBlocks = 10000;  // more than any name can count
  const std::optional<DiffusersName> name = ToDiffusers(layout.rules, kBlocks, stored);
  if (!name) return;
  Check(name->layers.size() == (name->form == LayerForm::kFused ? 3U : 1U), "a layer of too many parts:", stored);
  for (size_t part = 0; part < name->layers.size(); ++part) {
    const std::string diffusers = name->layers[part] + name->rest;
    const std::optional<SingleFileName> place = ToSingleFile(layout, kBlocks, diffusers);
    Check(place.has_value(), "a name without a place:", diffusers);
    Check(place->layer.starts_with(layout.root), "a name without its layout's root:", place->layer);
    const std::string back = place->layer.substr(layout.root.size()) + place->rest;
    const std::optional<DiffusersName> again = ToDiffusers(layout.rules, kBlocks, back);
    Check(again.has_value(), "a place without a name:", back);
    const size_t same = again->form == LayerForm::kFused ? static_cast<size_t>(place->part) : 0;
    Check(again->layers[same] + again->rest == diffusers, "a name that changes on the way there and back:", diffusers);
  }
}

void CheckTransformer(const WeightStore& store, const std::string& path) {
  const auto config = InferMmditConfig(store);
  if (!config.ok()) return CheckError(config.status(), path);
  Check(config->num_layers > 0 && config->dim() > 0 && config->patch_size > 0, "a transformer without layers");
  Check(CheckMmditConfig(*config, "config.json", store).ok(), "a configuration that does not fit where it is from");
}

}  // namespace
}  // namespace fresco::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fresco;        // NOLINT(google-build-using-namespace)
  using namespace fresco::fuzz;  // NOLINT(google-build-using-namespace)
  static const ScratchFolder folder;
  const std::string path = folder.Write("model.safetensors", fuzz::SafetensorsBytes(TextOf(data, size)));
  const auto file = SafetensorsFile::Open(path);
  if (!file.ok()) return 0;  // safetensors_fuzz.cc's
  for (const auto& [name, entry] : (*file)->entries()) {
    for (const SingleFileLayout& layout : SingleFileLayouts()) {
      if (name.starts_with(layout.root)) CheckName(layout, std::string_view(name).substr(layout.root.size()));
    }
  }
  const auto single = SingleFile::Open(path);
  if (!single.ok()) {
    CheckError(single.status(), path);
    return 0;
  }
  Check(!single->Components().empty(), "a model of nothing");
  for (const std::string& component : single->Components()) {
    const auto store = single->Component(component);
    Check(store.ok(), "a component that is not there:", component);
    CheckStore(*store, path);
    for (const std::string& stored : single->StoredNames(component)) {
      Check((*file)->Contains(stored), "a tensor that the file has not:", stored);
    }
    if (component == "transformer") CheckTransformer(*store, path);
  }
  return 0;
}
