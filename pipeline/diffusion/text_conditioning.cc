#include "pipeline/diffusion/text_conditioning.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/diffusion/finite.h"

namespace fresco {
namespace {

struct Ids {
  at::Tensor ids;  // [1, length] int64, on the host
  TokenCount count;
};

absl::StatusOr<Ids> Tokenize(const Tokenizer& tokenizer, const std::string& text, int length) {
  FRESCO_ASSIGN_OR_RETURN(const TokenIds tokens, tokenizer.Encode(text, length));
  const std::vector<int64_t> ids(tokens.ids.begin(), tokens.ids.end());
  return Ids{at::tensor(ids, at::kLong).unsqueeze(0),
             {tokens.untruncated_length, std::min(tokens.untruncated_length, static_cast<int>(ids.size()))}};
}

// Passes an observer's stages on under "name.stage".
class Watched {
 public:
  Watched(const Observer& observer, std::string_view name) : observer_(observer), name_(name) {}
  void Show(std::string_view stage, const at::Tensor& value) const {
    if (observer_) observer_(StrCat(name_, ".", stage), value);
  }

 private:
  const Observer& observer_;
  const std::string_view name_;
};

absl::StatusOr<ClipTextModel::Output> EncodeClip(const Tokenizer& tokenizer, const ClipTextModel& model,
                                                 const std::string& text, int length, int clip_skip, TokenCount* count,
                                                 const Watched& watched) {
  FRESCO_ASSIGN_OR_RETURN(const Ids tokens, Tokenize(tokenizer, text, length));
  *count = tokens.count;
  ClipTextModel::Output output = model.Encode(tokens.ids.to(model.placement().device), clip_skip);
  watched.Show("ids", tokens.ids);
  watched.Show("hidden", output.hidden);
  watched.Show("pooled", output.pooled);
  return output;
}

// Names the encoder whose output is none: else it is the transformer that would be blamed.
absl::Status CheckFinite(const std::vector<std::pair<std::string_view, at::Tensor>>& outputs) {
  std::vector<at::Tensor> values;
  for (const auto& [encoder, value] : outputs) values.push_back(value);
  const std::vector<bool> finite = FiniteFlags(values);
  for (size_t i = 0; i < finite.size(); ++i) {
    if (!finite[i])
      return absl::DataLossError(StrCat(outputs[i].first, ": its output for this prompt is NaN or infinite"));
  }
  return absl::OkStatus();
}

absl::Status CheckVocabulary(std::string_view part, const Tokenizer& tokenizer, int64_t rows) {
  if (tokenizer.vocab_size() <= rows) return absl::OkStatus();
  return absl::InvalidArgumentError(
      StrCat(part, ": its tokenizer has ", tokenizer.vocab_size(), " tokens, its embedding ", rows, " rows"));
}

absl::Status CheckSizes(const TextEncoders& encoders, int64_t text_dim, int64_t pooled_dim) {
  const ClipConfig& clip_l = encoders.clip_l.config();
  const ClipConfig& clip_g = encoders.clip_g.config();
  if (clip_l.projection_dim + clip_g.projection_dim != pooled_dim)
    return absl::InvalidArgumentError(StrCat("text_encoder and text_encoder_2 pool to ", clip_l.projection_dim, " and ",
                                             clip_g.projection_dim,
                                             " features, the transformer's pooled_projection_dim is ", pooled_dim));
  if (clip_l.hidden_size + clip_g.hidden_size > text_dim)
    return absl::InvalidArgumentError(
        StrCat("text_encoder and text_encoder_2 give ", clip_l.hidden_size, " and ", clip_g.hidden_size,
               " features, more than the transformer's joint_attention_dim of ", text_dim));
  if (encoders.t5 && encoders.t5->config().d_model != text_dim)
    return absl::InvalidArgumentError(StrCat("text_encoder_3 gives ", encoders.t5->config().d_model,
                                             " features, the transformer's joint_attention_dim is ", text_dim));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TextConditioner> TextConditioner::Create(TextEncoders encoders, int64_t text_dim, int64_t pooled_dim) {
  FRESCO_RETURN_IF_ERROR(
      CheckVocabulary("text_encoder", *encoders.clip_l_tokenizer, encoders.clip_l.config().vocab_size));
  FRESCO_RETURN_IF_ERROR(
      CheckVocabulary("text_encoder_2", *encoders.clip_g_tokenizer, encoders.clip_g.config().vocab_size));
  if (encoders.t5)
    FRESCO_RETURN_IF_ERROR(CheckVocabulary("text_encoder_3", *encoders.t5_tokenizer, encoders.t5->config().vocab_size));
  FRESCO_RETURN_IF_ERROR(CheckSizes(encoders, text_dim, pooled_dim));
  return TextConditioner(std::move(encoders), text_dim);
}

TextConditioner::TextConditioner(TextEncoders encoders, int64_t text_dim)
    : encoders_(std::move(encoders)), text_dim_(text_dim) {
  // Both texts are cut where CLIP-L's tokenizer says, as diffusers does; never beyond the encoders' positions.
  const int64_t positions = std::min(encoders_.clip_l.config().max_positions, encoders_.clip_g.config().max_positions);
  clip_tokens_ = static_cast<int>(std::min<int64_t>(encoders_.clip_l_tokenizer->model_max_length(), positions));
}

int TextConditioner::max_clip_skip() const {
  return static_cast<int>(std::min(encoders_.clip_l.config().num_layers, encoders_.clip_g.config().num_layers)) - 1;
}

absl::StatusOr<at::Tensor> TextConditioner::EncodeT5(const PromptKey& key, TokenCount* count,
                                                     const Observer& observer) const {
  if (!encoders_.t5) {
    const Placement& placement = encoders_.clip_l.placement();
    return at::zeros({1, key.max_sequence_length, text_dim_},
                     at::TensorOptions().dtype(placement.dtype).device(placement.device));
  }
  FRESCO_ASSIGN_OR_RETURN(const Ids tokens, Tokenize(*encoders_.t5_tokenizer, key.t5, key.max_sequence_length));
  *count = tokens.count;
  at::Tensor hidden = encoders_.t5->Encode(tokens.ids.to(encoders_.t5->placement().device));
  const Watched watched(observer, "t5");
  watched.Show("ids", tokens.ids);
  watched.Show("hidden", hidden);
  return hidden;
}

absl::StatusOr<PromptEmbedding> TextConditioner::Encode(const PromptKey& key, const Observer& observer) const {
  PromptEmbedding embedding;
  FRESCO_ASSIGN_OR_RETURN(const auto clip_l,
                          EncodeClip(*encoders_.clip_l_tokenizer, encoders_.clip_l, key.clip_l, clip_tokens_,
                                     key.clip_skip, &embedding.clip_l, Watched(observer, "clip_l")));
  FRESCO_ASSIGN_OR_RETURN(const auto clip_g,
                          EncodeClip(*encoders_.clip_g_tokenizer, encoders_.clip_g, key.clip_g, clip_tokens_,
                                     key.clip_skip, &embedding.clip_g, Watched(observer, "clip_g")));
  FRESCO_ASSIGN_OR_RETURN(const at::Tensor t5, EncodeT5(key, &embedding.t5, observer));
  FRESCO_RETURN_IF_ERROR(CheckFinite({{"text_encoder", clip_l.hidden},
                                      {"text_encoder", clip_l.pooled},
                                      {"text_encoder_2", clip_g.hidden},
                                      {"text_encoder_2", clip_g.pooled},
                                      {"text_encoder_3", t5}}));
  const at::Tensor clip = at::cat({clip_l.hidden, clip_g.hidden}, -1);
  embedding.text = at::cat({at::constant_pad_nd(clip, {0, text_dim_ - clip.size(2)}), t5}, 1);
  embedding.pooled = at::cat({clip_l.pooled, clip_g.pooled}, -1);
  return embedding;
}

}  // namespace fresco
