// T5's tokenizer: added tokens, charsmap, words at whitespace, unigram. Source: transformers' tokenization_t5.py,
// tokenizers' Precompiled, Metaspace and Unigram.
#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_replace.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/base/utf8.h"
#include "pipeline/tokenizer/charsmap.h"
#include "pipeline/tokenizer/framing.h"
#include "pipeline/tokenizer/json_file.h"
#include "pipeline/tokenizer/sentencepiece_model.h"
#include "pipeline/tokenizer/tokenizer.h"
#include "pipeline/tokenizer/tokenizer_config.h"
#include "pipeline/tokenizer/unicode_text.h"
#include "pipeline/tokenizer/unigram.h"

namespace fresco {
namespace {

using nlohmann::json;

constexpr int32_t kUnknownId = 2;  // whatever the files say: T5Tokenizer fixes it
constexpr std::string_view kSpaceMark = "▁";

struct T5Files {
  std::vector<ScoredPiece> pieces;
  std::string charsmap;
};

class T5Tokenizer final : public Tokenizer {
 public:
  T5Tokenizer(UnigramModel model, Charsmap charsmap, const TokenizerConfig& config)
      : model_(std::move(model)),
        charsmap_(std::move(charsmap)),
        added_(
            config.AllAdded(), [this](std::string_view token) { return model_.Id(token); },
            static_cast<int32_t>(model_.pieces().size()),
            [this](std::string_view text) { return charsmap_.Normalize(text); }),
        model_max_length_(config.model_max_length) {
    framing_.end = *added_.Id(config.named.at("eos_token").content);
    framing_.pad = *added_.Id(config.named.at("pad_token").content);
  }

  absl::StatusOr<TokenIds> Encode(std::string_view text, int max_length) const override {
    FRESCO_RETURN_IF_ERROR(framing_.CheckArguments(text, max_length));
    std::vector<int32_t> content;
    for (const AddedVocabulary::Piece& piece : added_.Split(text)) {
      if (piece.id) {
        content.push_back(*piece.id);
      } else {
        EncodeNormalized(piece.text, &content);
      }
    }
    return framing_.Frame(content, max_length, [this](absl::Span<const int32_t> ids) { return Decode(ids); });
  }

  int model_max_length() const override { return model_max_length_; }
  int vocab_size() const override {
    return std::max(added_.max_id() + 1, static_cast<int32_t>(model_.pieces().size()));
  }
  int pad_id() const override { return framing_.pad; }
  int eos_id() const override { return framing_.end; }

 private:
  void EncodeNormalized(std::string_view text, std::vector<int32_t>* ids) const {
    std::string word;
    for (const char32_t c : DecodeUtf8(text)) {
      if (IsWhitespace(c)) {
        EncodeWord(word, ids);
        word.clear();
      } else {
        AppendUtf8(c, &word);
      }
    }
    EncodeWord(word, ids);
  }

  // A word begins with a mark for the space before it; a mark that is in it begins another.
  void EncodeWord(const std::string& word, std::vector<int32_t>* ids) const {
    if (word.empty()) return;
    const std::string marked = word.starts_with(kSpaceMark) ? word : StrCat(kSpaceMark, word);
    for (size_t begin = 0; begin < marked.size();) {
      const size_t end = std::min(marked.find(kSpaceMark, begin + 1), marked.size());
      model_.EncodeWord(std::string_view(marked).substr(begin, end - begin), ids);
      begin = end;
    }
  }

  std::string Decode(absl::Span<const int32_t> ids) const {
    std::string text;
    for (const int32_t id : ids) {
      const std::string_view added = added_.Content(id);
      text += added.empty() ? std::string_view(model_.pieces()[id].text) : added;
    }
    text = absl::StrReplaceAll(text, {{ToAbsl(kSpaceMark), " "}});
    return text.substr(std::min(text.find_first_not_of(' '), text.size()));
  }

