// CLIP's tokenizer: added tokens, normaliser, pattern, byte-level BPE. Source: transformers' tokenization_clip.py,
// tokenizers' BPE.
#include <algorithm>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_replace.h"
#include "pipeline/base/printable.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/base/utf8.h"
#include "pipeline/tokenizer/bpe.h"
#include "pipeline/tokenizer/framing.h"
#include "pipeline/tokenizer/json_file.h"
#include "pipeline/tokenizer/tokenizer.h"
#include "pipeline/tokenizer/tokenizer_config.h"
#include "pipeline/tokenizer/unicode_text.h"

namespace fresco {
namespace {

using nlohmann::json;

bool IsOther(char32_t c) {
  return !IsWhitespace(c) && !IsLetter(c) && !IsNumber(c);
}

// Where the word that begins at `begin`, not a space, ends. CLIP's pattern, by hand because it needs no backtracking:
//   <\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+
// What its first two alternatives match, the byte-level pre-tokeniser behind it cuts in three: <|, the letters, |>.
size_t WordEnd(std::u32string_view text, size_t begin) {
  for (const std::u32string_view contraction : {U"'s", U"'t", U"'re", U"'ve", U"'m", U"'ll", U"'d"}) {
    if (text.substr(begin, contraction.size()) == contraction) return begin + contraction.size();
  }
  if (IsNumber(text[begin])) return begin + 1;
  const auto belongs = IsLetter(text[begin]) ? IsLetter : IsOther;
  return std::find_if_not(text.begin() + begin, text.end(), belongs) - text.begin();
}

// 0 where no special token's name is at `begin`.
size_t LiteralLength(std::u32string_view text, size_t begin) {
  for (const std::u32string_view literal : {U"<|startoftext|>", U"<|endoftext|>"}) {
    if (text.substr(begin, literal.size()) == literal) return literal.size();
  }
  return 0;
}

class ClipTokenizer final : public Tokenizer {
 public:
  ClipTokenizer(BpeModel model, const TokenizerConfig& config)
      : model_(std::move(model)),
        added_(
            config.AllAdded(), [this](std::string_view token) { return ModelId(token); },
            static_cast<int32_t>(model_.vocabulary().size()), NormalizeForClip),
        model_max_length_(config.model_max_length) {
    framing_.begin = added_.Id(config.named.at("bos_token").content);
    framing_.end = *added_.Id(config.named.at("eos_token").content);
    framing_.pad = *added_.Id(config.named.at("pad_token").content);
    largest_id_ = added_.max_id();
    tokens_.reserve(model_.vocabulary().size());
    for (const auto& [token, id] : model_.vocabulary()) {
      largest_id_ = std::max(largest_id_, id);
      tokens_[id] = token;
    }
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
  int vocab_size() const override { return largest_id_ + 1; }
  int pad_id() const override { return framing_.pad; }
  int eos_id() const override { return framing_.end; }

 private:
  std::optional<int32_t> ModelId(std::string_view token) const {
    const auto found = model_.vocabulary().find(ToAbsl(token));
    return found == model_.vocabulary().end() ? std::nullopt : std::optional(found->second);
  }

  void EncodeNormalized(std::string_view normalized, std::vector<int32_t>* ids) const {
    const std::u32string text = DecodeUtf8(normalized);
    std::string word;
    size_t literal_end =
        0;  // where no word goes beyond: the signs of a <|startoftext|> are not one with those after it
    for (size_t begin = 0; begin < text.size();) {
      if (IsWhitespace(text[begin])) {
        ++begin;
        continue;
      }
      if (begin >= literal_end) literal_end = begin + LiteralLength(text, begin);
      const size_t limit = begin < literal_end ? literal_end : text.size();
      const size_t end = WordEnd(std::u32string_view(text).substr(0, limit), begin);
      word.clear();
      for (; begin < end; ++begin) AppendUtf8(text[begin], &word);
      model_.EncodeWord(word, ids);
    }
  }

  std::string Decode(absl::Span<const int32_t> ids) const {
    std::string bytes;
    for (const int32_t id : ids) {
      const std::string_view added = added_.Content(id);
      bytes +=
          added.empty() ? absl::StrReplaceAll(ByteLevelDecode(tokens_.at(id)), {{"</w>", " "}}) : std::string(added);
    }
    const std::string text = ReplaceMalformedUtf8(bytes);
    return std::string(absl::StripAsciiWhitespace(text));
  }

  BpeModel model_;
  AddedVocabulary added_;
  int model_max_length_;
  Framing framing_;
  // By id; not a list, which two tokens of far ids would make as long as the ids are large.
  absl::flat_hash_map<int32_t, std::string> tokens_;
  int32_t largest_id_ = -1;
};

absl::StatusOr<Vocabulary> ReadVocabulary(const json& object) {
  if (!object.is_object()) return WrongType(object, "an object", "the vocabulary");
  Vocabulary vocabulary;
  vocabulary.reserve(object.size());
  for (const auto& [token, id] : object.items()) {
    FRESCO_ASSIGN_OR_RETURN(vocabulary[token],
                            AsId(id, kMaxVocabulary, StrCat("the id of \"", PrintableName(token), "\"")));
  }
  return vocabulary;
}

absl::Status AddMerge(std::string_view line, size_t number, Merges* merges) {
  const size_t space = line.find(' ');
  if (space == std::string_view::npos || line.find(' ', space + 1) != std::string_view::npos) {
    return absl::InvalidArgumentError(StrCat("merge ", number, " is not two tokens with one space between them"));
  }
  merges->emplace_back(line.substr(0, space), line.substr(space + 1));
  return absl::OkStatus();
}

absl::StatusOr<Merges> ParseMergesText(std::string_view text) {
  Merges merges;
  if (!IsUtf8(text)) return absl::InvalidArgumentError("not UTF-8");
  while (!text.empty()) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.starts_with("#version")) continue;
    FRESCO_RETURN_IF_ERROR(AddMerge(line, merges.size() + 1, &merges));
  }
  return merges;
}

// tokenizer.json writes a merge as "a b" or, since 2024, as ["a", "b"].
absl::StatusOr<Merges> ReadMergesList(const json& list) {
  if (!list.is_array()) return WrongType(list, "a list", "model.merges");
  Merges merges;
  for (const json& merge : list) {
    const size_t number = merges.size() + 1;
    if (merge.is_string()) {
      FRESCO_RETURN_IF_ERROR(AddMerge(merge.get_ref<const std::string&>(), number, &merges));
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      merges.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
    } else {
      return WrongType(merge, "two tokens", StrCat("merge ", number));
    }
  }
  return merges;
}

absl::StatusOr<BpeModel> ModelFromTokenizerJson(const json& file, const std::string& unknown) {
  const json& model = Member(file, "model");
  if (const json& type = Member(model, "type"); !type.is_null() && type != "BPE") {
    return absl::InvalidArgumentError(StrCat("model.type is ", Shown(type), ", not \"BPE\""));
  }
  FRESCO_ASSIGN_OR_RETURN(Vocabulary vocabulary, ReadVocabulary(Member(model, "vocab")));
  FRESCO_ASSIGN_OR_RETURN(const Merges merges, ReadMergesList(Member(model, "merges")));
  return BpeModel::Create(std::move(vocabulary), merges, unknown);
}

absl::StatusOr<BpeModel> ModelFromTextFiles(const std::filesystem::path& folder, const std::string& unknown) {
  const std::filesystem::path vocabulary_file = folder / "vocab.json", merges_file = folder / "merges.txt";
  std::error_code error;
  if (!std::filesystem::exists(vocabulary_file, error) && !std::filesystem::exists(merges_file, error)) {
    return absl::NotFoundError(
        StrCat(folder.string(), ": has neither tokenizer.json nor vocab.json and merges.txt: no CLIP tokenizer"));
  }
  FRESCO_ASSIGN_OR_RETURN(const json vocabulary_json, ReadJsonObject(vocabulary_file));
  FRESCO_ASSIGN_OR_RETURN(const std::string merges_text, ReadTokenizerFile(merges_file));
  auto vocabulary = ReadVocabulary(vocabulary_json);
  if (!vocabulary.ok()) return Annotate(vocabulary.status(), vocabulary_file.string());
  const auto merges = ParseMergesText(merges_text);
  if (!merges.ok()) return Annotate(merges.status(), merges_file.string());
  auto model = BpeModel::Create(*std::move(vocabulary), *merges, unknown);
  if (!model.ok()) return Annotate(model.status(), StrCat(vocabulary_file.string(), " and merges.txt"));
  return model;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadClipTokenizer(const std::filesystem::path& folder) {
  FRESCO_ASSIGN_OR_RETURN(const json file, ReadTokenizerJson(folder));
  FRESCO_ASSIGN_OR_RETURN(const TokenizerConfig config, ReadTokenizerConfig(folder, file,
                                                                            {{"unk_token", "<|endoftext|>"},
                                                                             {"bos_token", "<|startoftext|>"},
                                                                             {"eos_token", "<|endoftext|>"},
                                                                             {"pad_token", "<|endoftext|>"}}));
  const std::string& unknown = config.named.at("unk_token").content;
  absl::StatusOr<BpeModel> model =
      file.is_null() ? ModelFromTextFiles(folder, unknown) : ModelFromTokenizerJson(file, unknown);
  if (!model.ok())
    return file.is_null() ? model.status() : Annotate(model.status(), (folder / "tokenizer.json").string());
  return std::make_unique<ClipTokenizer>(*std::move(model), config);
}

}  // namespace fresco
