#include "pipeline/tokenizer/added_tokens.h"

#include <algorithm>
#include <utility>

#include "pipeline/tokenizer/unicode_text.h"

namespace fresco {
namespace {

struct Match {
  size_t begin, end;
  int32_t id;
};

bool IsContinuation(char c) {
  return (static_cast<uint8_t>(c) & 0xC0) == 0x80;
}

// The character that ends at `end` > 0.
std::string_view CharacterBefore(std::string_view text, size_t end) {
  size_t begin = end - 1;
  while (begin > 0 && IsContinuation(text[begin])) --begin;
  return text.substr(begin, end - begin);
}

// The character that begins at `begin` < size.
std::string_view CharacterAt(std::string_view text, size_t begin) {
  size_t end = begin + 1;
  while (end < text.size() && IsContinuation(text[end])) ++end;
  return text.substr(begin, end - begin);
}

bool StandsAlone(std::string_view text, const Match& match) {
  const auto is_word = [](std::string_view character) { return IsWordCharacter(DecodeUtf8(character)[0]); };
  if (match.begin > 0 && is_word(CharacterBefore(text, match.begin))) return false;
  return match.end == text.size() || !is_word(CharacterAt(text, match.end));
}

void TakeWhitespace(std::string_view text, const AddedToken& token, size_t done, Match* match) {
  const auto is_space = [](std::string_view character) { return IsWhitespace(DecodeUtf8(character)[0]); };
  while (token.lstrip && match->begin > done && is_space(CharacterBefore(text, match->begin))) {
    match->begin -= CharacterBefore(text, match->begin).size();
  }
  while (token.rstrip && match->end < text.size() && is_space(CharacterAt(text, match->end))) {
    match->end += CharacterAt(text, match->end).size();
  }
}

}  // namespace

AddedVocabulary::AddedVocabulary(const std::vector<AddedToken>& tokens, const ModelLookup& model, int32_t model_size,
                                 Normalizer normalizer)
    : normalizer_(std::move(normalizer)) {
  for (const AddedToken& token : tokens) {
    if (token.content.empty()) continue;
    if (!ids_.contains(token.content)) ids_[token.content] = model(token.content).value_or(NextId(model_size));
    by_id_.insert_or_assign(ids_[token.content], token);
  }
  for (const auto& [id, token] : by_id_) {
    if (token.normalized) {
      normalized_.Insert(normalizer_(token.content), id);
    } else {
      raw_.Insert(token.content, id);
    }
  }
}

int32_t AddedVocabulary::NextId(int32_t model_size) const {
  return std::max(model_size, max_id() + 1);
}

std::vector<AddedVocabulary::Piece> AddedVocabulary::Split(std::string_view text) const {
  std::vector<Piece> pieces;
  for (Piece& outer : Find(text, raw_)) {
    if (outer.id) {
      pieces.push_back(std::move(outer));
      continue;
    }
    for (Piece& inner : Find(normalizer_(outer.text), normalized_)) pieces.push_back(std::move(inner));
  }
  return pieces;
}

// The leftmost match, of those the longest; after it from its end.
std::vector<AddedVocabulary::Piece> AddedVocabulary::Find(std::string_view text, const ByteTrie& trie) const {
  std::vector<Piece> pieces;
  size_t done = 0;
  const auto add_text = [&](size_t end) {
    if (end > done) pieces.push_back({std::nullopt, std::string(text.substr(done, end - done))});
  };
  for (size_t i = 0; i < text.size();) {
    Match match{i, i, 0};
    trie.ForEachPrefix(text.substr(i), [&](size_t length, int32_t id) {
      match.end = i + length;
      match.id = id;
    });
    if (match.end == i) {
      ++i;
      continue;
    }
    i = match.end;
    const AddedToken& token = by_id_.at(match.id);
    if (token.single_word && !StandsAlone(text, match)) continue;
    TakeWhitespace(text, token, done, &match);
    add_text(match.begin);
    pieces.push_back({match.id, std::string(text.substr(match.begin, match.end - match.begin))});
    done = match.end;
  }
  add_text(text.size());
  return pieces;
}

std::optional<int32_t> AddedVocabulary::Id(std::string_view content) const {
  const auto found = ids_.find(content);
  return found == ids_.end() ? std::nullopt : std::optional(found->second);
}

std::string_view AddedVocabulary::Content(int32_t id) const {
  const auto found = by_id_.find(id);
  return found == by_id_.end() ? std::string_view() : std::string_view(found->second.content);
}

}  // namespace fresco
