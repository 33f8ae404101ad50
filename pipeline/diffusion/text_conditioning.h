// From the words of a prompt to what the transformer is told: three tokenizers and encoders, joined as Stable Diffusion
// 3 joins them (docs/facts/sd35.md, "Text"; diffusers' StableDiffusion3Pipeline.encode_prompt).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "pipeline/diffusion/prompt_cache.h"
#include "pipeline/models/clip.h"
#include "pipeline/models/observer.h"
#include "pipeline/models/t5.h"
#include "pipeline/tokenizer/tokenizer.h"

namespace fresco {

// The largest forward of an encoder.
struct EncodeSize {
  int texts = 1;
  int tokens = 1;  // of each
};

// Has the encoders while they are needed, where their weights are not always there. Each call gives `use` the encoder
// with its weights, which are there until it returns, or the error of getting them. Thread-safe.
class EncoderSource {
 public:
  virtual ~EncoderSource() = default;
  virtual absl::Status UseClipL(const EncodeSize& size, const std::function<void(const ClipTextModel&)>& use) = 0;
  virtual absl::Status UseClipG(const EncodeSize& size, const std::function<void(const ClipTextModel&)>& use) = 0;
  virtual absl::Status UseT5(const EncodeSize& size, const std::function<void(const T5Encoder&)>& use) = 0;
};

// T5 may be absent, its tokenizer with it: its tokens are then zeros.
struct TextEncoders {
  std::shared_ptr<const Tokenizer> clip_l_tokenizer;
  std::shared_ptr<const Tokenizer> clip_g_tokenizer;
  std::shared_ptr<const Tokenizer> t5_tokenizer;
  ClipTextModel clip_l;
  ClipTextModel clip_g;
  std::optional<T5Encoder> t5;
  // Null: they are these. Else these are their shapes alone (ClipTextModel::Shape).
  std::shared_ptr<EncoderSource> source = nullptr;
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
  // Errors: EncoderSource's.
  absl::Status EncodeClips(const std::vector<Text*>& texts, const Observer& observer) const;
  absl::Status EncodeT5s(const std::vector<Text*>& texts, const Observer& observer) const;
  static void EncodeT5(const T5Encoder& t5, absl::Span<Text* const> texts, const Observer& observer);
  // Those whose output is not have failed.
  static void CheckFinite(absl::Span<Text* const> texts);
  PromptEmbedding Join(const Text& text) const;

  TextEncoders encoders_;
  int64_t text_dim_ = 0;
  int clip_tokens_ = 0;
};

}  // namespace fresco
