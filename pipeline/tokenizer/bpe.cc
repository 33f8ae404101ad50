#include "pipeline/tokenizer/bpe.h"

#include <algorithm>
#include <array>
#include <queue>

#include "pipeline/base/printable.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/base/utf8.h"
#include "pipeline/tokenizer/unicode_text.h"

namespace fresco {
namespace {

constexpr std::string_view kWordEnd = "</w>";

constexpr bool IsPrintableByte(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

// GPT-2's: printable Latin-1 stands for itself, the other 68 bytes, in order, are U+0100 and on.
constexpr std::array<char32_t, 256> ByteCharacters() {
  std::array<char32_t, 256> characters{};
  char32_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) characters[byte] = IsPrintableByte(byte) ? byte : next++;
  return characters;
}

constexpr std::array<char32_t, 256> kByteCharacters = ByteCharacters();

}  // namespace

std::string ByteLevelCharacter(uint8_t byte) {
  std::string out;
  AppendUtf8(kByteCharacters[byte], &out);
  return out;
}

std::string ByteLevelDecode(std::string_view token) {
  std::string out;
  for (const char32_t c : DecodeUtf8(token)) {
    const auto* byte = std::find(kByteCharacters.begin(), kByteCharacters.end(), c);
    if (byte != kByteCharacters.end()) {
      out.push_back(static_cast<char>(byte - kByteCharacters.begin()));
    } else {
      AppendUtf8(c, &out);
    }
  }
  return out;
}

absl::StatusOr<BpeModel> BpeModel::Create(Vocabulary vocabulary, const Merges& merges, const std::string& unknown) {
  BpeModel model(std::move(vocabulary));
  FRESCO_RETURN_IF_ERROR(model.FillAlphabet(unknown));
  FRESCO_RETURN_IF_ERROR(model.AddMerges(merges));
  return model;
}

absl::Status BpeModel::FillAlphabet(const std::string& unknown) {
  const auto unknown_id = vocabulary_.find(unknown);
  for (int byte = 0; byte < 256; ++byte) {
    const std::string character = ByteLevelCharacter(static_cast<uint8_t>(byte));
    for (const bool last : {false, true}) {
      auto found = vocabulary_.find(last ? StrCat(character, kWordEnd) : character);
      if (found == vocabulary_.end()) found = unknown_id;
      if (found == vocabulary_.end()) {
        return absl::InvalidArgumentError(StrCat("the vocabulary has neither \"", character, last ? kWordEnd : "",
                                                 "\" nor the unknown token \"", PrintableName(unknown), "\""));
      }
      (last ? last_ids_ : first_ids_)[byte] = found->second;
    }
  }
  return absl::OkStatus();
}

absl::Status BpeModel::AddMerges(const Merges& merges) {
  merges_.reserve(merges.size());
  for (size_t i = 0; i < merges.size(); ++i) {
    const auto& [left, right] = merges[i];
    const std::string merged = left + right;
    for (const std::string* part : {&left, &right, &merged}) {
      if (vocabulary_.contains(*part)) continue;
      return absl::InvalidArgumentError(StrCat("merge ", i + 1, " (\"", PrintableName(left), "\" and \"",
                                               PrintableName(right), "\"): \"", PrintableName(*part),
                                               "\" is not in the vocabulary"));
    }
    merges_[{vocabulary_[left], vocabulary_[right]}] = {static_cast<int32_t>(i), vocabulary_[merged]};
  }
  return absl::OkStatus();
}

const BpeModel::Merge* BpeModel::FindMerge(int32_t left, int32_t right) const {
  const auto found = merges_.find({left, right});
  return found == merges_.end() ? nullptr : &found->second;
}

// One word's symbols as a doubly linked list, and the merges that are possible, best first.
class WordMerger {
 public:
  WordMerger(const BpeModel& model, std::string_view word) : model_(model) {
    const int size = static_cast<int>(word.size());
    symbols_.reserve(size);
    for (int i = 0; i < size; ++i) {
      const auto byte = static_cast<uint8_t>(word[i]);
      const int32_t id = i + 1 == size ? model.last_ids_[byte] : model.first_ids_[byte];
      symbols_.push_back({id, i - 1, i + 1 == size ? -1 : i + 1, true});
    }
    for (int i = 0; i < size; ++i) Offer(i);
  }

  void Run() {
    while (!candidates_.empty()) {
      const Candidate best = candidates_.top();
      candidates_.pop();
      if (IsCurrent(best)) Apply(best);
    }
  }

  void AppendIds(std::vector<int32_t>* ids) const {
    for (const Symbol& symbol : symbols_) {
      if (symbol.alive) ids->push_back(symbol.id);
    }
  }

 private:
  struct Symbol {
    int32_t id;
    int previous, next;  // -1: none
    bool alive;
  };
  struct Candidate {
    int32_t rank;
    int position;  // of the left symbol
    int32_t id;    // of the result
    // std::priority_queue gives the greatest first: the lowest rank, then the leftmost.
    bool operator<(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : position > other.position;
    }
  };

  const BpeModel::Merge* MergeAt(int left) const {
    if (left < 0 || symbols_[left].next < 0) return nullptr;
    return model_.FindMerge(symbols_[left].id, symbols_[symbols_[left].next].id);
  }

  void Offer(int left) {
    if (const BpeModel::Merge* merge = MergeAt(left)) candidates_.push({merge->rank, left, merge->id});
  }

  // By the result and not by the rank, as `tokenizers` compares.
  bool IsCurrent(const Candidate& candidate) const {
    if (!symbols_[candidate.position].alive) return false;
    const BpeModel::Merge* merge = MergeAt(candidate.position);
    return merge != nullptr && merge->id == candidate.id;
  }

  void Apply(const Candidate& candidate) {
    Symbol& left = symbols_[candidate.position];
    Symbol& right = symbols_[left.next];
    left.id = candidate.id;
    left.next = right.next;
    right.alive = false;
    if (left.next >= 0) symbols_[left.next].previous = candidate.position;
    Offer(left.previous);
    Offer(candidate.position);
  }

  const BpeModel& model_;
  std::vector<Symbol> symbols_;
  std::priority_queue<Candidate> candidates_;
};

void BpeModel::EncodeWord(std::string_view word, std::vector<int32_t>* ids) const {
  WordMerger merger(*this, word);
  merger.Run();
  merger.AppendIds(ids);
}

}  // namespace fresco
