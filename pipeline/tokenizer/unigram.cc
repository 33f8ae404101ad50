#include "pipeline/tokenizer/unigram.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "pipeline/base/strings.h"

namespace fresco {
namespace {

int CharacterLength(std::string_view text, int at) {
  int end = at + 1;
  while (end < static_cast<int>(text.size()) && (static_cast<uint8_t>(text[end]) & 0xC0) == 0x80) ++end;
  return end - at;
}

}  // namespace

absl::StatusOr<UnigramModel> UnigramModel::Create(std::vector<ScoredPiece> pieces, int32_t unknown_id) {
  constexpr size_t kMaxPiece = 1024;
  if (unknown_id >= static_cast<int32_t>(pieces.size())) {
    return absl::InvalidArgumentError(
        StrCat("the unknown token is number ", unknown_id, ", but there are only ", pieces.size(), " pieces"));
  }
  for (size_t i = 0; i < pieces.size(); ++i) {
    if (!std::isfinite(pieces[i].score)) {
      return absl::InvalidArgumentError(StrCat("the score of piece ", i, " is not a finite number"));
    }
    if (pieces[i].text.size() > kMaxPiece) {
      return absl::InvalidArgumentError(
          StrCat("piece ", i, " has ", pieces[i].text.size(), " bytes, over ", kMaxPiece));
    }
  }
  return UnigramModel(std::move(pieces), unknown_id);
}

UnigramModel::UnigramModel(std::vector<ScoredPiece> pieces, int32_t unknown_id)
    : pieces_(std::move(pieces)), unknown_id_(unknown_id) {
  constexpr double kUnknownPenalty = 10;
  double worst = std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < pieces_.size(); ++i) {
    worst = std::min(worst, pieces_[i].score);
    ids_[pieces_[i].text] = static_cast<int32_t>(i);  // of two alike the last counts
    trie_.Insert(pieces_[i].text, static_cast<int32_t>(i));
  }
  unknown_score_ = worst - kUnknownPenalty;
}

// In double, from left to right, a tie for the first found: sums and order are `tokenizers`'.
std::vector<UnigramModel::Arrival> UnigramModel::BestArrivals(std::string_view word) const {
  std::vector<Arrival> arrivals(word.size() + 1);
  const auto offer = [&](int begin, int end, int32_t id, double score) {
    Arrival& arrival = arrivals[end];
    if (arrival.begin < 0 || score > arrival.score) arrival = {score, begin, id};
  };
  for (int begin = 0; begin < static_cast<int>(word.size());) {
    const double score = arrivals[begin].score;
    const int character = CharacterLength(word, begin);
    bool covered = false;
    trie_.ForEachPrefix(word.substr(begin), [&](size_t length, int32_t id) {
      offer(begin, begin + static_cast<int>(length), id, pieces_[id].score + score);
      covered = covered || static_cast<int>(length) == character;
    });
    if (!covered) offer(begin, begin + character, unknown_id_, unknown_score_ + score);
    begin += character;
  }
  return arrivals;
}

void UnigramModel::EncodeWord(std::string_view word, std::vector<int32_t>* ids) const {
  const std::vector<Arrival> arrivals = BestArrivals(word);
  const size_t first = ids->size();
  int unknown_end = -1;  // of the run of unknowns that is being walked back
  const auto add = [&](int begin, int end) {
    ids->push_back(Id(word.substr(begin, end - begin)).value_or(unknown_id_));
  };
  int end = static_cast<int>(word.size());
  for (; end > 0; end = arrivals[end].begin) {
    const bool unknown = arrivals[end].id == unknown_id_;
    if (unknown && unknown_end < 0) unknown_end = end;
    if (!unknown && unknown_end >= 0) {
      add(end, unknown_end);
      unknown_end = -1;
    }
    if (!unknown) add(arrivals[end].begin, end);
  }
  if (unknown_end >= 0) add(0, unknown_end);
  std::reverse(ids->begin() + first, ids->end());
}

std::optional<int32_t> UnigramModel::Id(std::string_view piece) const {
  const auto found = ids_.find(ToAbsl(piece));
  return found == ids_.end() ? std::nullopt : std::optional(found->second);
}

}  // namespace fresco
