#include "pipeline/checkpoint/stored_weight.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <span>
#include <utility>

#include "pipeline/base/printable.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/checkpoint/json_parse.h"

namespace fresco {
namespace {

using Json = nlohmann::json;
using Codes = StoredWeight::Codes;

constexpr size_t kMaxMetadataBytes = 4 << 20;  // a thousand layers take 60 KiB
constexpr size_t kMaxLayerBytes = 4096;        // the longest known is below 100
constexpr int kMaxDepth = 8;
constexpr int kMaxParts = 32;  // of a layer's name between dots
constexpr std::string_view kDiffusionPrefix = "model.diffusion_model.";

// The formats that ComfyUI and its converters name: how the weight is stored, or why it is not read.
struct Format {
  std::string_view name;
  std::optional<DType> dtype;
  std::string_view why_not;
};

constexpr float kLargestCode = 57344;  // E5M2's, the largest of all

constexpr std::string_view kPerBlock = "scales per block are not supported";
constexpr std::string_view kFourBits = "weights of 4 bits are not supported";

constexpr auto kFormats = std::to_array<Format>({
    {"float8_e4m3fn", DType::kF8E4M3, ""},
    {"float8_e4m3fn_rowwise", DType::kF8E4M3, ""},
    {"float8_e5m2", DType::kF8E5M2, ""},
    {"int8_tensorwise", DType::kI8, ""},  // one scale or one per row, in spite of the name
    {"nvfp4", std::nullopt, kPerBlock},
    {"mxfp8", std::nullopt, kPerBlock},
    {"hybrid_mxfp8", std::nullopt, kPerBlock},
    {"float8_e4m3fn_blockwise", std::nullopt, kPerBlock},
    {"int8_blockwise", std::nullopt, kPerBlock},
    {"convrot_w4a4", std::nullopt, kFourBits},
    {"asym_w4a8_int8", std::nullopt, kFourBits},
    {"awq_w4a16", std::nullopt, kFourBits},
});

const Format* FindFormat(std::string_view name) {
  for (const Format& format : kFormats) {
    if (format.name == name) return &format;
  }
  return nullptr;
}

// Tensors beside a weight without which it would be misread.
struct Companion {
  std::string_view suffix;
  std::string_view why_not;
};

constexpr auto kUnsupportedCompanions = std::to_array<Companion>({
    {".weight_scale_2", "a second scale, as of nvfp4: scales per block are not supported"},
    {".weight_scale_inv", kPerBlock},
    {".weight_s_rel", kFourBits},
    {".weight_zeros", "weights with a zero point are not supported"},
    {".weight_zero_point", "weights with a zero point are not supported"},
    {".pre_quant_scale", "scales of inputs per column are not supported"},
    {".SCB", "weights of bitsandbytes are not supported"},
    {".weight.absmax", "weights of bitsandbytes are not supported"},
    {".weight._shift", "qint4 and qint2 of optimum-quanto are not supported"},
    {".weight._data._data", "qint4 and qint2 of optimum-quanto are not supported"},
});

// A layer has one of each, or no scale.
constexpr std::string_view kWeights[] = {".weight", ".weight._data"};
constexpr std::string_view kScales[] = {".weight_scale", ".scale_weight", ".weight._scale"};

// One linear in a store.
struct Layer {
  const WeightStore& store;
  std::string_view name;
  int64_t out = 0;
  int64_t in = 0;

