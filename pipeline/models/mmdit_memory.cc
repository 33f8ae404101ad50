// What Mmdit::Forward holds: mmdit.cc, played through by shapes.
#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "pipeline/models/layer_memory.h"
#include "pipeline/models/mmdit.h"
#include "pipeline/models/mmdit_weights.h"

namespace fresco {
namespace {

using Held = ActivationLedger::Held;

// A batch on its way through the blocks.
class BlockMemory {
 public:
  BlockMemory(const MmditConfig& config, LayerMemory* layers, int64_t samples, int64_t image, int64_t text)
      : layers_(*layers), heads_(config.num_heads), dim_(config.dim()), samples_(samples), image_(image), text_(text) {}

  Held Stream(int64_t tokens) { return layers_.Hold(samples_ * tokens * dim_); }

  // A stream, and what is added to it with the next norm.
  struct Residual {
    Held x, branch;
  };

  // Streams as they go in, and as they come out.
  void Run(const MmditBlock& block, Residual* image, Residual* text) {
    Held image_normed, text_normed;
    Add(text, text_);
    Add(image, image_);
    const Held text_heads = Project(block.context_attention.qkv, text_, &text_normed);
    const Held image_heads = Project(block.attention.qkv, image_, &image_normed);
    const Held mixed = JointAttention(block);
    Held branch = layers_.Tokens(block.attention.out, samples_, image_, samples_ == 1);
    Held gated;
    if (block.has_dual()) {
      const Held dual = Project(block.dual.qkv, image_, &image_normed);
      Held sum = Stream(image_);
      Held second = DualAttention(block.dual);
      branch = std::move(second);
      gated = std::move(sum);
    }
    Residual out = FeedForward(block.feed_forward, image_, std::move(gated), std::move(branch));
    if (!block.is_last()) {
      branch = layers_.Tokens(block.context_attention.out, samples_, text_, samples_ == 1);
      *text = FeedForward(block.context_feed_forward, text_, {}, std::move(branch));
    }
    *image = std::move(out);
  }

 private:
  bool fused() const { return layers_.has_row_kernels(dim_); }

  void Add(Residual* stream, int64_t tokens) {
    if (!stream->branch.defined()) return;
    Held sum = Stream(tokens);
    stream->branch.Release();
    stream->x = std::move(sum);
  }

  // AdaptiveNorm::Project; `normed` is what it keeps.
  Held Project(const Linear& linear, int64_t tokens, Held* normed) {
    if (layers_.TakesCodes(linear, dim_)) return layers_.Codes(linear, samples_, tokens);
    if (!fused() && !normed->defined()) *normed = Stream(tokens);
    const Held modulated = Stream(tokens);
    return layers_.Tokens(linear, samples_, tokens);
  }

  Held JointAttention(const MmditBlock& block) {
    const int64_t tokens = image_ + text_;
    NormedHeads image, text;  // else a kernel normalises them on their way into the joint tensor
    if (!layers_.has_head_kernels(dim_, heads_)) {
      image = Norm(block.attention, image_);
      text = Norm(block.context_attention, text_);
    }
    const Held joint = Stream(3 * tokens);
    return layers_.Attention({samples_, heads_, dim_ / heads_, tokens, tokens}, block.attention.scheme);
  }

  struct NormedHeads {
    Held queries, keys;
  };
  NormedHeads Norm(const MmditAttention& weights, int64_t tokens) {
    const int64_t elements = samples_ * tokens * dim_;
    NormedHeads normed;
    if (weights.norm_q.defined()) normed.queries = layers_.RmsNorm(elements);
    if (weights.norm_k.defined()) normed.keys = layers_.RmsNorm(elements);
    return normed;
  }

  Held DualAttention(const MmditAttention& weights) {
    NormedHeads normed;
    if (!layers_.has_head_kernels(dim_, heads_)) normed = Norm(weights, image_);
    const Held mixed = layers_.Attention({samples_, heads_, dim_ / heads_, image_, image_}, weights.scheme);
    return layers_.Tokens(weights.out, samples_, image_);
  }

  // FeedForward of a residual `x` (not defined: the stream that came in) and its branch.
  Residual FeedForward(const MmditFeedForward& weights, int64_t tokens, Held x, Held branch) {
    Held sum = Stream(tokens);
    x.Release();
    branch.Release();
    Held normed;
    Held up = Project(weights.up, tokens, &normed);
    Held down = layers_.TakesCodes(weights.down, InputsOf(weights.down))
                    ? layers_.Codes(weights.down, samples_, tokens)
                    : layers_.Tokens(weights.down, samples_, tokens);
    up.Release();
    if (fused()) return {std::move(sum), std::move(down)};
    return {Stream(tokens), {}};
  }

  LayerMemory& layers_;
  const int64_t heads_, dim_, samples_, image_, text_;
};

}  // namespace

int64_t Mmdit::ForwardBytes(const ForwardShape& shape, int threads) const {
  const MmditWeights& weights = *weights_;
  const int64_t patches = shape.height * shape.width / (config_.patch_size * config_.patch_size);
  const int64_t latents = shape.samples * config_.in_channels * shape.height * shape.width;
  ActivationLedger ledger;
  LayerMemory layers(&ledger, placement_, threads);
  BlockMemory blocks(config_, &layers, shape.samples, patches, shape.text_tokens);
  const Held given = layers.Hold(latents);
  BlockMemory::Residual image, text;
  {
    const Held cut = layers.Hold(latents);
    image.x = layers.Tokens(weights.patch, shape.samples, patches);
  }
  const Held modulations = layers.Rows(weights.modulation, shape.samples);
  text.x = layers.Tokens(weights.context, shape.samples, shape.text_tokens);
  const Held norm_out = layers.Rows(weights.norm_out, shape.samples);
  for (const MmditBlock& block : weights.blocks) blocks.Run(block, &image, &text);
  return ledger.peak();
}

// As if each area were computed by itself, all at once, and what packed tokens are copied to after their attention.
int64_t Mmdit::ForwardBytes(const std::vector<ForwardShape>& shapes, int threads) const {
  std::vector<ForwardShape> areas;
  for (const ForwardShape& shape : shapes) {
    const auto same = std::find_if(areas.begin(), areas.end(), [&](const ForwardShape& known) {
      return known.height * known.width == shape.height * shape.width && known.text_tokens == shape.text_tokens;
    });
    if (same == areas.end()) {
      areas.push_back(shape);
    } else {
      same->samples += shape.samples;
    }
  }
  int64_t bytes = 0;
  for (const ForwardShape& area : areas) {
    bytes += ForwardBytes(area, threads);
    if (areas.size() > 1) bytes += area.samples * (KeptBytes(area) + area.text_tokens * TokenBytes());
  }
  return bytes;
}

int64_t Mmdit::modulation_bytes() const {
  const int64_t values = OutputsOf(weights_->modulation) + OutputsOf(weights_->norm_out);
  return values * static_cast<int64_t>(c10::elementSize(placement_.dtype));
}

int64_t Mmdit::loading_bytes() const {
  return placement_.device.is_cpu() ? WeightBytesOf(weights_->modulation) : 0;
}

int64_t Mmdit::KeptBytes(const ForwardShape& shape) const {
  return shape.height * shape.width / (config_.patch_size * config_.patch_size) * TokenBytes();
}

int64_t Mmdit::TokenBytes() const {
  return config_.dim() * static_cast<int64_t>(c10::elementSize(placement_.dtype));
}

}  // namespace fresco
