#include "pipeline/tool/quantized_part.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/max.h>
#include <ATen/ops/min.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <tuple>
#include <utility>

#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/checkpoint/nonfinite.h"
#include "pipeline/checkpoint/single_file_names.h"
#include "pipeline/checkpoint/stored_weight.h"
#include "pipeline/kernels/e4m3.h"
#include "pipeline/models/stored_linear.h"
#include "pipeline/models/tensor_view.h"
#include "pipeline/precision/quantized_weight.h"

namespace fresco {
namespace {

using Header = SafetensorsWriter::Tensor;

constexpr std::string_view kWeightEndings[] = {".weight", ".weight._data"};
// What a quantised layer has beside its weight, whoever wrote the file (stored_weight.h).
constexpr std::string_view kCompanions[] = {".weight._scale", ".weight_scale", ".scale_weight", ".scale_input",
                                            ".input_scale",   ".output_scale", ".comfy_quant"};

// Weights of two dimensions that are looked up and not multiplied with.
constexpr std::string_view kEmbeddings[] = {"shared", "encoder.embed_tokens", "*.relative_attention_bias",
                                            "*_embedding"};

// Of a block, in the order in which mmdit_weights.cc and t5_weights.cc read and stack them.
constexpr auto kBlockLayers = std::to_array<std::string_view>({"attn.to_q",
                                                               "attn.to_k",
                                                               "attn.to_v",
                                                               "attn.to_out.0",
                                                               "attn.add_q_proj",
                                                               "attn.add_k_proj",
                                                               "attn.add_v_proj",
                                                               "attn.to_add_out",
                                                               "attn2.to_q",
                                                               "attn2.to_k",
                                                               "attn2.to_v",
                                                               "attn2.to_out.0",
                                                               "ff.net.0.proj",
                                                               "ff.net.2",
                                                               "ff_context.net.0.proj",
                                                               "ff_context.net.2",
                                                               "layer.0.SelfAttention.q",
                                                               "layer.0.SelfAttention.k",
                                                               "layer.0.SelfAttention.v",
                                                               "layer.0.SelfAttention.o",
                                                               "layer.1.DenseReluDense.wi_0",
                                                               "layer.1.DenseReluDense.wi_1",
                                                               "layer.1.DenseReluDense.wo"});
constexpr auto kModulations = std::to_array<std::string_view>({"norm1.linear", "norm1_context.linear"});

template <typename Names>
int64_t PlaceIn(const Names& names, std::string_view name) {
  return std::find(std::begin(names), std::end(names), name) - std::begin(names);
}

// Where a layer comes: those outside of blocks, the blocks, the modulations of all blocks, each in its known order.
std::tuple<int, int64_t, int64_t, std::string_view> LoadOrder(std::string_view layer) {
  for (const std::string_view prefix : {"transformer_blocks.", "encoder.block."}) {
    if (!layer.starts_with(prefix)) continue;
    std::string_view rest = layer.substr(prefix.size());
    const std::optional<int64_t> block = LeadingNumber(rest);
    if (!block) break;
    rest.remove_prefix(rest.find('.') + 1);
    const int64_t modulation = PlaceIn(kModulations, rest);
    if (modulation < std::ssize(kModulations)) return {2, *block, modulation, layer};
    return {1, *block, PlaceIn(kBlockLayers, rest), layer};
  }
  return {0, 0, 0, layer};
}

std::optional<std::string_view> Without(std::string_view name, std::span<const std::string_view> endings) {
  for (const std::string_view ending : endings) {
    if (name.ends_with(ending)) return name.substr(0, name.size() - ending.size());
  }
  return std::nullopt;
}

// A linear of the store.
struct SourceLayer {
  std::string name;
  std::string where;  // its weight is
  LinearScheme scheme = LinearScheme::kHigh;
  StoredLinear stored;