  std::string Tensor(std::string_view suffix) const { return StrCat(name, suffix); }
  bool Has(std::string_view suffix) const { return store.Contains(Tensor(suffix)); }
};

std::string Quoted(std::string_view name) {
  return StrCat("\"", PrintableName(name), "\"");
}

absl::Status Invalid(const WeightStore& store, std::string_view tensor, std::string_view message) {
  return absl::InvalidArgumentError(StrCat(store.Where(tensor), ": ", message));
}

absl::Status Unsupported(const WeightStore& store, std::string_view tensor, std::string_view message) {
  return absl::UnimplementedError(StrCat(store.Where(tensor), ": ", message));
}

// `said` is what says that there should be a scale.
absl::Status MissingScale(const Layer& layer, std::string_view weight, std::string_view suffix, std::string_view said) {
  return Invalid(layer.store, weight, StrCat("its scale ", Quoted(layer.Tensor(suffix)), " is missing: ", said));
}

// Nothing for a type that weights are not stored in.
std::optional<Codes> CodesOf(DType dtype) {
  switch (dtype) {
    case DType::kF64:
    case DType::kF32:
    case DType::kBF16:
    case DType::kF16:
      return Codes::kPlain;
    case DType::kF8E4M3:
      return Codes::kE4M3;
    case DType::kF8E5M2:
      return Codes::kE5M2;
    case DType::kI8:
      return Codes::kInt8;
    default:
      return std::nullopt;
  }
}

bool IsFp8(Codes codes) {
  return codes == Codes::kE4M3 || codes == Codes::kE5M2;
}

float FromHalf(uint16_t bits) {
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  float magnitude = 0;
  if (exponent == 31) {
    magnitude = mantissa == 0 ? std::numeric_limits<float>::infinity() : std::numeric_limits<float>::quiet_NaN();
  } else if (exponent == 0) {
    magnitude = std::ldexp(static_cast<float>(mantissa), -24);
  } else {
    magnitude = std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25);
  }
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

template <typename Bits>
Bits BitsAt(const TensorView& tensor, size_t index) {
  Bits bits;
  std::memcpy(&bits, tensor.data + index * sizeof(Bits), sizeof(Bits));  // not always aligned
  return bits;
}

// Of an F32, BF16 or F16 tensor.
float FloatAt(const TensorView& tensor, size_t index) {
  if (tensor.dtype == DType::kF32) return std::bit_cast<float>(BitsAt<uint32_t>(tensor, index));
  if (tensor.dtype == DType::kF16) return FromHalf(BitsAt<uint16_t>(tensor, index));
  return std::bit_cast<float>(uint32_t{BitsAt<uint16_t>(tensor, index)} << 16);
}

bool HasScaleShape(const std::vector<int64_t>& shape, int64_t rows) {
  using Shape = std::vector<int64_t>;
  return shape.empty() || shape == Shape{1} || shape == Shape{1, 1} || shape == Shape{rows} || shape == Shape{rows, 1};
}

// One scale, or one per row. What it makes of the largest code must be a number too.
absl::StatusOr<std::vector<float>> ReadScale(const WeightStore& store, const std::string& name, int64_t rows) {
  FRESCO_ASSIGN_OR_RETURN(const TensorView tensor, store.Find(name));
  if (tensor.dtype != DType::kF32 && tensor.dtype != DType::kBF16 && tensor.dtype != DType::kF16) {
    return Invalid(
        store, name,
        StrCat("a scale of type ", DTypeName(tensor.dtype), " where F32, BF16 or F16 is expected (", kPerBlock, ")"));
  }
  if (!HasScaleShape(tensor.shape, rows)) {
    return Invalid(store, name,
                   StrCat("a scale of shape ", ShapeString(tensor.shape), " where one or one for each of ", rows,
                          " rows is expected (", kPerBlock, ")"));
  }
  std::vector<float> scale(static_cast<size_t>(tensor.numel()));
  for (size_t row = 0; row < scale.size(); ++row) {
    scale[row] = FloatAt(tensor, row);
    if (!std::isfinite(scale[row]) || scale[row] <= 0) {
      return Invalid(store, name, StrCat("its element ", row, ", ", scale[row], ", is no finite positive scale"));
    }
    if (scale[row] > FLT_MAX / kLargestCode) {
      return Invalid(store, name, StrCat("its element ", row, ", ", scale[row], ", makes infinities of codes"));
    }
  }
  return scale;
}

// 1 fills the place of a scale that nobody measured.
absl::StatusOr<std::optional<float>> ReadInputScale(const Layer& layer, std::string_view suffix) {
  if (!layer.Has(suffix)) return std::nullopt;
  FRESCO_ASSIGN_OR_RETURN(const std::vector<float> scale, ReadScale(layer.store, layer.Tensor(suffix), 1));
  return scale.front() == 1 ? std::nullopt : std::optional(scale.front());
}

// The weight alone, its type and shape checked.
absl::StatusOr<StoredWeight> ReadCodes(const Layer& layer, const std::string& name) {
  const std::vector<int64_t> shape = {layer.out, layer.in};
  if (!layer.store.Contains(name)) {
    return absl::InvalidArgumentError(StrCat(layer.store.Where(name), " of shape ", ShapeString(shape), " is missing"));
  }
  FRESCO_ASSIGN_OR_RETURN(TensorView weight, layer.store.Find(name));
  const std::optional<Codes> codes = CodesOf(weight.dtype);
  if (!codes) {
    return Unsupported(layer.store, name, StrCat("weights stored as ", DTypeName(weight.dtype), " are not supported"));
  }
  if (weight.shape != shape) {
    return Invalid(
        layer.store, name,
        StrCat("shape ", ShapeString(weight.shape), " where the configuration asks for ", ShapeString(shape)));
  }
  StoredWeight stored;
  stored.codes = *codes;
  stored.weight = std::move(weight);
  return stored;
}

absl::Status CheckCompanions(const Layer& layer) {
  for (const auto& [suffix, why_not] : kUnsupportedCompanions) {
    if (layer.Has(suffix)) return Unsupported(layer.store, layer.Tensor(suffix), why_not);
  }
  return absl::OkStatus();
}

// False where it is absent.
absl::StatusOr<bool> Flag(const Json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end()) return false;
  if (!found->is_boolean()) return absl::InvalidArgumentError(StrCat(key, " is neither true nor false"));
  return found->get<bool>();
}

// {"format": …, options}, or the format alone.
absl::StatusOr<LayerQuantization> ParseLayer(const Json& json) {
  LayerQuantization layer;
  if (json.is_string()) {
    layer.format = json.get<std::string>();
    return layer;
  }
  if (!json.is_object()) return absl::InvalidArgumentError("not an object");
  const auto format = json.find("format");
  if (format == json.end() || !format->is_string()) {
    return absl::InvalidArgumentError("format is missing or not a string");
  }
  layer.format = format->get<std::string>();
  FRESCO_ASSIGN_OR_RETURN(layer.full_precision_matmul, Flag(json, "full_precision_matrix_mult"));
  FRESCO_ASSIGN_OR_RETURN(layer.rotated, Flag(json, "convrot"));
  // Some converters put a format's options one level down.
  if (const auto params = json.find("params"); params != json.end() && params->is_object()) {
    FRESCO_ASSIGN_OR_RETURN(const bool rotated, Flag(*params, "convrot"));
    layer.rotated = layer.rotated || rotated;
  }
  return layer;
}

absl::StatusOr<LayerQuantization> ReadComfyQuant(const WeightStore& store, const std::string& name) {
  FRESCO_ASSIGN_OR_RETURN(const TensorView tensor, store.Find(name));
  if (tensor.dtype != DType::kU8) {
    return Invalid(store, name, StrCat("stored as ", DTypeName(tensor.dtype), " where JSON text in U8 is expected"));
  }
  if (tensor.bytes > kMaxLayerBytes) {
    return Invalid(store, name, StrCat(tensor.bytes, " bytes of JSON (at most ", kMaxLayerBytes, ")"));
  }
  absl::StatusOr<Json> json = ParseJson({reinterpret_cast<const char*>(tensor.data), tensor.bytes}, kMaxDepth);
  if (!json.ok()) return Annotate(json.status(), store.Where(name));
  absl::StatusOr<LayerQuantization> layer = ParseLayer(*json);
  return layer.ok() ? layer : Annotate(layer.status(), store.Where(name));
}

// What the file says of a layer, and where it does.
struct Declaration {
  LayerQuantization layer;
  std::string by;
};

absl::StatusOr<std::optional<Declaration>> FindDeclaration(const Layer& layer, const QuantizationMetadata& metadata) {
  const LayerQuantization* listed = metadata.Find(layer.name);
  const std::string name = layer.Tensor(".comfy_quant");
  if (!layer.store.Contains(name)) {
    if (listed == nullptr) return std::nullopt;
    return Declaration{*listed, std::string(kQuantizationMetadataKey)};
  }
  FRESCO_ASSIGN_OR_RETURN(LayerQuantization own, ReadComfyQuant(layer.store, name));
  if (listed != nullptr && *listed != own) {
    return Invalid(layer.store, name, StrCat("contradicts ", kQuantizationMetadataKey, " of the file"));
  }
  return Declaration{std::move(own), Quoted(name)};
}

absl::Status CheckSupported(const Layer& layer, const Declaration& declared) {
  const std::string name = layer.Tensor(".weight");
  const std::string said = StrCat(declared.by, " says ", PrintableName(declared.layer.format));
  const Format* format = FindFormat(declared.layer.format);
  if (format == nullptr) return Unsupported(layer.store, name, StrCat(said, ", a format that is not known"));
  if (!format->dtype) return Unsupported(layer.store, name, StrCat(said, ": ", format->why_not));
  if (declared.layer.rotated) {
    return Unsupported(layer.store, name, StrCat(said, " with convrot: rotated weights are not supported"));
  }
  return absl::OkStatus();
}

// A second weight or scale: which one is meant, the file does not say.
absl::Status CheckOneOfEach(const Layer& layer) {
  const auto check = [&](std::span<const std::string_view> suffixes, std::string_view what) {
    std::string_view first;
    for (const std::string_view suffix : suffixes) {
      if (!layer.Has(suffix)) continue;
      if (!first.empty()) {
        return Invalid(layer.store, layer.Tensor(suffix),
                       StrCat("its layer has ", what, ", ", Quoted(layer.Tensor(first)), " too"));
      }
      first = suffix;
    }
    return absl::OkStatus();
  };
  FRESCO_RETURN_IF_ERROR(check(kWeights, "two weights"));
  return check(kScales, "two scales");
}

absl::StatusOr<StoredWeight> ReadDeclared(const Layer& layer, const Declaration& declared) {
  const std::string name = layer.Tensor(".weight"), scale_name = layer.Tensor(".weight_scale");
  FRESCO_ASSIGN_OR_RETURN(StoredWeight stored, ReadCodes(layer, name));
  const std::string said = StrCat(declared.by, " says ", declared.layer.format);
  if (stored.weight.dtype != FindFormat(declared.layer.format)->dtype) {
    return Invalid(layer.store, name, StrCat("stored as ", DTypeName(stored.weight.dtype), ", but ", said));
  }
  if (!layer.store.Contains(scale_name)) return MissingScale(layer, name, ".weight_scale", said);
  FRESCO_ASSIGN_OR_RETURN(stored.scale, ReadScale(layer.store, scale_name, layer.out));
  if (IsFp8(stored.codes)) {
    FRESCO_ASSIGN_OR_RETURN(stored.input_scale, ReadInputScale(layer, ".input_scale"));
  }
  stored.full_precision_matmul = declared.layer.full_precision_matmul;
  stored.source = StrCat("comfy_quant ", declared.layer.format);
  return stored;
}

// ComfyUI's old marker over a layer.
struct Marker {
  std::string name;
  DType dtype = DType::kF8E4M3;
  bool full_precision_matmul = false;
};

// The marker of the innermost part ("text_encoders.t5xxl.transformer.") that has one.
absl::StatusOr<std::optional<Marker>> FindMarker(const Layer& layer) {
  size_t end = layer.name.size();
  for (int part = 0; part < kMaxParts && end != 0; ++part) {
    const size_t dot = layer.name.rfind('.', end - 1);
    end = dot == std::string_view::npos ? 0 : dot;
    std::string name = StrCat(layer.name.substr(0, end == 0 ? 0 : end + 1), "scaled_fp8");
    if (!layer.store.Contains(name)) continue;
    FRESCO_ASSIGN_OR_RETURN(const TensorView tensor, layer.store.Find(name));
    if (tensor.dtype != DType::kF8E4M3 && tensor.dtype != DType::kF8E5M2 && tensor.dtype != DType::kF32) {
      return Invalid(layer.store, name,
                     StrCat("marks FP8 weights, but its type, ", DTypeName(tensor.dtype), ", names no FP8 format"));
    }
    const DType dtype = tensor.dtype == DType::kF32 ? DType::kF8E4M3 : tensor.dtype;  // F32: of the first writers
    return Marker{std::move(name), dtype, tensor.numel() == 2};
  }
  return std::nullopt;
}

// With neither a scale nor a description of its own.
absl::StatusOr<StoredWeight> ReadUnscaled(const Layer& layer, StoredWeight stored, const std::string& name) {
  if (stored.codes == Codes::kInt8) {
    return MissingScale(layer, name, ".weight_scale", "integers mean nothing without one");
  }
  if (!IsFp8(stored.codes)) {
    stored.source = "plain";
    return stored;
  }
  FRESCO_ASSIGN_OR_RETURN(const std::optional<Marker> marker, FindMarker(layer));
  if (marker) {
    return MissingScale(layer, name, ".scale_weight",
                        StrCat(Quoted(marker->name), " says that weights of FP8 are scaled"));
  }
  for (const auto& [input, scale] : {std::pair(".scale_input", ".scale_weight"), {".input_scale", ".weight_scale"}}) {
    if (layer.Has(input)) return MissingScale(layer, name, scale, StrCat(Quoted(layer.Tensor(input)), " is there"));
  }
  stored.source = "fp8 cast";
  return stored;
}

// X.scale_weight, X.scale_input and, usually, a marker.
absl::StatusOr<StoredWeight> ReadOldScaled(const Layer& layer, StoredWeight stored, const std::string& name) {
  FRESCO_ASSIGN_OR_RETURN(const std::optional<Marker> marker, FindMarker(layer));
  const bool as_marked = marker ? stored.weight.dtype == marker->dtype : IsFp8(stored.codes);
  if (!as_marked) {
    return Invalid(layer.store, name,
                   StrCat("stored as ", DTypeName(stored.weight.dtype), ", but ",
                          marker ? StrCat(Quoted(marker->name), " says ", DTypeName(marker->dtype))
                                 : StrCat("has ", Quoted(layer.Tensor(".scale_weight")), ", a scale of FP8 weights")));
  }
  FRESCO_ASSIGN_OR_RETURN(stored.scale, ReadScale(layer.store, layer.Tensor(".scale_weight"), layer.out));
  FRESCO_ASSIGN_OR_RETURN(stored.input_scale, ReadInputScale(layer, ".scale_input"));
  stored.full_precision_matmul = marker && marker->full_precision_matmul;
  stored.source = "ComfyUI scaled";
  return stored;
}

// X.weight_scale, of which nothing says more.
absl::StatusOr<StoredWeight> ReadScaled(const Layer& layer, StoredWeight stored, const std::string& name) {
  const std::string scale_name = layer.Tensor(".weight_scale");
  if (stored.codes == Codes::kPlain) {
    return Invalid(layer.store, name,
                   StrCat("stored as ", DTypeName(stored.weight.dtype), ", but has a scale, ", Quoted(scale_name)));
  }
  FRESCO_ASSIGN_OR_RETURN(stored.scale, ReadScale(layer.store, scale_name, layer.out));
  if (IsFp8(stored.codes)) {
    FRESCO_ASSIGN_OR_RETURN(stored.input_scale, ReadInputScale(layer, ".input_scale"));
  }
  stored.source = "weight_scale";
  return stored;
}

absl::StatusOr<StoredWeight> ReadUndeclared(const Layer& layer) {
  const std::string name = layer.Tensor(".weight");
  FRESCO_ASSIGN_OR_RETURN(StoredWeight stored, ReadCodes(layer, name));
  if (layer.Has(".scale_weight")) return ReadOldScaled(layer, std::move(stored), name);
  if (layer.Has(".weight_scale")) return ReadScaled(layer, std::move(stored), name);
  if (const std::string scale = layer.Tensor(".weight._scale"); layer.store.Contains(scale)) {
    return Invalid(layer.store, name, StrCat("has ", Quoted(scale), ", the scale of codes under another name"));
  }
  return ReadUnscaled(layer, std::move(stored), name);
}

absl::StatusOr<StoredWeight> ReadQuanto(const Layer& layer) {
  const std::string name = layer.Tensor(".weight._data"), scale_name = layer.Tensor(".weight._scale");
  FRESCO_ASSIGN_OR_RETURN(StoredWeight stored, ReadCodes(layer, name));
  if (stored.codes == Codes::kPlain) {
    return Invalid(layer.store, name, StrCat("codes of type ", DTypeName(stored.weight.dtype)));
  }
  if (!layer.store.Contains(scale_name)) {
    return MissingScale(layer, name, ".weight._scale", "optimum-quanto writes one");
  }
  FRESCO_ASSIGN_OR_RETURN(stored.scale, ReadScale(layer.store, scale_name, layer.out));
  stored.source = StrCat("optimum-quanto ", stored.codes == Codes::kInt8   ? "qint8"
                                            : stored.codes == Codes::kE4M3 ? "qfloat8_e4m3fn"
                                                                           : "qfloat8_e5m2");
  return stored;
}

// The layer whose weight the tensor is, as one of the formats names it; nothing for other tensors.
std::optional<std::string_view> LayerOf(std::string_view tensor) {
  for (std::string_view suffix : {".weight", ".weight._data", ".weight._data._data"}) {
    if (tensor.ends_with(suffix)) return tensor.substr(0, tensor.size() - suffix.size());
  }
  return std::nullopt;
}

}  // namespace

