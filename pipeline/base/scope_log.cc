#include "pipeline/base/scope_log.h"

#include <utility>

#include "absl/time/time.h"

namespace fresco {
namespace {

thread_local ScopeLog* current_log = nullptr;

constexpr size_t kUsualScopes = 1024;  // a step of 24 blocks has about 700: a list that grows moves what it has

}  // namespace

ScopeLog* ScopeLog::Current() {
  return current_log;
}

void ScopeLog::Open() {
  scopes_.clear();
  scopes_.reserve(kUsualScopes);
  current_log = this;
}

void ScopeLog::Close() {
  if (current_log == this) current_log = nullptr;
}

std::vector<RecordedScope> ScopeLog::Take() {
  return std::exchange(scopes_, {});
}

size_t ScopeLog::Begin(RecordedScope scope) {
  scopes_.push_back(std::move(scope));
  scopes_.back().begin_ns = NowNanoseconds();  // last: what has been done here is not the scope's
  return scopes_.size() - 1;
}

int64_t ScopeLog::NowNanoseconds() const {
  return absl::ToUnixNanos(clock_->Now());
}

}  // namespace fresco
