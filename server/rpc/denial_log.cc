#include "server/rpc/denial_log.h"

#include <algorithm>
#include <string_view>
#include <utility>

namespace fresco {
namespace {

constexpr absl::Duration kPeriod = absl::Seconds(1);
constexpr char kOthers[] = "(others)";
constexpr char kSeveral[] = "(several)";

// "ipv4:10.0.0.1:4711" without the port, of which each connection has another.
std::string AddressOf(std::string_view peer) {
  return std::string(peer.substr(0, peer.rfind(':')));
}

// What is said of both: `several` where they differ.
void Merge(const std::string& text, const std::string& several, std::string* into) {
  if (*into != text) *into = several;
}

}  // namespace

DenialLog::DenialLog(const Logger* audit, Clock* clock) : audit_(audit), clock_(clock), thread_([this] { Run(); }) {}

DenialLog::~DenialLog() {
  Stop();
}

void DenialLog::Stop() {
  {
    MutexLock lock(&mutex_);
    stop_ = true;
    changed_.NotifyAll();
  }
  if (thread_.joinable()) thread_.join();
  MutexLock lock(&mutex_);
  for (const Line& line : TakeLines(absl::InfiniteFuture())) Write(line);
}

void DenialLog::Add(const Denial& denial) {
  {
    MutexLock lock(&mutex_);
    Kind kind = {AddressOf(denial.peer), denial.code, denial.message};
    if (held_.size() >= kMaxKinds && held_.count(kind) == 0) kind = {kOthers, "", ""};
    const auto [entry, fresh] = held_.try_emplace(kind);
    Held& held = entry->second;
    if (!fresh) {
      if (++held.count == 1) held.last = denial;
      Merge(denial.method, kSeveral, &held.last.method);
      Merge(denial.code, kSeveral, &held.last.code);
      Merge(denial.message, kSeveral, &held.last.message);
      Merge(denial.peer, std::get<0>(kind), &held.last.peer);
      return;
    }
    held.since = clock_->Now();
    changed_.NotifyAll();
  }
  Write({denial, 1});
}

void DenialLog::Run() {
  for (auto lines = AwaitLines(); lines.has_value(); lines = AwaitLines()) {
    for (const Line& line : *lines) Write(line);
  }
}

std::optional<std::vector<DenialLog::Line>> DenialLog::AwaitLines() {
  MutexLock lock(&mutex_);
  while (!stop_ && clock_->Now() < NextDue()) clock_->WaitUntil(&changed_, &mutex_, NextDue());
  if (stop_) return std::nullopt;
  return TakeLines(clock_->Now());
}

absl::Time DenialLog::NextDue() const {
  absl::Time next = absl::InfiniteFuture();
  for (const auto& [kind, held] : held_) next = std::min(next, held.since + kPeriod);
  return next;
}

// Of the kinds whose second is over. One that had no more in it is forgotten: its next line comes at once again.
std::vector<DenialLog::Line> DenialLog::TakeLines(absl::Time now) {
  std::vector<Line> lines;
  for (auto it = held_.begin(); it != held_.end();) {
    Held& held = it->second;
    if (held.since + kPeriod > now) {
      ++it;
    } else if (held.count == 0) {
      it = held_.erase(it);
    } else {
      lines.push_back({std::move(held.last), held.count});
      held = {now, 0, {}};
      ++it;
    }
  }
  return lines;
}

void DenialLog::Write(const Line& line) const {
  audit_->Log(LogLevel::kWarning, "denied",
              {{"method", line.denial.method},
               {"code", line.denial.code},
               {"message", line.denial.message},
               {"peer", line.denial.peer},
               {"count", line.count}});
}

}  // namespace fresco