absl::StatusOr<QuantizationMetadata> QuantizationMetadata::Parse(std::string_view json, std::string_view path) {
  const std::string where = StrCat(path, ": ", kQuantizationMetadataKey);
  if (json.size() > kMaxMetadataBytes) {
    return absl::InvalidArgumentError(StrCat(where, ": ", json.size(), " bytes (at most ", kMaxMetadataBytes, ")"));
  }
  absl::StatusOr<Json> tree = ParseJson(json, kMaxDepth);
  if (!tree.ok()) return Annotate(tree.status(), where);
  const auto layers = tree->is_object() ? tree->find("layers") : tree->end();
  if (!tree->is_object() || layers == tree->end() || !layers->is_object()) {
    return absl::InvalidArgumentError(StrCat(where, ": layers is missing or not an object"));
  }
  QuantizationMetadata metadata;
  for (const auto& [name, value] : layers->items()) {
    absl::StatusOr<LayerQuantization> layer = ParseLayer(value);
    if (!layer.ok()) return Annotate(layer.status(), StrCat(where, ": layer ", Quoted(name)));
    metadata.layers.emplace(name, *std::move(layer));
  }
  for (const auto& [name, layer] : metadata.layers) {
    const auto other = metadata.layers.find(StrCat(kDiffusionPrefix, name));
    if (other == metadata.layers.end() || other->second == layer) continue;
    return absl::InvalidArgumentError(StrCat(where, ": layer ", Quoted(name), ": ", Quoted(other->first), ", which is",
                                             " the same, is of another format"));
  }
  return metadata;
}

