#include "pipeline/tokenizer/tokenizer_config.h"

#include <algorithm>
#include <climits>
#include <set>
#include <utility>

#include "absl/strings/numbers.h"
#include "pipeline/base/printable.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/tokenizer/json_file.h"

namespace fresco {
namespace {

using nlohmann::json;
using AddedById = std::map<int32_t, AddedToken>;

// How a token written as an object reads: transformers adds `special=True` to those of special_tokens_map.json.
enum class Special { kAsWritten, kAlways };

absl::StatusOr<AddedToken> ReadTokenObject(const json& value, Special special, std::string_view what) {
  AddedToken token;
  FRESCO_ASSIGN_OR_RETURN(token.content, AsString(Member(value, "content"), StrCat(what, ".content")));
  bool is_special = true;
  if (special == Special::kAsWritten) {
    FRESCO_ASSIGN_OR_RETURN(is_special, AsBool(Member(value, "special"), false, StrCat(what, ".special")));
  }
  const std::pair<const char*, bool*> flags[] = {
      {"single_word", &token.single_word}, {"lstrip", &token.lstrip}, {"rstrip", &token.rstrip}};
  for (const auto& [name, flag] : flags) {
    FRESCO_ASSIGN_OR_RETURN(*flag, AsBool(Member(value, name), false, StrCat(what, ".", name)));
  }
  FRESCO_ASSIGN_OR_RETURN(token.normalized,
                          AsBool(Member(value, "normalized"), !is_special, StrCat(what, ".normalized")));
  return token;
}

// A string, or an object that says it is an AddedToken.
absl::StatusOr<AddedToken> ReadToken(const json& value, std::string_view what) {
  if (value.is_object() && Member(value, "__type") == "AddedToken")
    return ReadTokenObject(value, Special::kAsWritten, what);
  AddedToken token;
  FRESCO_ASSIGN_OR_RETURN(token.content, AsString(value, what));
  return token;
}

absl::StatusOr<std::vector<AddedToken>> ReadTokenList(const json& value, Special special, std::string_view what) {
  std::vector<AddedToken> tokens;
  if (value.is_null()) return tokens;
  if (!value.is_array()) return WrongType(value, "a list", what);
  for (size_t i = 0; i < value.size(); ++i) {
    const std::string place = StrCat(what, "[", i, "]");
    const bool plain_object = special == Special::kAlways && value[i].is_object();
    FRESCO_ASSIGN_OR_RETURN(AddedToken token,
                            plain_object ? ReadTokenObject(value[i], special, place) : ReadToken(value[i], place));
    tokens.push_back(std::move(token));
  }
  return tokens;
}

bool IsNamed(std::string_view key) {
  return std::find(kNamedTokens.begin(), kNamedTokens.end(), key) != kNamedTokens.end();
}

absl::Status ReadNamed(const json& config, TokenizerConfig* out) {
  for (const auto& [key, value] : config.items()) {
    if (IsNamed(key) && !value.is_null()) {
      FRESCO_ASSIGN_OR_RETURN(out->named[key], ReadToken(value, key));
    } else if (!IsNamed(key) && key.ends_with("_token") && value.is_string()) {
      FRESCO_ASSIGN_OR_RETURN(AddedToken token, ReadToken(value, key));
      out->model_specific.push_back(std::move(token));
    }
  }
  return absl::OkStatus();
}

absl::Status ReadExtra(const json& config, TokenizerConfig* out) {
  const json& extra = Member(config, "extra_special_tokens");
  if (extra.is_object()) {
    for (const auto& [key, value] : extra.items()) {
      FRESCO_ASSIGN_OR_RETURN(AddedToken token, ReadToken(value, StrCat("extra_special_tokens.", PrintableName(key))));
      out->model_specific.push_back(std::move(token));
    }
  } else if (config.contains("extra_special_tokens")) {
    FRESCO_ASSIGN_OR_RETURN(out->extra, ReadTokenList(extra, Special::kAsWritten, "extra_special_tokens"));
  }
  if (!config.contains("additional_special_tokens")) return absl::OkStatus();
  FRESCO_ASSIGN_OR_RETURN(auto additional, ReadTokenList(Member(config, "additional_special_tokens"),
                                                         Special::kAsWritten, "additional_special_tokens"));
  // The old name counts as the new one, unless the new one is used.
  const bool renamed = !out->extra || out->extra->empty();
  (renamed ? out->extra : out->additional) = std::move(additional);
  return absl::OkStatus();
}

absl::Status ReadLimits(const json& config, TokenizerConfig* out) {
  const json& newer = Member(config, "model_max_length");
  const json& length = newer.is_null() ? Member(config, "max_len") : newer;
  out->model_max_length = INT_MAX;
  if (!length.is_null()) {
    if (!length.is_number()) return WrongType(length, "a number", "model_max_length");
    const double value = length.get<double>();
    if (!(value >= 1)) return absl::InvalidArgumentError(StrCat("model_max_length is ", length.dump(), ", under 1"));
    if (value < INT_MAX) out->model_max_length = static_cast<int>(value);
  }
  if (const json& extra_ids = Member(config, "extra_ids"); !extra_ids.is_null()) {
    FRESCO_ASSIGN_OR_RETURN(out->extra_ids, AsId(extra_ids, 10001, "extra_ids"));
  }
  return absl::OkStatus();
}

// What would change ids, and no model of this architecture uses.
absl::Status RefuseUnsupported(const json& config) {
  for (const char* key : {"padding_side", "truncation_side"}) {
    const json& side = Member(config, key);
    if (side.is_null() || side == "right") continue;
    return absl::InvalidArgumentError(StrCat(key, " is ", Shown(side), "; only \"right\" is supported"));
  }
  FRESCO_ASSIGN_OR_RETURN(const bool split,
                          AsBool(Member(config, "split_special_tokens"), false, "split_special_tokens"));
  if (split) return absl::InvalidArgumentError("split_special_tokens is not supported");
  return absl::OkStatus();
}

absl::Status ReadConfigFile(const json& config, TokenizerConfig* out) {
  FRESCO_RETURN_IF_ERROR(RefuseUnsupported(config));
  FRESCO_RETURN_IF_ERROR(ReadLimits(config, out));
  FRESCO_RETURN_IF_ERROR(ReadExtra(config, out));
  return ReadNamed(config, out);
}

absl::Status ReadAddedTokensDecoder(const json& decoder, AddedById* added) {
  if (!decoder.is_object()) return WrongType(decoder, "an object", "added_tokens_decoder");
  for (const auto& [key, value] : decoder.items()) {
    const std::string place = StrCat("added_tokens_decoder.", PrintableName(key));
    int32_t id = 0;
    if (!absl::SimpleAtoi(key, &id) || id < 0) return absl::InvalidArgumentError(StrCat(place, ": not an id"));
    FRESCO_ASSIGN_OR_RETURN((*added)[id], ReadTokenObject(value, Special::kAsWritten, place));
  }
  return absl::OkStatus();
}

absl::Status ReadSpecialTokensMap(const json& map, TokenizerConfig* out) {
  for (const auto& [key, value] : map.items()) {
    if (key == "additional_special_tokens") {
      FRESCO_ASSIGN_OR_RETURN(out->additional, ReadTokenList(value, Special::kAsWritten, key));
    } else if (key == "extra_special_tokens") {
      FRESCO_ASSIGN_OR_RETURN(auto tokens, ReadTokenList(value, Special::kAlways, key));
      if (!out->extra) out->extra.emplace();
      out->extra->insert(out->extra->end(), tokens.begin(), tokens.end());
    } else if (IsNamed(key) && value.is_object()) {
      FRESCO_ASSIGN_OR_RETURN(out->named[key], ReadTokenObject(value, Special::kAlways, key));
    } else if (IsNamed(key) && !value.is_null()) {
      FRESCO_ASSIGN_OR_RETURN(out->named[key], ReadToken(value, key));
    }
  }
  return absl::OkStatus();
}

absl::Status ReadAddedTokensFile(const json& file, const TokenizerConfig& config, AddedById* added) {
  const auto is_special = [&config](std::string_view content) {
    const auto same = [content](const AddedToken& token) { return token.content == content; };
    return std::any_of(config.named.begin(), config.named.end(),
                       [&](const auto& named) { return same(named.second); }) ||
           (config.extra && std::any_of(config.extra->begin(), config.extra->end(), same));
  };
  for (const auto& [content, value] : file.items()) {
    FRESCO_ASSIGN_OR_RETURN(const int32_t id, AsId(value, kMaxVocabulary, StrCat("\"", PrintableName(content), "\"")));
    (*added)[id] = AddedToken{content, false, false, false, !is_special(content)};
  }
  return absl::OkStatus();
}

absl::Status ReadAddedTokensList(const json& list, AddedById* added) {
  if (!list.is_array()) return WrongType(list, "a list", "added_tokens");
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string place = StrCat("added_tokens[", i, "]");
    FRESCO_ASSIGN_OR_RETURN(const int32_t id, AsId(Member(list[i], "id"), kMaxVocabulary, StrCat(place, ".id")));
    FRESCO_ASSIGN_OR_RETURN((*added)[id], ReadTokenObject(list[i], Special::kAsWritten, place));
  }
  return absl::OkStatus();
}

absl::StatusOr<json> ReadOptionalObject(const std::filesystem::path& file) {
  std::error_code error;
  if (!std::filesystem::exists(file, error)) return json();
  return ReadJsonObject(file);
}

// Where tokenizer_config.json has no added_tokens_decoder, as files written before 2023 have not.
absl::Status ReadLegacyFiles(const std::filesystem::path& folder, const json& tokenizer_json, TokenizerConfig* config,
                             AddedById* added) {
  const std::filesystem::path map_file = folder / "special_tokens_map.json", added_file = folder / "added_tokens.json";
  FRESCO_ASSIGN_OR_RETURN(const json map, ReadOptionalObject(map_file));
  FRESCO_RETURN_IF_ERROR(Annotate(ReadSpecialTokensMap(map, config), map_file.string()));
  FRESCO_ASSIGN_OR_RETURN(const json tokens, ReadOptionalObject(added_file));
  FRESCO_RETURN_IF_ERROR(Annotate(ReadAddedTokensFile(tokens, *config, added), added_file.string()));
  if (tokenizer_json.is_null()) return absl::OkStatus();
  return Annotate(ReadAddedTokensList(Member(tokenizer_json, "added_tokens"), added),
                  (folder / "tokenizer.json").string());
}

// A named token is the added token of the same content, with its flags.
void TakeFlagsOfAdded(const AddedById& added, TokenizerConfig* config) {
  std::map<std::string_view, const AddedToken*> by_content;
  for (const auto& [id, token] : added) by_content[token.content] = &token;
  for (auto& [name, token] : config->named) {
    const auto found = by_content.find(token.content);
    if (found != by_content.end()) token = *found->second;
  }
}

absl::Status FillDefaults(const json& config_json, const NamedDefaults& defaults, TokenizerConfig* config) {
  for (const auto& [name, content] : defaults) {
    const auto found = config->named.find(name);
    if (found == config->named.end()) {
      if (config_json.contains(std::string(name))) return absl::InvalidArgumentError(StrCat(name, " is null"));
      config->named[std::string(name)].content = std::string(content);
    } else if (found->second.content.empty()) {
      return absl::InvalidArgumentError(StrCat(name, " is empty"));
    }
  }
  return absl::OkStatus();
}

absl::Status RefuseLeft(const json& tokenizer_json) {
  for (const char* key : {"padding", "truncation"}) {
    if (Member(Member(tokenizer_json, key), "direction") == "Left") {
      return absl::InvalidArgumentError(StrCat(key, ".direction is \"Left\"; only \"Right\" is supported"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<AddedToken> TokenizerConfig::AllAdded() const {
  std::set<std::string_view> contents;
  for (const AddedToken& token : added) contents.insert(token.content);
  std::vector<AddedToken> all = added;
  const auto add = [&](const AddedToken& token) {
    if (!contents.contains(token.content)) all.push_back(token);
  };
  for (const std::string_view name : kNamedTokens) {
    if (const auto found = named.find(name); found != named.end()) add(found->second);
  }
  for (const AddedToken& token : model_specific) add(token);
  const auto& last = extra ? extra : additional;
  if (last) std::for_each(last->begin(), last->end(), add);
  return all;
}

absl::StatusOr<json> ReadTokenizerJson(const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / "tokenizer.json";
  FRESCO_ASSIGN_OR_RETURN(json value, ReadOptionalObject(file));
  FRESCO_RETURN_IF_ERROR(Annotate(RefuseLeft(value), file.string()));
  return value;
}

absl::StatusOr<TokenizerConfig> ReadTokenizerConfig(const std::filesystem::path& folder, const json& tokenizer_json,
                                                    const NamedDefaults& defaults) {
  const std::filesystem::path file = folder / "tokenizer_config.json";
  FRESCO_ASSIGN_OR_RETURN(json config_json, ReadOptionalObject(file));
  if (config_json.is_null()) config_json = json::object();
  TokenizerConfig config;
  AddedById added;
  FRESCO_RETURN_IF_ERROR(Annotate(ReadConfigFile(config_json, &config), file.string()));
  if (config_json.contains("added_tokens_decoder")) {
    const json& decoder = Member(config_json, "added_tokens_decoder");
    FRESCO_RETURN_IF_ERROR(Annotate(ReadAddedTokensDecoder(decoder, &added), file.string()));
  } else {
    FRESCO_RETURN_IF_ERROR(ReadLegacyFiles(folder, tokenizer_json, &config, &added));
  }
  TakeFlagsOfAdded(added, &config);
  FRESCO_RETURN_IF_ERROR(Annotate(FillDefaults(config_json, defaults, &config), file.string()));
  for (auto& [id, token] : added) config.added.push_back(std::move(token));
  return config;
}

}  // namespace fresco