  int64_t rows() const { return stored.values.size(0); }
  int64_t columns() const { return stored.values.size(1); }
};

// The linears of a store, in the order in which they are loaded, and all tensors that are not theirs.
struct Source {
  WeightStore store;
  std::vector<SourceLayer> layers;
  std::vector<std::string> others;
};

bool IsEmbedding(std::string_view layer) {
  return std::any_of(std::begin(kEmbeddings), std::end(kEmbeddings),
                     [&](std::string_view pattern) { return MatchesPattern(pattern, layer); });
}

absl::StatusOr<QuantizationMetadata> MetadataOf(const WeightStore& store) {
  const auto found = store.metadata().find(std::string(kQuantizationMetadataKey));
  if (found == store.metadata().end()) return QuantizationMetadata();
  return QuantizationMetadata::Parse(found->second, store.path());
}

absl::StatusOr<SourceLayer> ReadLayer(const WeightStore& store, const QuantizationMetadata& metadata,
                                      const std::string& name, LinearScheme scheme) {
  std::string tensor = StrCat(name, kWeightEndings[0]);
  if (!store.Contains(tensor)) tensor = StrCat(name, kWeightEndings[1]);
  const SafetensorsFile::Entry* const weight = store.FindEntry(tensor);
  FRESCO_ASSIGN_OR_RETURN(StoredLinear stored,
                          ReadStoredLinear(store, metadata, name, weight->shape[0], weight->shape[1]));
  return SourceLayer{name, store.Where(tensor), scheme, std::move(stored)};
}

bool BelongsTo(const std::vector<SourceLayer>& layers, std::string_view tensor) {
  std::optional<std::string_view> layer = Without(tensor, kWeightEndings);
  if (!layer) layer = Without(tensor, kCompanions);
  return layer && std::any_of(layers.begin(), layers.end(), [&](const SourceLayer& own) { return own.name == *layer; });
}

// `all`: also those that stay high.
absl::StatusOr<Source> ReadSource(const WeightStore& store, const LayerTable& table, bool all) {
  Source source{store, {}, {}};
  FRESCO_ASSIGN_OR_RETURN(const QuantizationMetadata metadata, MetadataOf(store));
  for (const std::string& name : LinearsOf(store)) {
    const LinearScheme scheme = table.Of(name);
    if (!all && scheme == LinearScheme::kHigh) continue;
    FRESCO_ASSIGN_OR_RETURN(SourceLayer layer, ReadLayer(store, metadata, name, scheme));
    source.layers.push_back(std::move(layer));
  }
  for (const std::string& tensor : store.Names()) {
    if (!BelongsTo(source.layers, tensor)) source.others.push_back(tensor);
  }
  return source;
}

std::span<const std::byte> BytesOf(const at::Tensor& tensor) {
  return {static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()};
}

// The halves of the rows, lower half first where they are swapped.
absl::Status WriteRows(std::span<const std::byte> rows, bool swapped, SafetensorsWriter* writer) {
  if (!swapped) return writer->Write(rows);
  FRESCO_RETURN_IF_ERROR(writer->Write(rows.subspan(rows.size() / 2)));
  return writer->Write(rows.first(rows.size() / 2));
}

// One linear of the output: one of the store's, or several with their rows below one another.
class QuantizedLayer {
 public:
  struct Form {
    std::string name;
    bool one_scale = false;  // for all rows
    bool swapped = false;    // the halves of the rows
    bool full_precision_matmul = false;
  };

  QuantizedLayer(Form form, std::vector<SourceLayer> parts) : form_(std::move(form)), parts_(std::move(parts)) {}

  // Its tensors; each keeps `self`.
  static void Plan(const std::shared_ptr<QuantizedLayer>& self, std::vector<PlannedTensor>* codes,
                   std::vector<PlannedTensor>* others);

 private:
  LinearScheme scheme() const { return parts_.front().scheme; }
  std::string Description() const;
  std::optional<float> InputScale() const;
  absl::StatusOr<QuantizedWeight> Quantize(const SourceLayer& part);
  std::optional<float> StoredScale() const;
  absl::Status FindOneScale();
  absl::Status WriteCodes(SafetensorsWriter* writer);
  absl::Status WriteScale(SafetensorsWriter* writer);

