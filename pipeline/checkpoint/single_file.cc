#include "pipeline/checkpoint/single_file.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_join.h"
#include "pipeline/base/printable.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/checkpoint/json_parse.h"
#include "pipeline/checkpoint/single_file_names.h"

namespace fresco {
namespace {

using Json = nlohmann::json;
using Entry = SafetensorsFile::Entry;
using Piece = WeightStore::Piece;

constexpr std::string_view kMarker = "scaled_fp8";
constexpr std::string_view kQuantization = "_quantization_metadata";
constexpr std::string_view kLooseRoot = "model.diffusion_model.";
constexpr int kMaxMetadataDepth = 16;
constexpr size_t kMaxOwnBytes =
    256 << 20;  // of a component, outside of the file's mapping; real ones take 95 MB at most
constexpr size_t kNamesInErrors = 4;

// What a quantised layer has beside its weight. A third of a fused layer's scale belongs to each part where it has a
// value per row; the others describe the layer's input or output, or name the format.
constexpr std::string_view kScales[] = {".scale_weight", ".weight_scale", ".weight._scale"};
constexpr std::string_view kShared[] = {".comfy_quant", ".scale_input", ".input_scale", ".output_scale"};
constexpr std::string_view kWeights[] = {".weight", ".weight._data"};

// 1, little-endian.
struct One {
  DType dtype;
  std::string_view bytes;
};
constexpr One kOnes[] = {
    {DType::kF32, {"\x00\x00\x80\x3f", 4}}, {DType::kF16, {"\x00\x3c", 2}}, {DType::kBF16, {"\x80\x3f", 2}}};

// The one of `endings` that `name` has; nothing where it has none.
std::optional<std::string_view> EndingOf(std::string_view name, std::span<const std::string_view> endings) {
  const auto found =
      std::find_if(endings.begin(), endings.end(), [&](std::string_view ending) { return name.ends_with(ending); });
  return found == endings.end() ? std::nullopt : std::optional(*found);
}

bool Is(std::string_view name, std::span<const std::string_view> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// The first of `names` that starts with `start`; null: there is none.
const std::string* FirstWith(const SafetensorsFile& file, std::string_view start) {
  const auto found = file.entries().lower_bound(start);
  return found != file.entries().end() && found->first.starts_with(start) ? &found->first : nullptr;
}

// One tensor of the file as it lies there.
struct Source {
  std::string_view name;  // in the file
  const Entry& entry;
};

// Reads the tensors of one component.
class ComponentReader {
 public:
  ComponentReader(std::shared_ptr<const SafetensorsFile> file, const SingleFileLayout& layout)
      : file_(std::move(file)), layout_(layout), count_(CountBlocks()) {}

  absl::StatusOr<WeightStore> Read() {
    for (auto it = file_->entries().lower_bound(layout_.root);
         it != file_->entries().end() && it->first.starts_with(layout_.root); ++it) {
      FRESCO_RETURN_IF_ERROR(Add({it->first, it->second}));
    }
    if (layout_.identity_projection) FRESCO_RETURN_IF_ERROR(AddIdentityProjection());
    FRESCO_ASSIGN_OR_RETURN(WeightStore::Metadata metadata, TranslateMetadata());
    return WeightStore::OfPieces(file_->path(), std::move(pieces_), std::move(metadata));
  }

  // Of the tensors that Read has read.
  std::vector<std::string> TakeNames() { return std::move(names_); }

 private:
  std::string_view WithoutRoot(std::string_view name) const { return name.substr(layout_.root.size()); }

  std::optional<DiffusersName> Translate(std::string_view name) const {
    return ToDiffusers(layout_.rules, count_, WithoutRoot(name));
  }

  absl::Status Error(std::string_view name, std::string_view message) const {
    return absl::InvalidArgumentError(StrCat(file_->path(), ": tensor \"", PrintableName(name), "\": ", message));
  }

  // One more than the highest number that follows the layout's sign.
  int64_t CountBlocks() const {
    const std::string start = StrCat(layout_.root, layout_.sign);
    int64_t count = 0;
    for (auto it = file_->entries().lower_bound(start); it != file_->entries().end() && it->first.starts_with(start);
         ++it) {
      const std::optional<int64_t> number = LeadingNumber(std::string_view(it->first).substr(start.size()));
      if (number && Translate(it->first)) count = std::max(count, *number + 1);
    }
    return count;
  }

  absl::Status Add(const Source& tensor) {
    if (WithoutRoot(tensor.name) == kMarker) {
      names_.emplace_back(tensor.name);
      return Put(std::string(kMarker), tensor.name, tensor.entry);
    }
    const std::optional<DiffusersName> name = Translate(tensor.name);
    if (!name || (name->rest.empty() && name->form != LayerForm::kTensor)) return absl::OkStatus();
    FRESCO_RETURN_IF_ERROR(CheckHasWeight(tensor.name));
    const size_t before = pieces_.size();
    FRESCO_RETURN_IF_ERROR(AddNamed(tensor, *name));
    if (pieces_.size() > before) names_.emplace_back(tensor.name);
    return absl::OkStatus();
  }

  absl::Status AddNamed(const Source& tensor, const DiffusersName& name) {
    switch (name.form) {
      case LayerForm::kFused:
        return AddFused(tensor, name);
      case LayerForm::kSwapped:
        return AddSwapped(tensor, name);
      case LayerForm::kPointwise:
        return Put(name.layers.front() + name.rest, tensor.name,
                   Is(name.rest, kWeights) ? AsLinear(tensor.entry) : tensor.entry);
      default:
        return Put(name.layers.front() + name.rest, tensor.name, tensor.entry);
    }
  }

  // Under `name`, what the file calls `stored_name`.
  absl::Status Put(std::string name, std::string_view stored_name, Entry entry) {
    Piece piece{.file = file_, .entry = std::move(entry), .own = nullptr, .stored_name = {}};
    if (stored_name != name) piece.stored_name = stored_name;
    pieces_.emplace(std::move(name), std::move(piece));
    return absl::OkStatus();
  }

  // The weight of the layer that `layer` names, as the file has it; null: it has none.
  const Entry* WeightOf(std::string_view layer) const {
    for (const std::string_view weight : kWeights) {
      const auto found = file_->entries().find(StrCat(layer, weight));
      if (found != file_->entries().end()) return &found->second;
    }
    return nullptr;
  }

  absl::Status CheckHasWeight(std::string_view name) const {
    std::optional<std::string_view> ending = EndingOf(name, kScales);
    if (!ending) ending = EndingOf(name, kShared);
    if (!ending) return absl::OkStatus();
    const std::string_view layer = name.substr(0, name.size() - ending->size());
    if (WeightOf(layer) != nullptr) return absl::OkStatus();
    return Error(name, StrCat("the weight that it belongs to is missing: neither \"", PrintableName(layer), kWeights[0],
                              "\" nor \"…", kWeights[1], "\" is there"));
  }

  enum class Rows { kItsOwn, kNone, kMisfit };

  // Whether a tensor of a layer has a row (or a value) for each of the weight's rows.
  Rows RowsOf(const Source& tensor, std::string_view rest) const {
    if (Is(rest, kShared)) return Rows::kNone;
    if (Is(rest, kWeights) || rest == ".bias") return Rows::kItsOwn;
    if (tensor.entry.numel() == 1) return Rows::kNone;
    const Entry* const weight = WeightOf(tensor.name.substr(0, tensor.name.size() - rest.size()));
    const bool fits = weight != nullptr && !weight->shape.empty() && !tensor.entry.shape.empty() &&
                      tensor.entry.shape.front() == weight->shape.front();
    return fits ? Rows::kItsOwn : Rows::kMisfit;
  }

  // Why a tensor that is neither one value nor one per row cannot be the layer's. What is not known may be what makes
  // the weight unreadable, scales per block for example: each part of the layer has it whole, for its reader to refuse.
  absl::Status CheckMisfit(const Source& tensor, std::string_view rest) const {
    if (!Is(rest, kScales)) return absl::OkStatus();
    return Error(tensor.name, StrCat("shape ", ShapeString(tensor.entry.shape),
                                     " is neither one value nor one per row of its weight"));
  }

  // The i-th of `parts` equal parts of a tensor's rows.
  absl::StatusOr<Entry> Part(const Source& tensor, int64_t parts, int64_t i) const {
    Entry part = tensor.entry;
    if (part.shape.empty() || part.shape.front() % parts != 0 || part.bytes() % parts != 0) {
      return Error(tensor.name,
                   StrCat("shape ", ShapeString(part.shape), " does not divide into ", parts, " equal parts"));
    }
    part.shape.front() /= parts;
    const uint64_t bytes = part.bytes() / parts;
    part.begin += bytes * i;
    part.end = part.begin + bytes;
    return part;
  }

  absl::Status AddFused(const Source& tensor, const DiffusersName& name) {
    const Rows rows = RowsOf(tensor, name.rest);
    if (rows == Rows::kMisfit) FRESCO_RETURN_IF_ERROR(CheckMisfit(tensor, name.rest));
    const int64_t parts = static_cast<int64_t>(name.layers.size());
    for (int64_t i = 0; i < parts; ++i) {
      absl::StatusOr<Entry> part = tensor.entry;
      if (rows == Rows::kItsOwn) part = Part(tensor, parts, i);
      if (!part.ok()) return part.status();
      FRESCO_RETURN_IF_ERROR(Put(name.layers[i] + name.rest, tensor.name, *std::move(part)));
    }
    return absl::OkStatus();
  }

  absl::Status AddSwapped(const Source& tensor, const DiffusersName& name) {
    const Rows rows = RowsOf(tensor, name.rest);
    if (rows == Rows::kMisfit) FRESCO_RETURN_IF_ERROR(CheckMisfit(tensor, name.rest));
    if (rows != Rows::kItsOwn) return Put(name.layers.front() + name.rest, tensor.name, tensor.entry);
    FRESCO_ASSIGN_OR_RETURN(const Entry upper, Part(tensor, 2, 0));
    FRESCO_ASSIGN_OR_RETURN(const Entry lower, Part(tensor, 2, 1));
    if (tensor.entry.bytes() > kMaxOwnBytes - own_bytes_) return Error(tensor.name, "too large");
    own_bytes_ += tensor.entry.bytes();
    std::vector<std::byte> own;
    own.reserve(tensor.entry.bytes());
    for (const Entry* half : {&lower, &upper}) {
      const std::span<const std::byte> data = file_->Data(*half);
      own.insert(own.end(), data.begin(), data.end());
    }
    PutOwn(name.layers.front() + name.rest, tensor.name, tensor.entry.dtype_name, tensor.entry.shape, std::move(own));
    return absl::OkStatus();
  }

  void PutOwn(std::string name, std::string_view stored_name, std::string dtype, std::vector<int64_t> shape,
              std::vector<std::byte> data) {
    const Entry entry{.dtype_name = std::move(dtype), .shape = std::move(shape), .begin = 0, .end = data.size()};
    pieces_.emplace(std::move(name), Piece{.file = file_,
                                           .entry = entry,
                                           .own = std::make_shared<const std::vector<std::byte>>(std::move(data)),
                                           .stored_name = std::string(stored_name)});
  }

  // [out, in, 1, 1] as [out, in]; other shapes stay.
  static Entry AsLinear(Entry entry) {
    while (entry.shape.size() > 2 && entry.shape.back() == 1) entry.shape.pop_back();
    return entry;
  }

  // In the type that the embeddings are in, so that the weights are those of a folder, and their digest too.
  absl::Status AddIdentityProjection() {
    const auto positions = pieces_.find("text_model.embeddings.position_embedding.weight");
    if (positions == pieces_.end()) return absl::OkStatus();
    const Entry& entry = positions->second.entry;
    const int64_t width = entry.shape.empty() ? 0 : entry.shape.back();
    constexpr int64_t kMaxWidth = 4096;
    static_assert(kMaxWidth * kMaxWidth * sizeof(float) <= kMaxOwnBytes);
    if (width > kMaxWidth) return Error(StrCat(layout_.root, positions->first), "too wide");
    const auto found = std::find_if(std::begin(kOnes), std::end(kOnes),
                                    [&](const One& one) { return DTypeName(one.dtype) == entry.dtype_name; });
    const One& one = found == std::end(kOnes) ? kOnes[0] : *found;
    const auto size = static_cast<int64_t>(one.bytes.size());
    std::vector<std::byte> identity(width * width * size);
    for (int64_t i = 0; i < width; ++i) std::memcpy(&identity[i * (width + 1) * size], one.bytes.data(), size);
    PutOwn("text_projection.weight", "", std::string(DTypeName(one.dtype)), {width, width}, std::move(identity));
    return absl::OkStatus();
  }

  // Writers disagree on whether the transformer's layers begin with "model.diffusion_model.", whatever its tensors do.
  std::optional<DiffusersName> TranslateLayer(std::string_view layer) const {
    for (const std::string_view root : {layout_.root, kLooseRoot, std::string_view()}) {
      if (root != layout_.root && layout_.component != "transformer") break;
      if (!layer.starts_with(root)) continue;
      const auto name = ToDiffusers(layout_.rules, count_, layer.substr(root.size()));
      if (name) return name;
    }
    return std::nullopt;
  }

  absl::StatusOr<WeightStore::Metadata> TranslateMetadata() const {
    WeightStore::Metadata metadata = file_->metadata();
    const auto quantization = metadata.find(std::string(kQuantization));
    if (quantization == metadata.end()) return metadata;
    const std::string where = StrCat(file_->path(), ": __metadata__ \"", kQuantization, "\"");
    absl::StatusOr<Json> json = ParseJson(quantization->second, kMaxMetadataDepth);
    if (!json.ok()) return Annotate(json.status(), where);
    if (!json->is_object() || !json->contains("layers") || !(*json)["layers"].is_object()) {
      return absl::InvalidArgumentError(StrCat(where, ": \"layers\" is missing or not an object"));
    }
    Json layers = Json::object();
    for (const auto& [layer, value] : (*json)["layers"].items()) {
      const std::optional<DiffusersName> name = TranslateLayer(layer);
      if (!name) continue;
      for (const std::string& part : name->layers) {
        const auto [other, added] = layers.emplace(part + name->rest, value);
        if (!added && other.value() != value) {
          return absl::InvalidArgumentError(StrCat(where, ": layer \"", PrintableName(layer),
                                                   "\" is there twice, with and without the root of its ",
                                                   "name, and of two formats"));
        }
      }
    }
    (*json)["layers"] = std::move(layers);
    quantization->second = json->dump();
    return metadata;
  }

  const std::shared_ptr<const SafetensorsFile> file_;
  const SingleFileLayout& layout_;
  const int64_t count_;  // of blocks
  WeightStore::Pieces pieces_;
  std::vector<std::string> names_;  // in the file
  size_t own_bytes_ = 0;            // of swapped tensors
};

// Some names, from all over the file.
std::string SomeNames(const SafetensorsFile& file) {
  std::vector<std::string> some;
  const size_t step = std::max<size_t>(1, file.entries().size() / kNamesInErrors);
  size_t i = 0;
  for (const auto& [name, entry] : file.entries()) {
    if (i++ % step == 0 && some.size() < kNamesInErrors) some.push_back(StrCat("\"", PrintableName(name), "\""));
  }
  return absl::StrJoin(some, ", ");
}

// The layouts that the file's components are in, each at most once.
absl::StatusOr<std::map<std::string_view, const SingleFileLayout*>> Recognise(const SafetensorsFile& file) {
  std::map<std::string_view, const SingleFileLayout*> found;
  std::map<std::string_view, const std::string*> examples;
  for (const SingleFileLayout& layout : SingleFileLayouts()) {
    const std::string* const example = FirstWith(file, StrCat(layout.root, layout.sign));
    if (example == nullptr) continue;
    if (!found.emplace(layout.component, &layout).second) {
      return absl::InvalidArgumentError(StrCat(file.path(), ": holds the ", layout.component, " in two layouts: \"",
                                               PrintableName(*examples[layout.component]), "\" is of one, \"",
                                               PrintableName(*example), "\" of another"));
    }
    examples[layout.component] = example;
  }
  if (!found.empty()) return found;
  if (file.entries().empty()) return absl::InvalidArgumentError(StrCat(file.path(), ": holds no tensors"));
  return absl::InvalidArgumentError(StrCat(file.path(),
                                           ": no part of Stable Diffusion 3 in a layout that is known; some of its ",
                                           file.entries().size(), " tensors: ", SomeNames(file)));
}

}  // namespace

absl::StatusOr<SingleFile> SingleFile::Open(const std::string& path) {
  FRESCO_ASSIGN_OR_RETURN(const std::shared_ptr<const SafetensorsFile> file, SafetensorsFile::Open(path));
  FRESCO_ASSIGN_OR_RETURN(const auto layouts, Recognise(*file));
  SingleFile single;
  single.file_ = file;
  for (const auto& [component, layout] : layouts) {
    ComponentReader reader(file, *layout);
    FRESCO_ASSIGN_OR_RETURN(WeightStore weights, reader.Read());
    single.components_.emplace(component, Stored{std::move(weights), reader.TakeNames()});
  }
  return single;
}

absl::StatusOr<WeightStore> SingleFile::Component(std::string_view name) const {
  const auto found = components_.find(name);
  if (found != components_.end()) return found->second.weights;
  return absl::NotFoundError(
      StrCat(path(), ": holds no ", PrintableName(name), ", only ", absl::StrJoin(Components(), ", ")));
}

std::vector<std::string> SingleFile::Components() const {
  std::vector<std::string> names;
  for (const auto& [name, stored] : components_) names.push_back(name);
  return names;
}

std::vector<std::string> SingleFile::StoredNames(std::string_view component) const {
  const auto found = components_.find(component);
  return found == components_.end() ? std::vector<std::string>() : found->second.names;
}

}  // namespace fresco
