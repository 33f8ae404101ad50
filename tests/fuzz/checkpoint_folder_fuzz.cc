// A folder of weights: which of its files are taken, an index and its shards, variants.
#include <algorithm>
#include <cctype>
#include <string>
#include <string_view>
#include <vector>

#include "pipeline/checkpoint/weights.h"
#include "tests/fuzz/checkpoint_checks.h"
#include "tests/fuzz/fuzz.h"

namespace fresco::fuzz {
namespace {

// What can be a file in the scratch folder, and nowhere else.
bool IsFileName(std::string_view name) {
  const auto plain = [](unsigned char c) { return std::isalnum(c) != 0 || c == '.' || c == '-' || c == '_'; };
  return !name.empty() && name.size() <= 64 && name.front() != '.' && std::all_of(name.begin(), name.end(), plain);
}

void WriteAll(const std::vector<Section>& sections, const ScratchFolder& folder) {
  constexpr size_t kMaxFiles = 8;
  for (size_t i = 0; i < std::min(sections.size(), kMaxFiles); ++i) {
    const auto& [name, content] = sections[i];
    if (!IsFileName(name)) continue;
    folder.Write(name, name.ends_with(".safetensors") ? SafetensorsBytes(content) : std::string(content));
  }
}

}  // namespace
}  // namespace fresco::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fresco;        // NOLINT(google-build-using-namespace)
  using namespace fresco::fuzz;  // NOLINT(google-build-using-namespace)
  static const ScratchFolder folder;
  const std::vector<Section> sections = Sections(TextOf(data, size));
  const std::string_view variant = ContentOf(sections, "variant");  // the caller's, not the file's
  WriteAll(sections, folder);
  const auto store = WeightStore::Open(folder.path(), kTransformersStem, IsFileName(variant) ? variant : "");
  if (store.ok()) {
    CheckStore(*store, folder.path());
    const WeightStore same = store->WithLayersOf(*store, [](std::string_view) { return true; });
    Check(same.Names() == store->Names(), "layers in the place of their own are others");
  } else {
    CheckError(store.status(), folder.path());
  }
  folder.Clear();
  return 0;
}