  const Form form_;
  const std::vector<SourceLayer> parts_;
  std::map<std::string, at::Tensor> scales_;  // of the parts that have been quantised, [rows]
  std::optional<float> scale_;                // of all rows
  bool as_stored_ = false;                    // the parts' codes are for scale_ already
};

// `where`: WeightStore::Where.
absl::Status NotFinite(std::string_view where) {
  return absl::InvalidArgumentError(StrCat(where, " holds NaN or infinite weights"));
}

bool IsFinite(const at::Tensor& values, DType dtype) {
  const std::span<const std::byte> data = BytesOf(values);
  return !HasNonFinite({.dtype = dtype, .shape = {}, .data = data.data(), .bytes = data.size(), .mapping = nullptr});
}

// {"format": …}, filled with blanks so that it leaves what follows aligned.
std::string QuantizedLayer::Description() const {
  nlohmann::ordered_json json = {{"format", IsFp8(scheme()) ? "float8_e4m3fn" : "int8_tensorwise"}};
  if (form_.full_precision_matmul) json["full_precision_matrix_mult"] = true;
  std::string text = json.dump();
  constexpr size_t kStep = SafetensorsWriter::kAlignment;
  text.resize((text.size() + kStep - 1) / kStep * kStep, ' ');
  return text;
}

// Of one input: the largest, where the parts' differ.
std::optional<float> QuantizedLayer::InputScale() const {
  std::optional<float> largest;
  for (const SourceLayer& part : parts_) {
    if (!IsFp8(part.scheme) || !part.stored.input_scale) return std::nullopt;
    largest = std::max(largest.value_or(0), *part.stored.input_scale);
  }
  return largest;
}

void QuantizedLayer::Plan(const std::shared_ptr<QuantizedLayer>& self, std::vector<PlannedTensor>* codes,
                          std::vector<PlannedTensor>* others) {
  const std::string& name = self->form_.name;
  int64_t rows = 0;
  for (const SourceLayer& part : self->parts_) rows += part.rows();
  const DType type = IsFp8(self->scheme()) ? DType::kF8E4M3 : DType::kI8;
  codes->push_back({{StrCat(name, ".weight"), type, {rows, self->parts_.front().columns()}},
                    [self](SafetensorsWriter* writer) { return self->WriteCodes(writer); }});
  others->push_back({{StrCat(name, ".weight_scale"), DType::kF32,
                      self->form_.one_scale ? std::vector<int64_t>{} : std::vector<int64_t>{rows, 1}},
                     [self](SafetensorsWriter* writer) { return self->WriteScale(writer); }});
  const std::string description = self->Description();
  others->push_back(
      {{StrCat(name, ".comfy_quant"), DType::kU8, {std::ssize(description)}},
       [description](SafetensorsWriter* writer) { return writer->Write(std::as_bytes(std::span(description))); }});
  if (const std::optional<float> scale = self->InputScale()) {
    others->push_back({{StrCat(name, ".input_scale"), DType::kF32, {}}, [scale = *scale](SafetensorsWriter* writer) {
                         return writer->Write(std::as_bytes(std::span(&scale, 1)));
                       }});
  }
}

// The one that all rows have in the store, whose codes are of the scheme; nothing where they differ.
std::optional<float> QuantizedLayer::StoredScale() const {
  std::optional<float> common;
  for (const SourceLayer& part : parts_) {
    if (!IsStoredAs(part.stored, part.scheme) || !part.stored.scale.defined()) return std::nullopt;
    const auto smallest = part.stored.scale.min().item<float>(), largest = part.stored.scale.max().item<float>();
    if (smallest != largest || common.value_or(largest) != largest) return std::nullopt;
    common = largest;
  }
  return common;
}

absl::Status QuantizedLayer::FindOneScale() {
  if (scale_) return absl::OkStatus();
  scale_ = StoredScale();
  as_stored_ = scale_.has_value();
  if (as_stored_) return absl::OkStatus();
  float largest = 0;
  for (const SourceLayer& part : parts_) {
    const float own = Dequantize(part.stored, at::kFloat).abs().max().item<float>();
    if (!std::isfinite(own)) return NotFinite(part.where);
    largest = std::max(largest, own);
  }
  scale_ = IsFp8(scheme()) ? kernels::E4M3Scale(largest) : kernels::Int8Scale(largest);
  return absl::OkStatus();
}

absl::StatusOr<QuantizedWeight> QuantizedLayer::Quantize(const SourceLayer& part) {
  // Of other weights a NaN makes the scale one.
  if (IsFp8(part.scheme) && IsStoredAs(part.stored, part.scheme) && !IsFinite(part.stored.values, DType::kF8E4M3)) {
    return NotFinite(part.where);
  }
  if (form_.one_scale) {
    FRESCO_RETURN_IF_ERROR(FindOneScale());
    if (as_stored_) return QuantizedWeight{part.stored.values, {}};
    at::Tensor scaled = Dequantize(part.stored, at::kFloat) * kernels::InverseScale(*scale_);
    return QuantizedWeight{scaled.clamp_(-kernels::kE4M3Largest, kernels::kE4M3Largest).to(at::kFloat8_e4m3fn), {}};
  }
  QuantizedWeight weight = ToScheme(part.stored, part.scheme);
  if (!weight.scale.isfinite().all().item<bool>()) return NotFinite(part.where);
  scales_[part.name] = weight.scale;
  return weight;
}

absl::Status QuantizedLayer::WriteCodes(SafetensorsWriter* writer) {
  for (const SourceLayer& part : parts_) {
    FRESCO_ASSIGN_OR_RETURN(const QuantizedWeight weight, Quantize(part));
    FRESCO_RETURN_IF_ERROR(WriteRows(BytesOf(weight.codes), form_.swapped, writer));
  }
  return absl::OkStatus();
}

absl::Status QuantizedLayer::WriteScale(SafetensorsWriter* writer) {
  if (form_.one_scale) {
    FRESCO_RETURN_IF_ERROR(FindOneScale());
    return writer->Write(std::as_bytes(std::span(&*scale_, 1)));
  }
  for (const SourceLayer& part : parts_) {
    // Scales come before the codes where these are not a multiple of the alignment.
    if (!scales_.contains(part.name)) FRESCO_RETURN_IF_ERROR(Quantize(part).status());
    FRESCO_RETURN_IF_ERROR(WriteRows(BytesOf(scales_.at(part.name)), form_.swapped, writer));
  }
  return absl::OkStatus();
}

PlannedTensor CopyOf(const std::string& name, const TensorView& tensor, const std::string& where) {
  return {{name, tensor.dtype, tensor.shape}, [where, tensor](SafetensorsWriter* writer) {
            if (HasNonFinite(tensor)) return NotFinite(where);
            return writer->Write({tensor.data, tensor.bytes});
          }};
}

void Append(std::vector<PlannedTensor> from, std::vector<PlannedTensor>* to) {
  to->insert(to->end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
}

// One more than the highest number of a block.
int64_t CountBlocks(const WeightStore& store) {
  int64_t count = 0;
  for (const std::string_view prefix : {"transformer_blocks.", "decoder.up_blocks."}) {
    for (const std::string& name : store.Names()) {
      if (!name.starts_with(prefix)) continue;
      const std::optional<int64_t> number = LeadingNumber(std::string_view(name).substr(prefix.size()));
      count = std::max(count, number.value_or(-1) + 1);
    }
  }
  return count;
}

constexpr std::string_view kProjection = "text_projection";

// Whether a CLIP's projection does anything.
bool Projects(const WeightStore& store) {
  const absl::StatusOr<TensorView> view = store.Find(StrCat(kProjection, ".weight"));
  if (!view.ok()) return false;
  const at::Tensor weight = ToTensor(*view).to(at::kFloat);
  return weight.dim() != 2 || weight.size(0) != weight.size(1) || !at::equal(weight, at::eye(weight.size(0)));
}

// Collects what goes into each tensor of a single file.
class SingleFilePlanner {
 public:
  SingleFilePlanner(const SingleFileLayout& layout, const WeightStore& store)
      : layout_(layout), store_(store), count_(CountBlocks(store)) {}

  absl::StatusOr<PlannedPart> Plan(const LayerTable& table) {
    FRESCO_ASSIGN_OR_RETURN(Source source, ReadSource(store_, table, /*all=*/true));
    for (SourceLayer& layer : source.layers) FRESCO_RETURN_IF_ERROR(AddLinear(std::move(layer)));
    for (const std::string& name : linears_in_order_) FRESCO_RETURN_IF_ERROR(PlanLinear(linears_.at(name)));
    for (const std::string& name : source.others) FRESCO_RETURN_IF_ERROR(AddTensor(name));
    for (auto& [name, rows] : rows_) FRESCO_RETURN_IF_ERROR(PlanRows(std::move(rows)));
    Append(std::move(others_), &part_.tensors);
    return std::move(part_);
  }

 private:
  // A linear of the file, made of one of the store's, or of three.
  struct Linear {
    std::string name;
    LayerForm form = LayerForm::kSame;
    std::vector<SourceLayer> parts;
  };
  // A tensor that stays in its type.
  struct Rows {
    Header header;
    LayerForm form = LayerForm::kSame;
    struct Part {
      std::string where;  // it comes from
      std::function<at::Tensor()> make;
    };
    std::map<int, Part> parts;
  };

  absl::Status Error(std::string_view tensor, std::string_view message) const {
    return absl::InvalidArgumentError(StrCat(store_.Where(tensor), ": ", message));
  }

  absl::StatusOr<SingleFileName> Translate(const std::string& tensor) const {
    std::optional<SingleFileName> name = ToSingleFile(layout_, count_, tensor);
    if (!name) return Error(tensor, "has no name in a single file");
    return *std::move(name);
  }

  absl::Status AddLinear(SourceLayer layer) {
    if (layout_.identity_projection && layer.name == kProjection) return absl::OkStatus();  // it is one
    FRESCO_ASSIGN_OR_RETURN(const SingleFileName name, Translate(StrCat(layer.name, ".weight")));
    // Rules may be of more than a layer: what they leave is the rest of its name.
    const std::string tensor = StrCat(name.layer, name.rest);
    const std::string key = tensor.substr(0, tensor.size() - kWeightEndings[0].size());
    const auto [linear, added] = linears_.try_emplace(key, Linear{key, name.form, {}});
    if (added) linears_in_order_.push_back(key);
    linear->second.parts.push_back(std::move(layer));
    return absl::OkStatus();
  }

  absl::Status PlanLinear(Linear& linear) {
    std::vector<SourceLayer>& parts = linear.parts;
    const LinearScheme first = parts.front().scheme;
    const bool quantised = std::all_of(parts.begin(), parts.end(), [&](const SourceLayer& part) {
      return part.scheme != LinearScheme::kHigh && IsFp8(part.scheme) == IsFp8(first);
    });
    if (!quantised) {
      for (SourceLayer& part : parts) FRESCO_RETURN_IF_ERROR(AddHigh(std::move(part)));
      return absl::OkStatus();
    }
    FRESCO_RETURN_IF_ERROR(CheckWhole(linear.form, parts.size(), StrCat(parts.front().name, ".weight")));
    part_.layers += std::ssize(parts);
    const bool high_product = std::any_of(parts.begin(), parts.end(), [](const SourceLayer& part) {
      return part.stored.full_precision_matmul || !QuantisesActivations(part.scheme);
    });
    QuantizedLayer::Form form{linear.name, IsFp8(first), linear.form == LayerForm::kSwapped, high_product};
    QuantizedLayer::Plan(std::make_shared<QuantizedLayer>(std::move(form), std::move(parts)), &part_.tensors, &others_);
    return absl::OkStatus();
  }

  absl::Status AddHigh(SourceLayer layer) {
    const std::string name = StrCat(layer.name, ".weight");
    const std::vector<int64_t> shape = {layer.rows(), layer.columns()};
    if (!layer.stored.scale.defined() && layer.stored.source == "plain") return AddTensor(name);
    return AddRows(name, DType::kBF16, shape,
                   [stored = std::move(layer.stored)] { return Dequantize(stored, at::kBFloat16); });
  }

  absl::Status AddTensor(const std::string& name) {
    if (name.ends_with("scaled_fp8")) return absl::OkStatus();  // of the old format: each layer says it now
    if (name.ends_with(".input_multiplier"))
      return Error(name, "divides the inputs of its layer (calibrated int8), for which a single file has no place");
    FRESCO_ASSIGN_OR_RETURN(const TensorView tensor, store_.Find(name));
    return AddRows(name, tensor.dtype, tensor.shape, [tensor] { return ToTensor(tensor); });
  }

  absl::Status AddRows(const std::string& tensor, DType dtype, std::vector<int64_t> shape,
                       std::function<at::Tensor()> make) {
    FRESCO_ASSIGN_OR_RETURN(SingleFileName name, Translate(tensor));
    if (name.form == LayerForm::kPointwise && name.rest == ".weight") shape.insert(shape.end(), {1, 1});
    const std::string out = StrCat(name.layer, name.rest);
    const auto [found, added] = rows_.try_emplace(out, Rows{{out, dtype, shape}, name.form, {}});
    Rows& rows = found->second;
    if (!added) {
      if (rows.header.dtype != dtype || shape.empty() || rows.header.shape.size() != shape.size()) {
        return Error(tensor,
                     StrCat("does not fit below the other rows of ", out, ", of type ", DTypeName(rows.header.dtype)));
      }
      rows.header.shape.front() += shape.front();
    }
    rows.parts[name.part] = {store_.Where(tensor), std::move(make)};
    return absl::OkStatus();
  }

  absl::Status CheckWhole(LayerForm form, size_t parts, std::string_view tensor) const {
    if (form != LayerForm::kFused || parts == 3) return absl::OkStatus();
    return Error(tensor, "is one with its q, k and v in a single file, which are not all there");
  }

  absl::Status PlanRows(Rows rows) {
    FRESCO_RETURN_IF_ERROR(CheckWhole(rows.form, rows.parts.size(), rows.header.name));
    const bool swapped = rows.form == LayerForm::kSwapped;
    const DType dtype = rows.header.dtype;
    others_.push_back({rows.header, [parts = std::move(rows.parts), swapped, dtype](SafetensorsWriter* writer) {
                         for (const auto& [number, part] : parts) {
                           const at::Tensor made = part.make();
                           if (!IsFinite(made, dtype)) return NotFinite(part.where);
                           FRESCO_RETURN_IF_ERROR(WriteRows(BytesOf(made), swapped, writer));
                         }
                         return absl::OkStatus();
                       }});
    return absl::OkStatus();
  }

  const SingleFileLayout& layout_;
  const WeightStore& store_;
  const int64_t count_;  // of blocks
  std::map<std::string, Linear> linears_;
  std::vector<std::string> linears_in_order_;
  std::map<std::string, Rows> rows_;
  std::vector<PlannedTensor> others_;
  PlannedPart part_;
};

}  // namespace

std::vector<std::string> LinearsOf(const WeightStore& store) {
  std::vector<std::string> names;
  for (const std::string& tensor : store.Names()) {
    const std::optional<std::string_view> layer = Without(tensor, kWeightEndings);
    if (layer && store.FindEntry(tensor)->shape.size() == 2 && !IsEmbedding(*layer)) names.emplace_back(*layer);
  }
  std::sort(names.begin(), names.end(),
            [](std::string_view a, std::string_view b) { return LoadOrder(a) < LoadOrder(b); });
  return names;
}

absl::StatusOr<PlannedPart> PlanFolderPart(const WeightStore& store, const LayerTable& layers) {
  FRESCO_ASSIGN_OR_RETURN(Source source, ReadSource(store, layers, /*all=*/false));
  PlannedPart part;
  part.layers = std::ssize(source.layers);
  std::vector<PlannedTensor> others;
  for (SourceLayer& layer : source.layers) {
    QuantizedLayer::Form form{.name = layer.name, .full_precision_matmul = layer.stored.full_precision_matmul};
    std::vector<SourceLayer> parts;
    parts.push_back(std::move(layer));
    QuantizedLayer::Plan(std::make_shared<QuantizedLayer>(std::move(form), std::move(parts)), &part.tensors, &others);
  }
  for (const std::string& name : source.others) {
    FRESCO_ASSIGN_OR_RETURN(const TensorView tensor, store.Find(name));
    others.push_back(CopyOf(name, tensor, store.Where(name)));
  }
  Append(std::move(others), &part.tensors);
  return part;
}

absl::StatusOr<PlannedPart> PlanSingleFilePart(const WeightStore& store, std::string_view component,
                                               const LayerTable& layers) {
  const SingleFileLayout* layout = SingleFileLayoutOf(component);
  // Where an original file has CLIP-L, nobody reads a projection: one that is more than the identity keeps its names.
  if (layout != nullptr && layout->identity_projection && Projects(store)) layout = DiffusersLayoutOf(component);
  if (layout == nullptr) return absl::InvalidArgumentError(StrCat(component, ": no part of a single file"));
  return SingleFilePlanner(*layout, store).Plan(layers);
}

}  // namespace fresco