  UnigramModel model_;
  Charsmap charsmap_;
  AddedVocabulary added_;
  int model_max_length_;
  Framing framing_;
};

absl::StatusOr<std::vector<ScoredPiece>> ReadPieces(const json& list) {
  if (!list.is_array()) return WrongType(list, "a list", "model.vocab");
  if (list.size() >= kMaxVocabulary) return absl::InvalidArgumentError("model.vocab has more than 2^24 pieces");
  std::vector<ScoredPiece> pieces;
  pieces.reserve(list.size());
  for (const json& piece : list) {
    if (!piece.is_array() || piece.size() != 2 || !piece[0].is_string() || !piece[1].is_number()) {
      return WrongType(piece, "[\"piece\", score]", StrCat("model.vocab[", pieces.size(), "]"));
    }
    pieces.push_back({piece[0].get<std::string>(), piece[1].get<double>()});
  }
  return pieces;
}

// Of the first Precompiled normaliser; the others have no part in T5Tokenizer.
absl::StatusOr<std::string> ReadCharsmap(const json& normalizer) {
  const json& list = Member(normalizer, "normalizers");
  const json alone = json::array({normalizer});
  for (const json& one : Member(normalizer, "type") == "Sequence" ? list : alone) {
    const json& encoded = Member(one, "precompiled_charsmap");
    if (Member(one, "type") != "Precompiled" || !one.contains("precompiled_charsmap")) continue;
    std::string blob;
    if (!encoded.is_string() || !absl::Base64Unescape(encoded.get_ref<const std::string&>(), &blob)) {
      return absl::InvalidArgumentError("normalizer.precompiled_charsmap is not base64");
    }
    return blob;
  }
  return std::string();
}

absl::StatusOr<T5Files> ReadFromTokenizerJson(const json& file) {
  const json& model = Member(file, "model");
  if (const json& type = Member(model, "type"); !type.is_null() && type != "Unigram") {
    return absl::InvalidArgumentError(StrCat("model.type is ", Shown(type), ", not \"Unigram\""));
  }
  T5Files files;
  FRESCO_ASSIGN_OR_RETURN(files.pieces, ReadPieces(Member(model, "vocab")));
  FRESCO_ASSIGN_OR_RETURN(files.charsmap, ReadCharsmap(Member(file, "normalizer")));
  return files;
}

// The file lacks T5's extra ids: they follow its pieces, the last first.
absl::StatusOr<T5Files> ReadFromSentencePiece(const std::filesystem::path& path, TokenizerConfig* config) {
  FRESCO_ASSIGN_OR_RETURN(const std::string bytes, ReadTokenizerFile(path));
  FRESCO_ASSIGN_OR_RETURN(SentencePieceModel model, ParseSentencePieceModel(bytes));
  config->additional.emplace();
  for (const std::string& token : model.named) config->additional->push_back({token});
  for (int i = config->extra_ids - 1; i >= 0; --i) model.pieces.push_back({StrCat("<extra_id_", i, ">"), 0});
  return T5Files{std::move(model.pieces), std::move(model.charsmap)};
}

// As T5Tokenizer's constructor: where none of the additional tokens is an extra id, all the extra ids join them.
absl::Status AddExtraIds(TokenizerConfig* config) {
  if (!config->additional) config->additional.emplace();
  const auto is_extra = [](const AddedToken& token) { return token.content.find("<extra_id_") != std::string::npos; };
  const auto count = std::count_if(config->additional->begin(), config->additional->end(), is_extra);
  if (count > 0 && config->extra_ids > 0 && count != config->extra_ids) {
    return absl::InvalidArgumentError(StrCat("extra_ids is ", config->extra_ids, ", but there are ", count,
                                             " <extra_id_…> among the additional special tokens"));
  }
  for (int i = 0; count == 0 && i < config->extra_ids; ++i) {
    config->additional->push_back({StrCat("<extra_id_", i, ">")});
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Tokenizer>> MakeT5(T5Files files, TokenizerConfig config) {
  FRESCO_RETURN_IF_ERROR(AddExtraIds(&config));
  FRESCO_ASSIGN_OR_RETURN(UnigramModel model, UnigramModel::Create(std::move(files.pieces), kUnknownId));
  FRESCO_ASSIGN_OR_RETURN(Charsmap charsmap, Charsmap::Parse(files.charsmap));
  return std::make_unique<T5Tokenizer>(std::move(model), std::move(charsmap), config);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadT5Tokenizer(const std::filesystem::path& folder) {
  FRESCO_ASSIGN_OR_RETURN(const json json_file, ReadTokenizerJson(folder));
  FRESCO_ASSIGN_OR_RETURN(
      TokenizerConfig config,
      ReadTokenizerConfig(folder, json_file, {{"eos_token", "</s>"}, {"unk_token", "<unk>"}, {"pad_token", "<pad>"}}));
  const std::filesystem::path path = folder / (json_file.is_null() ? "spiece.model" : "tokenizer.json");
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    return absl::NotFoundError(
        StrCat(folder.string(), ": has neither tokenizer.json nor spiece.model: no T5 tokenizer"));
  }
  auto files = json_file.is_null() ? ReadFromSentencePiece(path, &config) : ReadFromTokenizerJson(json_file);
  if (!files.ok()) return Annotate(files.status(), path.string());
  auto tokenizer = MakeT5(*std::move(files), std::move(config));
  if (!tokenizer.ok()) return Annotate(tokenizer.status(), path.string());
  return tokenizer;
}

}  // namespace fresco
