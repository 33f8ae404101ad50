#include "pipeline/models/mmdit.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/addcmul.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/sin.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/models/layer_work.h"
#include "pipeline/models/mmdit_attention.h"
#include "pipeline/models/mmdit_weights.h"
#include "pipeline/models/packed_tokens.h"
#include "pipeline/models/position_table.h"
#include "pipeline/precision/fused_rows.h"
#include "pipeline/precision/quantized_linear.h"
#include "pipeline/precision/row_independence.h"

namespace fresco {
namespace {

// What one adaptive norm's linear makes of the timestep and the pooled text: its parts, each [B, 1, D].
struct Modulation {
  std::vector<at::Tensor> chunk;

  const at::Tensor& shift_attention() const { return chunk[0]; }
  const at::Tensor& scale_attention() const { return chunk[1]; }
  const at::Tensor& gate_attention() const { return chunk[2]; }
  const at::Tensor& shift_mlp() const { return chunk[3]; }
  const at::Tensor& scale_mlp() const { return chunk[4]; }
  const at::Tensor& gate_mlp() const { return chunk[5]; }
  const at::Tensor& shift_dual() const { return chunk[6]; }
  const at::Tensor& scale_dual() const { return chunk[7]; }
  const at::Tensor& gate_dual() const { return chunk[8]; }
};

// Hands out the parts of the one product that holds all modulations, in their order.
class ModulationParts {
 public:
  // modulations: [B, parts · D]
  ModulationParts(const at::Tensor& modulations, int64_t dim) : rows_(modulations.unsqueeze(1)), dim_(dim) {}

  Modulation Next(int64_t parts) {
    const at::Tensor own = rows_.narrow(-1, next_, parts * dim_);
    next_ += parts * dim_;
    return {own.chunk(parts, -1)};
  }

 private:
  const at::Tensor rows_;
  const int64_t dim_;
  int64_t next_ = 0;
};

// The quantised linear that takes codes of `x`'s tokens, made by a kernel on the way; or null.
const QuantizedLinear* TakesCodes(const Linear& linear, const at::Tensor& x) {
  const QuantizedLinear* const quantized = linear.quantized.get();
  const bool takes = quantized != nullptr && QuantisesActivations(quantized->scheme());
  // A probe sees tokens, not codes.
  return takes && linear.tap == nullptr && HasRowKernels(x) ? quantized : nullptr;
}

at::Tensor ProductOfCodes(const char* name, const Linear& linear, const QuantizedRows& rows) {
  const LayerScope scope(name, [&] { return CodesWork(linear, rows); });
  return linear.quantized->Product(rows);
}

at::Tensor AddBranch(const Residual& x) {
  const LayerScope scope("residual", [&] { return ElementwiseWork({x.x, x.gate, x.branch}, BytesOf(x.x)); });
  return GateResidual(x);
}

// With its branch, if there is one, added.
Residual Added(Residual x) {
  if (x.branch.defined()) x = {AddBranch(x), {}, {}, x.packed};
  return x;
}

// Likewise, but where a kernel adds it together with the norm that comes next.
Residual AddedHere(Residual x) {
  return HasRowKernels(x.x) ? std::move(x) : Added(std::move(x));
}

// A stream's tokens on their way into linears: LayerNorm, then a modulation for each. `name`: the norm's.
class AdaptiveNorm {
 public:
  AdaptiveNorm(const char* name, Residual x) : name_(name), x_(AddedHere(std::move(x))) {}

  // linear(LN(x) * (1 + scale) + shift)
  at::Tensor Project(const char* linear_name, const Linear& linear, const at::Tensor& scale, const at::Tensor& shift) {
    const ScaleShift modulation{scale, shift, kMmditEps};
    if (const QuantizedLinear* const codes = TakesCodes(linear, x_.x))
      return ProductOfCodes(linear_name, linear, Codes(modulation, codes->input_rows()));
    return TokensOf(linear_name, linear, Modulated(modulation));
  }

  // The tokens, with their branch added; after the first Project.
  const at::Tensor& x() const { return x_.x; }

 private:
  QuantizedRows Codes(const ScaleShift& modulation, const RowQuantization& rows) {
    const LayerScope scope(name_, [&] { return NormModulateWork(x_, modulation, &rows); });
    return NormModulateQuantize(&x_, modulation, rows);
  }

