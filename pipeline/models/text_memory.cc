// What the text encoders hold while they encode: t5.cc and clip.cc, played through by shapes.
#include <algorithm>
#include <cstdint>
#include <utility>

#include "pipeline/models/clip.h"
#include "pipeline/models/clip_weights.h"
#include "pipeline/models/layer_memory.h"
#include "pipeline/models/t5.h"
#include "pipeline/models/t5_weights.h"

namespace fresco {
namespace {

using Held = ActivationLedger::Held;

constexpr int64_t kLongBytes = 8;

}  // namespace

int64_t T5Encoder::EncodeBytes(int64_t texts, int64_t tokens, int threads) const {
  const int64_t rows = texts * tokens, pairs = tokens * tokens;
  ActivationLedger ledger;
  LayerMemory layers(&ledger, placement_, threads);
  const auto hidden = [&] { return layers.Hold(rows * config_.d_model); };
  Held x = hidden();
  {
    // Distances and buckets, of which a handful is there at a time; the bias before its heads come first.
    const Held buckets = ledger.Hold(2 * pairs * kLongBytes);
    ledger.Touch(pairs * (3 * kLongBytes + LayerMemory::kFloat));
    ledger.Touch(2 * pairs * config_.num_heads * layers.element());
  }
  const Held bias = layers.Hold(pairs * config_.num_heads);
  for (const T5Weights::Block& block : weights_->blocks) {
    Held y, attended;
    {
      const Held normed = layers.RmsNorm(rows * config_.d_model);
      const Held qkv = layers.Tokens(block.qkv, texts, tokens);
      const Held mixed = layers.Attention({texts, config_.num_heads, config_.d_kv, tokens, tokens}, /*plain=*/false);
      const Held out = layers.Tokens(block.out, texts, tokens);
      attended = hidden();
    }
    {
      const Held normed = layers.RmsNorm(rows * config_.d_model);
      const Held gate_up = layers.Tokens(block.gate_up, texts, tokens);
      const Held gate = layers.Hold(rows * config_.d_ff);
      Held wide;
      if (placement_.dtype == at::kHalf) wide = layers.HoldFloats(rows * config_.d_ff);
      const Held down = layers.Tokens(block.down, texts, tokens);
      y = hidden();
    }
    attended.Release();
    x = std::move(y);
  }
  return ledger.peak();
}

int64_t T5Encoder::streamed_bytes() const {
  int64_t most = 0;
  for (const T5Weights::Block& block : weights_->blocks) {
    int64_t bytes = 0;
    for (const Linear* linear : {&block.qkv, &block.out, &block.gate_up, &block.down}) bytes += WeightBytesOf(*linear);
    most = std::max(most, bytes);
  }
  // On a CPU codes of linears that are one product are there twice while they are put together.
  return placement_.device.is_cpu() ? 2 * most : most;
}

int64_t ClipTextModel::EncodeBytes(int64_t texts, int64_t tokens, int threads) const {
  const int64_t dim = config_.hidden_size, rows = texts * tokens;
  ActivationLedger ledger;
  LayerMemory layers(&ledger, placement_, threads);
  const auto hidden = [&] { return layers.Hold(rows * dim); };
  Held x = hidden();
  layers.ledger().Touch(rows * dim * layers.element());
  const Held kept = hidden();  // the state that is the result
  for (const ClipWeights::Layer& layer : weights_->layers) {
    Held y;
    {
      const Held normed = hidden();
      const Held qkv = layers.Tokens(layer.qkv, texts, tokens);
      const Held mixed = layers.Attention({texts, config_.num_heads, dim / config_.num_heads, tokens, tokens}, false);
      const Held out = layers.Tokens(layer.out, texts, tokens);
      y = hidden();
    }
    Held up;
    {
      const Held normed = hidden();
      up = layers.Tokens(layer.up, texts, tokens);
    }
    if (config_.activation == ClipActivation::kQuickGelu) {
      const Held scaled = layers.Hold(tokens * config_.intermediate_size);
      layers.ledger().Touch(tokens * config_.intermediate_size * layers.element());
    }
    const Held down = layers.Tokens(layer.down, texts, tokens);
    up.Release();
    x = std::move(y);
  }
  return ledger.peak();
}

}  // namespace fresco
