// How a linear's weight is stored, whatever wrote the file: plain, cast to FP8, or codes with scales.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "pipeline/checkpoint/safetensors.h"
#include "pipeline/checkpoint/weights.h"

namespace fresco {

struct StoredWeight {
  enum class Codes { kPlain, kE4M3, kE5M2, kInt8 };  // plain: a float of 16 bits or more, which has no scale

  Codes codes = Codes::kPlain;
  TensorView weight;         // [out, in]
  std::vector<float> scale;  // value = code * scale; empty (1), one, or one per row [out]; finite and positive
  // Codes of inputs = inputs / input_scale, in the type of `codes`, which is FP8. Nothing where the file has none or
  // has 1, with which converters fill the place.
  std::optional<float> input_scale;
  bool full_precision_matmul = false;  // the file asks for products in high precision
  // For messages: "plain", "fp8 cast", "ComfyUI scaled", "comfy_quant float8_e4m3fn", "weight_scale",
  // "optimum-quanto qint8", …
  std::string source;
};

// What a file says of one layer, as ComfyUI writes it.
struct LayerQuantization {
  std::string format;  // "float8_e4m3fn", …, known to us or not
  bool full_precision_matmul = false;
  bool rotated = false;  // "convrot": inputs are to be rotated as the weight was

  bool operator==(const LayerQuantization&) const = default;
};

// The key of a safetensors file's metadata that holds the text to parse.
inline constexpr std::string_view kQuantizationMetadataKey = "_quantization_metadata";

struct QuantizationMetadata {
  std::map<std::string, LayerQuantization, std::less<>> layers;  // by the layer's name: "blocks.0.attn.proj"

  // {"layers": {NAME: {"format": …}}}. INVALID_ARGUMENT, naming `path`, the file that the text is of, for text that is
  // over 4 MiB, is not JSON or is of another form, or describes one layer in two ways. Formats that are not known are
  // kept: FindStoredWeight refuses them.
  static absl::StatusOr<QuantizationMetadata> Parse(std::string_view json, std::string_view path);

  // Null where there is none. Writers disagree on whether names begin with "model.diffusion_model.": both are found.
  const LayerQuantization* Find(std::string_view layer) const;
};

// Finds the weight of `layer` ("blocks.0.attn.proj") and what is needed to understand it. Layers of one file may be
// stored in different ways. Read are:
//   plain             X.weight
//   fp8 cast          X.weight of FP8 with no scale
//   ComfyUI, old      PREFIXscaled_fp8 (its type names the format; 2 elements: products in high precision), X.weight,
//                     X.scale_weight, perhaps X.scale_input
//   ComfyUI           X.comfy_quant (JSON) or `metadata`, X.weight, X.weight_scale, perhaps X.input_scale
//   weight_scale      as above where nothing says so
//   optimum-quanto    X.weight._data, X.weight._scale; its activation scales are left, being of a type it does not name
//
// UNIMPLEMENTED for formats that are not supported (scales per block, 4 bits, rotated weights); INVALID_ARGUMENT for a
// weight that is missing or of another shape, a scale that is missing, malformed, not finite or not positive, and for
// descriptions that contradict each other or the tensors. Both name file and tensor.
absl::StatusOr<StoredWeight> FindStoredWeight(const WeightStore& store, const QuantizationMetadata& metadata,
                                              std::string_view layer, int64_t out, int64_t in);

// Of a weight's scales.
struct ScaleRange {
  int64_t count = 0;  // how many: 1 for a whole weight, or one for each row
  float least = 0, most = 0;
};

// How the weights of a store are stored.
struct StoredWeightSummary {
  std::map<std::string, int64_t> by_source;  // how many of each StoredWeight::source
  std::map<std::string, ScaleRange> scales;  // by layer ("blocks.0.attn.proj"); of those that have any
  int64_t unreadable = 0;                    // those that FindStoredWeight refuses
  absl::Status first_error;                  // of these, the first by name
};

// Counts all weights of two dimensions, embeddings among them. Reads their scales.
StoredWeightSummary SummarizeStoredWeights(const WeightStore& store, const QuantizationMetadata& metadata);

}  // namespace fresco