  at::Tensor Modulated(const ScaleShift& modulation) {
    const LayerScope scope(name_, [&] { return NormModulateWork(x_, modulation); });
    if (HasRowKernels(x_.x) || x_.packed != nullptr) return NormModulate(&x_, modulation);
    if (!normed_.defined()) normed_ = LayerNorm(x_.x, {}, kMmditEps);
    return at::addcmul(modulation.shift, normed_, modulation.scale + 1);
  }

  const char* const name_;
  Residual x_;
  at::Tensor normed_;  // which the linears share where no kernel does it all at once
};

// The names of a feed-forward's layers.
struct FeedForwardNames {
  const char *norm, *up, *gelu, *down;
};
constexpr FeedForwardNames kFeedForward = {"norm2", "ff.net.0.proj", "ff.gelu", "ff.net.2"};
constexpr FeedForwardNames kContextFeedForward = {"norm2_context", "ff_context.net.0.proj", "ff_context.gelu",
                                                  "ff_context.net.2"};

// In place. Each sample on its own, as GeluTanh does it.
void GeluTanhOf(at::Tensor& up, const PackedRows* packed) {
  if (packed == nullptr || !up.is_cpu()) {
    GeluTanh(up);
    return;
  }
  int64_t first = 0;
  for (const int64_t count : packed->lengths) {
    at::Tensor sample = up.narrow(1, first, count);
    GeluTanh(sample);
    first += count;
  }
}

at::Tensor Down(at::Tensor up, const PackedRows* packed, const MmditFeedForward& weights,
                const FeedForwardNames& names) {
  if (const QuantizedLinear* const quantized = TakesCodes(weights.down, up)) {
    const auto codes = [&] {
      const RowQuantization rows = quantized->input_rows();
      const LayerScope scope(names.gelu, [&] { return ActivationWork(up, &rows); });
      return GeluQuantize(up, rows);
    };
    return ProductOfCodes(names.down, weights.down, codes());
  }
  {
    const LayerScope scope(names.gelu, [&] { return ActivationWork(up); });
    GeluTanhOf(up, packed);
  }
  return TokensOf(names.down, weights.down, up);
}

// x + gate_mlp * ff(LN(x) * (1 + scale_mlp) + shift_mlp), which is added with the next block's norm where a kernel does
// both.
Residual FeedForward(Residual x, const MmditFeedForward& weights, const Modulation& m, const FeedForwardNames& names) {
  const PackedRows* const packed = x.packed;
  AdaptiveNorm norm(names.norm, std::move(x));
  const at::Tensor y = Down(norm.Project(names.up, weights.up, m.scale_mlp(), m.shift_mlp()), packed, weights, names);
  return AddedHere({norm.x(), m.gate_mlp(), y, packed});
}

// The two streams of tokens.
struct Streams {
  Residual image;                        // [B, N, D]
  Residual text;                         // [B, T, D]; undefined after the last block
  const PackedTokens* packed = nullptr;  // image is [1, M, D], of samples of different lengths

