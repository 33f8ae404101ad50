#include "server/rpc/unread_answers.h"

#include <set>
#include <utility>

#include "absl/time/time.h"
#include "pipeline/base/strings.h"
#include "server/scheduler/retry.h"

namespace fresco {
namespace {

// What a call that is not over takes beside its pictures, in gRPC and here.
constexpr int64_t kAnswerBytes = 32 << 10;

constexpr absl::Duration kAgain = absl::Seconds(1);

int64_t SizeOf(const std::string& picture) {
  return static_cast<int64_t>(picture.size());
}

absl::Status TooMuch(int64_t held, int64_t added, int64_t limit) {
  return WithRetryAfter(absl::ResourceExhaustedError(StrCat(
                            "answers that their callers have not read hold ", held, " bytes, and this one's ", added,
                            " would be too much of server.answer_bytes (", limit,
                            "): try again later; by the same request_id what has been drawn is had while it is kept")),
                        kAgain);
}

}  // namespace

UnreadAnswers::Hold::Hold(UnreadAnswers* answers, std::string tenant, std::vector<SharedBytes> pictures)
    : answers_(answers), tenant_(std::move(tenant)), pictures_(std::move(pictures)) {}

UnreadAnswers::Hold::~Hold() {
  answers_->Remove(*this);
}

absl::StatusOr<std::unique_ptr<UnreadAnswers::Hold>> UnreadAnswers::Take(const std::string& tenant,
                                                                         const std::vector<SharedBytes>& pictures) {
  MutexLock lock(&mutex_);
  const int64_t added = Added(pictures);
  const auto own = by_tenant_.find(tenant);
  const bool too_much = held_ > 0 && held_ + added > limit_;
  const bool unfair = !tenant.empty() && own != by_tenant_.end() && own->second + added > limit_ / 2;
  if (too_much || unfair) return TooMuch(held_, added, limit_);
  auto hold = std::make_unique<Hold>(this, tenant, pictures);
  Add(*hold);
  return hold;
}

int64_t UnreadAnswers::Added(const std::vector<SharedBytes>& pictures) const {
  std::set<const std::string*> fresh;
  int64_t bytes = kAnswerBytes;
  for (const SharedBytes& picture : pictures) {
    const std::string* const key = &picture.str();
    if (answers_.count(key) == 0 && fresh.insert(key).second) bytes += SizeOf(*key);
  }
  return bytes;
}

void UnreadAnswers::Charge(const std::string& tenant, int64_t bytes) {
  held_ += bytes;
  const auto own = by_tenant_.try_emplace(tenant).first;
  own->second += bytes;
  if (own->second == 0) by_tenant_.erase(own);
}

void UnreadAnswers::Add(const Hold& hold) {
  Charge(hold.tenant_, Added(hold.pictures_));
  for (const SharedBytes& picture : hold.pictures_) ++answers_[&picture.str()];
}

void UnreadAnswers::Remove(const Hold& hold) {
  MutexLock lock(&mutex_);
  for (const SharedBytes& picture : hold.pictures_) {
    const auto found = answers_.find(&picture.str());
    if (--found->second == 0) answers_.erase(found);
  }
  Charge(hold.tenant_, -Added(hold.pictures_));
}

}  // namespace fresco
