#include "pipeline/diffusion/text_conditioning.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <array>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "pipeline/base/memory_scope.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/diffusion/finite.h"
#include "pipeline/precision/layer_scope.h"

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

// A row of each: [B, length] int64.
at::Tensor Rows(const std::vector<at::Tensor>& ids, const Placement& placement) {
  return at::cat(ids).to(placement.device);
}

// `name`: the component's.
ClipTextModel::Output EncodeClip(const char* name, const ClipTextModel& model, const std::vector<at::Tensor>& ids,
                                 int clip_skip, const Watched& watched) {
  const ModuleScope scope(name);
  const MemoryScope memory(name, MemoryKind::kActivations);
  const at::Tensor rows = Rows(ids, model.placement());
  ClipTextModel::Output output = model.Encode(rows, clip_skip);
  watched.Show("ids", rows);
  watched.Show("hidden", output.hidden);
  watched.Show("pooled", output.pooled);
  return output;
}

// Each text's: whose they are.
constexpr std::array<std::string_view, 5> kOutputsOf = {"text_encoder", "text_encoder", "text_encoder_2",
                                                        "text_encoder_2", "text_encoder_3"};

// Names the encoder: else it is the transformer that would be blamed.
absl::Status NotFinite(std::string_view encoder) {
  return absl::DataLossError(StrCat(encoder, ": its output for this prompt is NaN or infinite"));
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

struct TextConditioner::Text {
  const PromptKey* key = nullptr;
  absl::Status status;
  Ids clip_l_ids, clip_g_ids, t5_ids;
  ClipTextModel::Output clip_l, clip_g;  // [1, …]
  at::Tensor t5;
};

namespace {

// Those of equal `length`, at most kMaxTexts together; one that is to be alone is.
template <typename Text, typename Length, typename Encode>
void ForEachForward(const std::vector<Text*>& texts, const Length& length, const Encode& encode) {
  std::map<int, std::vector<Text*>> groups;
  for (Text* const& text : texts) {
    if (text->key->alone) {
      encode(absl::MakeConstSpan(&text, 1));
    } else {
      groups[length(*text->key)].push_back(text);
    }
  }
  for (const auto& [own, group] : groups) {
    for (size_t first = 0; first < group.size(); first += TextConditioner::kMaxTexts) {
      encode(absl::MakeConstSpan(group).subspan(first, TextConditioner::kMaxTexts));
    }
  }
}

// Of ForEachForward.
template <typename Text, typename Length>
int LargestForward(const std::vector<Text*>& texts, const Length& length) {
  int largest = 0;
  ForEachForward(texts, length, [&](absl::Span<Text* const> forward) {
    largest = std::max(largest, static_cast<int>(forward.size()));
  });
  return largest;
}

ClipTextModel::Output RowOf(const ClipTextModel::Output& output, size_t row) {
  const auto index = static_cast<int64_t>(row);
  return {output.hidden.narrow(0, index, 1), output.pooled.narrow(0, index, 1)};
}

}  // namespace

std::vector<TextConditioner::Text> TextConditioner::TokenizeAll(absl::Span<const PromptKey> keys) const {
  std::vector<Text> texts;
  for (const PromptKey& key : keys) {
    Text& text = texts.emplace_back();
    text.key = &key;
    const auto tokenize = [&](const Tokenizer& tokenizer, const std::string& words, int length, Ids* ids) {
      if (!text.status.ok()) return;
      absl::StatusOr<Ids> made = Tokenize(tokenizer, words, length);
      text.status.Update(made.status());
      if (made.ok()) *ids = *std::move(made);
    };
    tokenize(*encoders_.clip_l_tokenizer, key.clip_l, clip_tokens_, &text.clip_l_ids);
    tokenize(*encoders_.clip_g_tokenizer, key.clip_g, clip_tokens_, &text.clip_g_ids);
    if (encoders_.t5) tokenize(*encoders_.t5_tokenizer, key.t5, key.max_sequence_length, &text.t5_ids);
  }
  return texts;
}

absl::Status TextConditioner::EncodeClips(const std::vector<Text*>& texts, const Observer& observer) const {
  const auto clip_skip = [](const PromptKey& key) { return key.clip_skip; };
  const auto encode = [&](const char* component, const ClipTextModel& model, std::string_view name, Ids Text::*ids,
                          ClipTextModel::Output Text::*output) {
    ForEachForward(texts, clip_skip, [&](absl::Span<Text* const> forward) {
      std::vector<at::Tensor> rows;
      for (const Text* text : forward) rows.push_back((text->*ids).ids);
      const int skip = forward.front()->key->clip_skip;
      const auto outputs = EncodeClip(component, model, rows, skip, Watched(observer, name));
      for (size_t i = 0; i < forward.size(); ++i) forward[i]->*output = RowOf(outputs, i);
    });
  };
  const auto clip_l = [&](const ClipTextModel& model) {
    encode("text_encoder", model, "clip_l", &Text::clip_l_ids, &Text::clip_l);
  };
  const auto clip_g = [&](const ClipTextModel& model) {
    encode("text_encoder_2", model, "clip_g", &Text::clip_g_ids, &Text::clip_g);
  };
  if (encoders_.source == nullptr) {
    clip_l(encoders_.clip_l);
    clip_g(encoders_.clip_g);
    return absl::OkStatus();
  }
  // One after the other: both together may be more than there is room for.
  const EncodeSize size{LargestForward(texts, clip_skip), clip_tokens_};
  FRESCO_RETURN_IF_ERROR(encoders_.source->UseClipL(size, clip_l));
  return encoders_.source->UseClipG(size, clip_g);
}

absl::Status TextConditioner::EncodeT5s(const std::vector<Text*>& texts, const Observer& observer) const {
  if (!encoders_.t5) {
    const Placement& placement = encoders_.clip_l.placement();
    for (Text* text : texts) {
      text->t5 = at::zeros({1, text->key->max_sequence_length, text_dim_},
                           at::TensorOptions().dtype(placement.dtype).device(placement.device));
    }
    return absl::OkStatus();
  }
  const auto length = [](const PromptKey& key) { return key.max_sequence_length; };
  const auto encode = [&](const T5Encoder& t5) {
    ForEachForward(texts, length, [&](absl::Span<Text* const> forward) { EncodeT5(t5, forward, observer); });
  };
  if (encoders_.source == nullptr) {
    encode(*encoders_.t5);
    return absl::OkStatus();
  }
  EncodeSize size{LargestForward(texts, length), 1};
  for (const Text* text : texts) size.tokens = std::max(size.tokens, text->key->max_sequence_length);
  return encoders_.source->UseT5(size, encode);
}

void TextConditioner::EncodeT5(const T5Encoder& t5, absl::Span<Text* const> texts, const Observer& observer) {
  std::vector<at::Tensor> ids;
  for (const Text* text : texts) ids.push_back(text->t5_ids.ids);
  const at::Tensor rows = Rows(ids, t5.placement());
  const ModuleScope scope("text_encoder_3");
  const MemoryScope memory("text_encoder_3", MemoryKind::kActivations);
  const at::Tensor hidden = t5.Encode(rows);
  const Watched watched(observer, "t5");
  watched.Show("ids", rows);
  watched.Show("hidden", hidden);
  for (size_t i = 0; i < texts.size(); ++i) texts[i]->t5 = hidden.narrow(0, static_cast<int64_t>(i), 1);
}

PromptEmbedding TextConditioner::Join(const Text& text) const {
  PromptEmbedding embedding;
  embedding.clip_l = text.clip_l_ids.count;
  embedding.clip_g = text.clip_g_ids.count;
  embedding.t5 = text.t5_ids.count;
  const MemoryScope memory("prompts", MemoryKind::kState);
  const at::Tensor clip = at::cat({text.clip_l.hidden, text.clip_g.hidden}, -1);
  embedding.text = at::cat({at::constant_pad_nd(clip, {0, text_dim_ - clip.size(2)}), text.t5}, 1);
  embedding.pooled = at::cat({text.clip_l.pooled, text.clip_g.pooled}, -1);
  return embedding;
}

void TextConditioner::CheckFinite(absl::Span<Text* const> texts) {
  std::vector<at::Tensor> outputs;
  for (const Text* text : texts) {
    outputs.insert(outputs.end(),
                   {text->clip_l.hidden, text->clip_l.pooled, text->clip_g.hidden, text->clip_g.pooled, text->t5});
  }
  if (outputs.empty()) return;
  const std::vector<bool> finite = FiniteFlags(outputs);
  for (size_t i = 0; i < finite.size(); ++i) {
    const std::string_view encoder = kOutputsOf[i % kOutputsOf.size()];
    if (!finite[i]) texts[i / kOutputsOf.size()]->status.Update(NotFinite(encoder));
  }
}

std::vector<absl::StatusOr<PromptEmbedding>> TextConditioner::EncodeAll(absl::Span<const PromptKey> keys,
                                                                        const Observer& observer) const {
  std::vector<Text> texts = TokenizeAll(keys);
  std::vector<Text*> valid;
  for (Text& text : texts) {
    if (text.status.ok()) valid.push_back(&text);
  }
  if (!valid.empty()) {
    absl::Status encoded = EncodeClips(valid, observer);
    if (encoded.ok()) encoded = EncodeT5s(valid, observer);
    for (Text* text : valid) text->status.Update(encoded);
    if (encoded.ok()) CheckFinite(valid);
  }
  std::vector<absl::StatusOr<PromptEmbedding>> embeddings;
  for (const Text& text : texts) {
    if (text.status.ok()) {
      embeddings.emplace_back(Join(text));
    } else {
      embeddings.emplace_back(text.status);
    }
  }
  return embeddings;
}

absl::StatusOr<PromptEmbedding> TextConditioner::Encode(const PromptKey& key, const Observer& observer) const {
  return std::move(EncodeAll({&key, 1}, observer).front());
}

}  // namespace fresco