  const PackedRows* rows() const { return packed == nullptr ? nullptr : &packed->rows(); }
};

Streams RunBlock(Streams in, const Modulation& image, const Modulation& text, const MmditBlock& block, int64_t heads) {
  AdaptiveNorm image_norm("norm1", std::move(in.image)), text_norm("norm1_context", std::move(in.text));
  // The last block's context has scale before shift, and nothing else.
  const Linear& text_qkv = block.context_attention.qkv;
  const size_t text_scale = block.is_last() ? 0 : 1;
  const at::Tensor text_heads = text_norm.Project("attn.add_q_proj, add_k_proj, add_v_proj", text_qkv,
                                                  text.chunk[text_scale], text.chunk[1 - text_scale]);
  const at::Tensor image_heads = image_norm.Project("attn.to_q, to_k, to_v", block.attention.qkv,
                                                    image.scale_attention(), image.shift_attention());
  const JointMixture mixed = JointAttention(image_heads, text_heads, block, heads, in.packed);

  Streams out{{}, {}, in.packed};
  Residual x{image_norm.x(), image.gate_attention(), TokensOf("attn.to_out.0", block.attention.out, mixed.image),
             in.rows()};
  if (block.has_dual()) {
    const at::Tensor dual =
        image_norm.Project("attn2.to_q, to_k, to_v", block.dual.qkv, image.scale_dual(), image.shift_dual());
    x = {AddBranch(x), image.gate_dual(),
         TokensOf("attn2.to_out.0", block.dual.out, ImageAttention(dual, block.dual, heads, in.packed)), in.rows()};
  }
  out.image = FeedForward(std::move(x), block.feed_forward, image, kFeedForward);
  if (block.is_last()) return out;
  const at::Tensor text_out = TokensOf("attn.to_add_out", block.context_attention.out, mixed.text);
  out.text = FeedForward({text_norm.x(), text.gate_attention(), text_out}, block.context_feed_forward, text,
                         kContextFeedForward);
  return out;
}

// Scale before shift.
at::Tensor NormOut(Residual x, const Modulation& modulation) {
  const ScaleShift parts{modulation.chunk[0], modulation.chunk[1], kMmditEps};
  const LayerScope scope("norm_out", [&] { return NormModulateWork(x, parts); });
  return NormModulate(&x, parts);
}

// [B] → [B, 256] in fp32: cosines, then sines, of the timestep times 10000^(-i/128).
at::Tensor Sinusoids(const at::Tensor& timesteps) {
  constexpr int64_t kHalf = 128;
  const at::Tensor frequency =
      at::exp(at::arange(kHalf, at::TensorOptions(timesteps.device()).dtype(at::kFloat)) * -std::log(10000.0) / kHalf);
  const at::Tensor angle = timesteps.to(at::kFloat).unsqueeze(1) * frequency.unsqueeze(0);
  return at::cat({at::cos(angle), at::sin(angle)}, -1);
}

at::Tensor EmbedConditions(const MmditWeights& weights, const at::Tensor& timesteps, const at::Tensor& pooled) {
  const ModuleScope scope("time_text_embed");
  const at::Tensor sinusoids = Sinusoids(timesteps).to(pooled.scalar_type());
  at::Tensor time = RowsOf("timestep_embedder.linear_1", weights.timestep_1, sinusoids);
  at::Tensor text = RowsOf("text_embedder.linear_1", weights.pooled_1, pooled);
  return RowsOf("timestep_embedder.linear_2", weights.timestep_2, Silu(time)) +
         RowsOf("text_embedder.linear_2", weights.pooled_2, Silu(text));
}

// [B, C, H, W] → [B, (H/p)(W/p), C p p]: what each patch's kernel sees.
at::Tensor Patches(const at::Tensor& latents, int64_t p) {
  const int64_t batch = latents.size(0), channels = latents.size(1), h = latents.size(2) / p, w = latents.size(3) / p;
  return latents.view({batch, channels, h, p, w, p})
      .permute({0, 2, 4, 1, 3, 5})
      .reshape({batch, h * w, channels * p * p});
}

int64_t TokensIn(const at::Tensor& latents, int64_t p) {
  return latents.size(2) * latents.size(3) / (p * p);
}

// Calls visit(each, tokens [B, N, width]) for latents of each size, with a view of their tokens of all: [B, N, width]
// or, packed, [1, M, width].
template <typename Visit>
void ForEachSize(const std::vector<at::Tensor>& latents, int64_t p, const at::Tensor& tokens, bool packed,
                 const Visit& visit) {
  int64_t first_sample = 0, first_token = 0;
  for (const at::Tensor& each : latents) {
    const int64_t samples = each.size(0), count = TokensIn(each, p);
    visit(each, packed ? tokens.narrow(1, first_token, samples * count).view({samples, count, tokens.size(2)})
                       : tokens.narrow(0, first_sample, samples));
    first_sample += samples;
    first_token += samples * count;
  }
}

bool LengthsDiffer(const std::vector<at::Tensor>& latents, int64_t p) {
  return std::any_of(latents.begin(), latents.end(),
                     [&](const at::Tensor& each) { return TokensIn(each, p) != TokensIn(latents.front(), p); });
}

PackedTokens PackedOf(const std::vector<at::Tensor>& latents, int64_t p, const at::Tensor& text) {
  std::vector<PackedTokens::Pictures> pictures;
  for (const at::Tensor& each : latents) pictures.push_back({each.size(0), TokensIn(each, p)});
  return {pictures, text.size(1), text.device()};
}

// Whether a product over many samples' tokens gives each sample what it has by itself, or nobody is promised that.
bool TakesPackedTokens(const at::Tensor& x) {
  return !x.is_cpu() || (RowsAreIndependent(at::kFloat) && RowsAreIndependent(x.scalar_type()));
}

// [B, h w, p p C] → [B, C, h p, w p]
at::Tensor Unpatchify(const at::Tensor& x, int64_t h, int64_t w, int64_t p) {
  const int64_t batch = x.size(0), channels = x.size(2) / (p * p);
  return x.view({batch, h, w, p, p, channels}).permute({0, 5, 1, 3, 2, 4}).reshape({batch, channels, h * p, w * p});
}

}  // namespace

absl::StatusOr<Mmdit> Mmdit::Load(const std::string& dir, const Placement& placement, const LayerTable& layers) {
  FRESCO_ASSIGN_OR_RETURN(const MmditConfig config, ReadMmditConfig(dir));
  FRESCO_ASSIGN_OR_RETURN(WeightStore weights, WeightStore::Open(dir, kDiffusersStem));
  return Load(config, std::move(weights), placement, layers);
}

absl::StatusOr<Mmdit> Mmdit::Load(const MmditConfig& config, WeightStore weights, const Placement& placement,
                                  const LayerTable& layers, const LinearObservers& observers) {
  WeightReader reader(std::move(weights), placement, layers);
  reader.SetObservers("transformer", observers);
  return Read(config, std::move(reader));
}

absl::StatusOr<Mmdit> Mmdit::Random(const MmditConfig& config, const Placement& placement, const LayerTable& layers) {
  return Read(config, WeightReader(placement, layers));
}

absl::StatusOr<Mmdit> Mmdit::Shape(const MmditConfig& config, const Placement& placement, const LayerTable& layers) {
  FRESCO_ASSIGN_OR_RETURN(Mmdit model, Read(config, WeightReader::OfShapes(placement, layers)));
  model.placement_ = placement;
  return model;
}

absl::StatusOr<Mmdit> Mmdit::Read(const MmditConfig& config, WeightReader reader) {
  Mmdit model;
  model.config_ = config;
  auto weights = std::make_shared<MmditWeights>(ReadMmditWeights(config, &reader));
  FRESCO_RETURN_IF_ERROR(reader.status());
  model.placement_ = reader.placement();
  model.weight_bytes_ = reader.bytes();
  model.linears_ = reader.linears();
  model.positions_ = std::make_shared<PositionTable>(weights->positions, config.pos_embed_max_size, reader.placement());
  model.weights_ = std::move(weights);
  return model;
}

at::Tensor Mmdit::Embed(const std::vector<at::Tensor>& latents, const PackedTokens* packed) const {
  const int64_t p = config_.patch_size;
  std::vector<at::Tensor> patches;
  for (const at::Tensor& each : latents) {
    TORCH_CHECK(each.size(2) % p == 0 && each.size(3) % p == 0, "latents of ", each.size(3), "x", each.size(2),
                " are not a multiple of the patch size ", p);
    patches.push_back(Patches(each.contiguous(), p));
    if (packed != nullptr) patches.back() = patches.back().view({1, -1, patches.back().size(2)});
  }
  at::Tensor tokens = TokensOf("pos_embed.proj", weights_->patch,
                               patches.size() == 1 ? patches.front() : at::cat(patches, packed == nullptr ? 0 : 1));
  ForEachSize(latents, p, tokens, packed != nullptr, [&](const at::Tensor& each, const at::Tensor& own) {
    own.add_(positions_->Crop(each.size(2) / p, each.size(3) / p));
  });
  return tokens;
}

std::vector<at::Tensor> Mmdit::Positions(const std::vector<at::Tensor>& latents) const {
  const int64_t p = config_.patch_size;
  std::vector<at::Tensor> positions;
  for (const at::Tensor& each : latents) positions.push_back(positions_->Crop(each.size(2) / p, each.size(3) / p));
  return positions;
}

std::vector<at::Tensor> Mmdit::Unpatch(const at::Tensor& tokens, const std::vector<at::Tensor>& latents,
                                       const PackedTokens* packed) const {
  const int64_t p = config_.patch_size;
  std::vector<at::Tensor> velocities;
  ForEachSize(latents, p, tokens, packed != nullptr, [&](const at::Tensor& each, const at::Tensor& own) {
    velocities.push_back(Unpatchify(own, each.size(2) / p, each.size(3) / p, p));
  });
  return velocities;
}

// Tokens [B, N, D] through all blocks and the output's projection: [B, N, p p C].
at::Tensor Mmdit::RunBlocks(at::Tensor image, at::Tensor text, const PackedTokens* packed, const Modulations& given,
                            const Observer& observer) const {
  const MmditWeights& weights = *weights_;
  ModulationParts modulations(given.blocks, config_.dim());
  Streams x{{std::move(image), {}, {}}, {std::move(text), {}, {}}, packed};
  x.image.packed = x.rows();
  for (size_t i = 0; i < weights.blocks.size(); ++i) {
    const ModuleScope scope("transformer_blocks", i);
    const MmditBlock& block = weights.blocks[i];
    const Modulation for_image = modulations.Next(block.image_parts());
    const Modulation for_text = modulations.Next(block.text_parts());
    x = RunBlock(std::move(x), for_image, for_text, block, config_.num_heads);
    if (!observer) continue;
    x.image = Added(std::move(x.image));
    x.text = Added(std::move(x.text));
    observer(StrCat("block.", i, ".image"), x.image.x);
    if (x.text.x.defined()) observer(StrCat("block.", i, ".context"), x.text.x);
  }
  const at::Tensor normed = NormOut(std::move(x.image), ModulationParts(given.norm_out, config_.dim()).Next(2));
  if (observer) observer("norm_out", normed);
  return TokensOf("proj_out", weights.out, normed);
}

Mmdit::Modulations Mmdit::Modulate(const at::Tensor& pooled, const at::Tensor& timesteps,
                                   const Observer& observer) const {
  constexpr char kModulation[] = "transformer_blocks.*.norm1.linear, norm1_context.linear";
  at::Tensor temb = EmbedConditions(*weights_, timesteps, pooled);
  if (observer) observer("temb", temb);
  Silu(temb);
  Modulations modulations;
  modulations.blocks = RowsOf(kModulation, weights_->modulation, temb);
  modulations.norm_out = RowsOf("norm_out.linear", weights_->norm_out, temb);
  return modulations;
}

template <typename Given>
std::vector<at::Tensor> Mmdit::Run(const std::vector<at::Tensor>& latents, const at::Tensor& text,
                                   const Given& modulate, const Observer& observer) const {
  const auto observe = [&](const auto& name, const at::Tensor& value) {
    if (observer) observer(name, value);
  };
  const bool differ = LengthsDiffer(latents, config_.patch_size);
  if (differ && !TakesPackedTokens(text)) return RunApart(latents, text, modulate(), observer);
  std::optional<PackedTokens> mixture;
  if (differ) mixture.emplace(PackedOf(latents, config_.patch_size, text));
  const PackedTokens* const packed = differ ? &*mixture : nullptr;
  const ModuleScope scope("transformer");
  at::Tensor image = Embed(latents, packed);
  observe("patches", image);
  const Modulations modulations = modulate();
  at::Tensor context = TokensOf("context_embedder", weights_->context, text);
  observe("context", context);
  const std::vector<at::Tensor> velocities =
      Unpatch(RunBlocks(std::move(image), std::move(context), packed, modulations, observer), latents, packed);
  if (velocities.size() == 1) observe("output", velocities.front());
  return velocities;
}

std::vector<at::Tensor> Mmdit::RunApart(const std::vector<at::Tensor>& latents, const at::Tensor& text,
                                        const Modulations& given, const Observer& observer) const {
  std::vector<at::Tensor> velocities;
  int64_t first = 0;
  for (const at::Tensor& each : latents) {
    const auto own = [&](const at::Tensor& x) { return x.narrow(0, first, each.size(0)); };
    velocities.push_back(Forward({each}, own(text), {own(given.blocks), own(given.norm_out)}, observer).front());
    first += each.size(0);
  }
  return velocities;
}

std::vector<at::Tensor> Mmdit::Forward(const std::vector<at::Tensor>& latents, const at::Tensor& text,
                                       const at::Tensor& pooled, const at::Tensor& timesteps,
                                       const Observer& observer) const {
  return Run(
      latents, text, [&] { return Modulate(pooled, timesteps, observer); }, observer);
}

std::vector<at::Tensor> Mmdit::Forward(const std::vector<at::Tensor>& latents, const at::Tensor& text,
                                       const Modulations& modulations, const Observer& observer) const {
  return Run(
      latents, text, [&] { return modulations; }, observer);
}

at::Tensor Mmdit::Forward(const at::Tensor& latents, const at::Tensor& text, const at::Tensor& pooled,
                          const at::Tensor& timesteps, const Observer& observer) const {
  return Forward(std::vector<at::Tensor>{latents}, text, pooled, timesteps, observer).front();
}

}  // namespace fresco