const LayerQuantization* QuantizationMetadata::Find(std::string_view layer) const {
  auto found = layers.find(layer);
  if (found == layers.end()) {
    found = layer.starts_with(kDiffusionPrefix) ? layers.find(layer.substr(kDiffusionPrefix.size()))
                                                : layers.find(StrCat(kDiffusionPrefix, layer));
  }
  return found == layers.end() ? nullptr : &found->second;
}

absl::StatusOr<StoredWeight> FindStoredWeight(const WeightStore& store, const QuantizationMetadata& metadata,
                                              std::string_view layer_name, int64_t out, int64_t in) {
  const Layer layer{store, layer_name, out, in};
  FRESCO_ASSIGN_OR_RETURN(const std::optional<Declaration> declared, FindDeclaration(layer, metadata));
  if (declared) FRESCO_RETURN_IF_ERROR(CheckSupported(layer, *declared));
  FRESCO_RETURN_IF_ERROR(CheckCompanions(layer));
  FRESCO_RETURN_IF_ERROR(CheckOneOfEach(layer));
  if (declared) return ReadDeclared(layer, *declared);
  if (layer.Has(".weight._data")) return ReadQuanto(layer);
  return ReadUndeclared(layer);
}

StoredWeightSummary SummarizeStoredWeights(const WeightStore& store, const QuantizationMetadata& metadata) {
  StoredWeightSummary summary;
  for (const std::string& name : store.Names()) {
    const std::optional<std::string_view> layer = LayerOf(name);
    const std::vector<int64_t>& shape = store.FindEntry(name)->shape;
    if (!layer || shape.size() != 2) continue;
    const absl::StatusOr<StoredWeight> stored = FindStoredWeight(store, metadata, *layer, shape[0], shape[1]);
    if (stored.ok()) {
      ++summary.by_source[stored->source];
      if (stored->scale.empty()) continue;
      const auto [least, most] = std::minmax_element(stored->scale.begin(), stored->scale.end());
      summary.scales[std::string(*layer)] = {static_cast<int64_t>(stored->scale.size()), *least, *most};
    } else if (summary.unreadable++ == 0) {
      summary.first_error = stored.status();
    }
  }
  return summary;
}

}  // namespace fresco
