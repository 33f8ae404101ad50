#include "tests/fuzz/checkpoint_checks.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <string_view>
#include <vector>

#include "pipeline/checkpoint/dtype.h"
#include "pipeline/checkpoint/nonfinite.h"
#include "tests/fuzz/fuzz.h"

namespace fresco::fuzz {
namespace {

void CheckTensor(const WeightStore& store, const std::string& name, const std::string& path) {
  const SafetensorsFile::Entry* const entry = store.FindEntry(name);
  Check(entry != nullptr && store.Contains(name), "a name without a tensor:", name);
  const absl::StatusOr<TensorView> tensor = store.Find(name);
  const std::optional<DType> dtype = ParseDType(entry->dtype_name);
  Check(tensor.ok() == dtype.has_value(), "a tensor is found, or not, in spite of its type:", name);
  if (!tensor.ok()) return CheckError(tensor.status(), path);
  Check(tensor->dtype == *dtype && tensor->shape == entry->shape, "another tensor is found than was named:", name);
  Check(tensor->numel() >= 0 && tensor->bytes == static_cast<uint64_t>(tensor->numel() * DTypeBytes(*dtype)),
        "a tensor of another size than its shape:", name);
  Touch({tensor->data, tensor->bytes});
  (void)HasNonFinite(*tensor);
}

void CheckWeight(const StoredWeight& weight, int64_t out) {
  const size_t scales = weight.scale.size();
  Check(scales <= 1 || scales == static_cast<size_t>(out), "as many scales as neither one nor the rows");
  Check(weight.codes != StoredWeight::Codes::kPlain || scales == 0, "a scale of a plain weight");
  const auto good = [](float scale) { return std::isfinite(scale) && scale > 0; };
  Check(std::all_of(weight.scale.begin(), weight.scale.end(), good), "a scale that is no positive number");
  Check(!weight.input_scale || good(*weight.input_scale), "an input's scale that is no positive number");
  Check(!weight.source.empty(), "a weight from nowhere");
}

QuantizationMetadata MetadataOf(const WeightStore& store, const std::string& path) {
  const auto text = store.metadata().find(std::string(kQuantizationMetadataKey));
  if (text == store.metadata().end()) return {};
  absl::StatusOr<QuantizationMetadata> metadata = QuantizationMetadata::Parse(text->second, store.path());
  if (metadata.ok()) return *std::move(metadata);
  CheckError(metadata.status(), path);
  return {};
}

}  // namespace

void CheckStore(const WeightStore& store, const std::string& path) {
  const std::vector<std::string> names = store.Names();
  Check(std::is_sorted(names.begin(), names.end()), "names are not sorted");
  int64_t bytes = 0;
  for (const std::string& name : names) {
    CheckTensor(store, name, path);
    bytes += static_cast<int64_t>(store.FindEntry(name)->bytes());
    Check(store.PathOf(name).starts_with(path), "a tensor is from another place:", store.PathOf(name));
  }
  Check(bytes == store.total_bytes(), "the tensors' bytes do not add up");
  (void)FirstNonFinite(store);
  const absl::StatusOr<std::string> digest = store.Digest();
  Check(digest.ok() && digest->size() == 71, "there is no digest");
  CheckStoredWeights(store, path);
}

void CheckStoredWeights(const WeightStore& store, const std::string& path) {
  const QuantizationMetadata metadata = MetadataOf(store, path);
  for (const std::string& name : store.Names()) {
    for (const std::string_view suffix : {".weight", ".weight._data"}) {
      const std::vector<int64_t>& shape = store.FindEntry(name)->shape;
      if (!name.ends_with(suffix) || shape.size() != 2) continue;
      const std::string layer = name.substr(0, name.size() - suffix.size());
      const auto weight = FindStoredWeight(store, metadata, layer, shape[0], shape[1]);
      if (weight.ok()) {
        CheckWeight(*weight, shape[0]);
      } else {
        CheckError(weight.status(), path);
      }
    }
  }
  const StoredWeightSummary summary = SummarizeStoredWeights(store, metadata);
  Check(summary.first_error.ok() == (summary.unreadable == 0), "an error, or none, of what cannot be read");
}

}  // namespace fresco::fuzz
