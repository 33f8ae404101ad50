#include "pipeline/models/mmdit_shape.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/models/limits.h"

namespace fresco {
namespace {

constexpr std::string_view kBlocks = "transformer_blocks.";
constexpr std::string_view kPatches = "pos_embed.proj.weight";
constexpr std::string_view kPositions = "pos_embed.pos_embed";
constexpr std::string_view kContext = "context_embedder.weight";
constexpr std::string_view kPooled = "time_text_embed.text_embedder.linear_1.weight";
constexpr std::string_view kOut = "proj_out.weight";
constexpr std::string_view kHeadNorm = "transformer_blocks.0.attn.norm_q.weight";
constexpr int64_t kUsualHeadDim = 64;
constexpr int64_t kUsualSampleSize = 128;

std::string DualAttention(int64_t block) {
  return StrCat(kBlocks, block, ".attn2.to_q.weight");
}

// Reads shapes. The first error is kept and makes every later read return 1, so that a configuration reads as a list of
// tensors: check status() at the end.
class ShapeReader {
 public:
  explicit ShapeReader(const WeightStore& weights) : weights_(weights) {}

  // How long the tensor of `rank` dimensions is along `axis`.
  int64_t Extent(std::string_view name, size_t rank, size_t axis) {
    const SafetensorsFile::Entry* const entry = Find(name);
    if (entry == nullptr) return Fail(StrCat(weights_.path(), ": tensor \"", name, "\" is missing"));
    const std::vector<int64_t>& shape = entry->shape;
    const bool usable = shape.size() == rank &&
                        std::all_of(shape.begin(), shape.end(), [](int64_t n) { return n >= 1 && n <= kMaxElements; });
    return usable ? shape[axis] : Fail(StrCat(Where(name), " is not one of a Stable Diffusion 3 transformer's"));
  }

  // Of the quantity that `name` holds `squared` of.
  int64_t Root(std::string_view name, int64_t squared) {
    const auto root = static_cast<int64_t>(std::lround(std::sqrt(static_cast<double>(squared))));
    return root * root == squared ? root : Fail(StrCat(Where(name), " is not that of a square"));
  }

  int64_t Quotient(std::string_view name, int64_t dividend, int64_t divisor) {
    return dividend % divisor == 0 ? dividend / divisor : Fail(StrCat(Where(name), " does not divide by ", divisor));
  }

  bool Contains(std::string_view name) const { return Find(name) != nullptr; }

  int64_t Blocks() {
    const int64_t count = CountBlocks(weights_, kBlocks);
    if (count >= 1 && count <= kMaxLayers) return count;
    return Fail(
        StrCat(weights_.path(), ": ", count, " blocks (\"", kBlocks, "N\"), where 1 to ", kMaxLayers, " can be"));
  }

  // FILE: tensor "NAME" (there "STORED NAME") of shape [...]
  std::string Where(std::string_view name) const {
    const SafetensorsFile::Entry* const entry = Find(name);
    const std::string shape = entry == nullptr ? "" : StrCat(" of shape ", ShapeString(entry->shape));
    return StrCat(weights_.Where(name), shape);
  }

  const absl::Status& status() const { return status_; }

 private:
  static constexpr int64_t kMaxElements = int64_t{1} << 24;

  // Optimum-quanto keeps the codes of X.weight in X.weight._data.
  const SafetensorsFile::Entry* Find(std::string_view name) const {
    const SafetensorsFile::Entry* const entry = weights_.FindEntry(name);
    return entry != nullptr ? entry : weights_.FindEntry(StrCat(name, "._data"));
  }

  int64_t Fail(const std::string& message) {
    if (status_.ok()) status_ = absl::InvalidArgumentError(message);
    return 1;
  }

  const WeightStore& weights_;
  absl::Status status_;
};

// What a configuration says, what the weights say, and which tensor does.
struct Fact {
  std::string_view key;
  int64_t MmditConfig::*value;
  std::string_view tensor;
};

constexpr Fact kFacts[] = {
    {"in_channels", &MmditConfig::in_channels, kPatches},
    {"patch_size", &MmditConfig::patch_size, kPatches},
    {"pos_embed_max_size", &MmditConfig::pos_embed_max_size, kPositions},
    {"joint_attention_dim", &MmditConfig::joint_attention_dim, kContext},
    {"pooled_projection_dim", &MmditConfig::pooled_projection_dim, kPooled},
    {"out_channels", &MmditConfig::out_channels, kOut},
};

// Compares a configuration with the one that the weights say.
class Comparison {
 public:
  Comparison(std::string_view path, const WeightStore& weights) : path_(path), weights_(weights) {}

