// What the JSON files around a vocabulary say of special tokens and lengths, merged as transformers 5.23.0 merges them.
// Private to fresco_tokenizer.
#pragma once

#include <array>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "pipeline/tokenizer/added_tokens.h"

namespace fresco {

// Of ids and of a vocabulary's size: far above any real one, far below what a 32-bit number or memory ends at.
inline constexpr int32_t kMaxVocabulary = 1 << 24;

// transformers' named tokens, in the order in which it adds them.
inline constexpr std::array<std::string_view, 7> kNamedTokens = {"bos_token", "eos_token", "unk_token", "sep_token",
                                                                 "pad_token", "cls_token", "mask_token"};

struct TokenizerConfig {
  std::map<std::string, AddedToken, std::less<>> named;  // by kNamedTokens' names
  std::vector<AddedToken> model_specific;                // other "…_token" keys
  std::vector<AddedToken> added;                         // by their ids in the files
  // Both may be there; then `additional` is only what T5 counts its extra ids by.
  std::optional<std::vector<AddedToken>> extra;       // extra_special_tokens
  std::optional<std::vector<AddedToken>> additional;  // additional_special_tokens
  int extra_ids = 100;                                // T5's
  int model_max_length = 0;                           // INT_MAX: none given

  // Every token that a text may name, in the order in which transformers adds them: `added`, then what is not among
  // them. Two may have one content, as the unknown and the end token do.
  std::vector<AddedToken> AllAdded() const;
};

using NamedDefaults = std::vector<std::pair<std::string_view, std::string_view>>;

// From tokenizer_config.json, special_tokens_map.json and added_tokens.json in `folder`, each where it exists, and
// `tokenizer_json` (null where there is none). `defaults`: named tokens that the class must have, with the contents
// they have where no file says. INVALID_ARGUMENT names file, key and reason.
absl::StatusOr<TokenizerConfig> ReadTokenizerConfig(const std::filesystem::path& folder,
                                                    const nlohmann::json& tokenizer_json,
                                                    const NamedDefaults& defaults);

// tokenizer.json, where `folder` has it; null where not.
absl::StatusOr<nlohmann::json> ReadTokenizerJson(const std::filesystem::path& folder);

}  // namespace fresco
