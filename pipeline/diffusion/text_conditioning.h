// From the words of a prompt to what the transformer is told: three tokenizers and encoders, joined as Stable Diffusion
// 3 joins them (docs/facts/sd35.md, "Text"; diffusers' StableDiffusion3Pipeline.encode_prompt).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "pipeline/diffusion/prompt_cache.h"
#include "pipeline/models/clip.h"
#include "pipeline/models/observer.h"
#include "pipeline/models/t5.h"
#include "pipeline/tokenizer/tokenizer.h"

namespace fresco {

// T5 may be absent, its tokenizer with it: its tokens are then zeros.
struct TextEncoders {
  std::shared_ptr<const Tokenizer> clip_l_tokenizer;
  std::shared_ptr<const Tokenizer> clip_g_tokenizer;
  std::shared_ptr<const Tokenizer> t5_tokenizer;
  ClipTextModel clip_l;
  ClipTextModel clip_g;
  std::optional<T5Encoder> t5;
};

// Immutable; computes on the calling thread.
class TextConditioner {
 public:
  // INVALID_ARGUMENT for encoders that do not fit together or do not give the transformer's `text_dim` (J) and
  // `pooled_dim` (P) features.
  static absl::StatusOr<TextConditioner> Create(TextEncoders encoders, int64_t text_dim, int64_t pooled_dim);

  // text: CLIP-L and CLIP-G side by side, padded to J, then T5's tokens: [1, clip_tokens() + max_sequence_length, J].
  // Throws libtorch's exceptions; call it under InferenceMode. Errors: INVALID_ARGUMENT for a text that is not UTF-8,
  // DATA_LOSS naming the encoder whose output is NaN or infinite.
  // Observed stages: "clip_l.hidden", "clip_l.pooled", "clip_g.…", "t5.hidden", and ".ids" of each.
  absl::StatusOr<PromptEmbedding> Encode(const PromptKey& key, const Observer& observer = {}) const;

  // The same of many, in order, in as few forwards of each encoder as the texts' lengths and their clip_skip allow, of
  // at most kMaxTexts. A text that fails fails alone; on a CPU, or where its key says that it is alone, an embedding
  // has the same bits whatever others there are. What is observed is [texts of the forward, …].
  std::vector<absl::StatusOr<PromptEmbedding>> EncodeAll(absl::Span<const PromptKey> keys,
                                                         const Observer& observer = {}) const;
  static constexpr int kMaxTexts = 8;

  // Tokens of either CLIP text, special tokens counted; longer ones are cut.
  int clip_tokens() const { return clip_tokens_; }
  // The largest clip_skip that leaves a layer.
  int max_clip_skip() const;
  bool has_t5() const { return encoders_.t5.has_value(); }
  const TextEncoders& encoders() const { return encoders_; }

 private:
  TextConditioner(TextEncoders encoders, int64_t text_dim);

  struct Text;  // while it is encoded
  std::vector<Text> TokenizeAll(absl::Span<const PromptKey> keys) const;
  void EncodeClips(absl::Span<Text* const> texts, const Observer& observer) const;
  void EncodeT5(absl::Span<Text* const> texts, const Observer& observer) const;
  // Those whose output is not have failed.
  static void CheckFinite(absl::Span<Text* const> texts);
  PromptEmbedding Join(const Text& text) const;

  TextEncoders encoders_;
  int64_t text_dim_ = 0;
  int clip_tokens_ = 0;
};

}  // namespace fresco