  absl::Status Numbers(std::string_view key, int64_t configured, int64_t stored, std::string_view tensor) const {
    if (configured == stored) return absl::OkStatus();
    return Error(tensor, StrCat(" says ", stored), key, StrCat("is ", configured));
  }

  // Of what a tensor is there for.
  absl::Status Presence(std::string_view key, bool configured, std::string_view tensor) const {
    const bool stored = ShapeReader(weights_).Contains(tensor);
    if (configured == stored) return absl::OkStatus();
    return Error(tensor, stored ? " is there" : " is missing", key, configured ? "asks for it" : "leaves it out");
  }

 private:
  absl::Status Error(std::string_view tensor, std::string_view stored, std::string_view key,
                     std::string_view configured) const {
    return absl::InvalidArgumentError(StrCat(ShapeReader(weights_).Where(tensor), stored, ", where ", path_, ": ", key,
                                             " ", configured, ": it is the configuration of another model"));
  }

  const std::string_view path_;
  const WeightStore& weights_;
};

// Any tensor of the block, for messages.
std::string TensorOfBlock(const WeightStore& weights, int64_t block) {
  const std::string prefix = StrCat(kBlocks, block, ".");
  for (const std::string& name : weights.Names()) {
    if (name.starts_with(prefix)) return name;
  }
  return prefix + "…";
}

}  // namespace

absl::StatusOr<MmditConfig> InferMmditConfig(const WeightStore& weights) {
  ShapeReader shapes(weights);
  MmditConfig config;
  config.num_layers = shapes.Blocks();
  const int64_t dim = shapes.Extent(kPatches, 4, 0);
  config.in_channels = shapes.Extent(kPatches, 4, 1);
  config.patch_size = shapes.Extent(kPatches, 4, 2);
  config.pos_embed_max_size = shapes.Root(kPositions, shapes.Extent(kPositions, 3, 1));
  config.joint_attention_dim = shapes.Extent(kContext, 2, 1);
  config.pooled_projection_dim = shapes.Extent(kPooled, 2, 1);
  config.out_channels = shapes.Quotient(kOut, shapes.Extent(kOut, 2, 0), config.patch_size * config.patch_size);
  config.qk_norm = shapes.Contains(kHeadNorm);
  config.head_dim = config.qk_norm ? shapes.Extent(kHeadNorm, 1, 0) : kUsualHeadDim;
  config.num_heads = shapes.Quotient(kPatches, dim, config.head_dim);
  config.sample_size = kUsualSampleSize;
  for (int64_t block = 0; block < config.num_layers; ++block) {
    if (shapes.Contains(DualAttention(block))) config.dual_attention_layers.push_back(block);
  }
  FRESCO_RETURN_IF_ERROR(shapes.status());
  return config;
}

absl::Status CheckMmditConfig(const MmditConfig& config, std::string_view config_path, const WeightStore& weights) {
  FRESCO_ASSIGN_OR_RETURN(const MmditConfig stored, InferMmditConfig(weights));
  const Comparison compare(config_path, weights);
  FRESCO_RETURN_IF_ERROR(
      compare.Numbers("num_attention_heads times attention_head_dim", config.dim(), stored.dim(), kPatches));
  FRESCO_RETURN_IF_ERROR(compare.Numbers("num_layers", config.num_layers, stored.num_layers,
                                         TensorOfBlock(weights, stored.num_layers - 1)));
  FRESCO_RETURN_IF_ERROR(compare.Presence("qk_norm", config.qk_norm, kHeadNorm));
  if (stored.qk_norm) {
    FRESCO_RETURN_IF_ERROR(compare.Numbers("attention_head_dim", config.head_dim, stored.head_dim, kHeadNorm));
  }
  for (int64_t block = 0; block < config.num_layers; ++block) {
    FRESCO_RETURN_IF_ERROR(
        compare.Presence("dual_attention_layers", config.dual_attention(block), DualAttention(block)));
  }
  for (const Fact& fact : kFacts) {
    FRESCO_RETURN_IF_ERROR(compare.Numbers(fact.key, config.*fact.value, stored.*fact.value, fact.tensor));
  }
  return absl::OkStatus();
}

}  // namespace fresco
