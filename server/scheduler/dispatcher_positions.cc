// Who waits is told its place in the queue and how long it will wait, anew when its place changes, or when the wait
// turns out much longer or shorter than it was told. To find all places takes time in proportion to the queue: of a
// short one it is taken at once, under the dispatcher's lock; of a long one by the timer, in slices between which
// others get the lock, and in a small share of the time.
#include <algorithm>
#include <bit>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "server/scheduler/dispatcher.h"

namespace fresco {
namespace {

constexpr int kToldAtOnce = 256;  // requests; as many as wait by default at most (SchedulerOptions::max_queue)
constexpr size_t kSlice = 32;     // requests under one lock
// Having told a long queue the timer rests for so many times as long as that took.
constexpr int kRests = 50;
// Where nothing changes in the queue itself, steps that take longer or shorter than was thought are looked for so
// often.
constexpr absl::Duration kWaitsUpdated = absl::Seconds(5);
// A wait is told anew when it is off by more than both.
constexpr double kMuchOfWait = 0.25;
constexpr absl::Duration kMuchTime = absl::Seconds(1);

bool IsMuchOff(absl::Duration told, absl::Duration wait) {
  const absl::Duration off = absl::AbsDuration(wait - std::max(told, absl::ZeroDuration()));
  return off > kMuchTime && off > kMuchOfWait * told;
}

}  // namespace

// Counts requests and what waits of them in their order, by the devices that they can run on.
class Dispatcher::Places {
 public:
  struct Place {
    int requests = 0;  // of those before it that may take its place on a device
    WaitingWork work;  // of what these and those that have started wait for, the part that falls to its devices
  };

  // `requests`: 0 for one that has started and waits for more.
  Place Next(uint64_t devices, int requests, const WaitingWork& work) {
    Place place;
    for (const auto& [others, before] : ahead_) {
      const uint64_t shared = others & devices;
      if (shared == 0) continue;
      const double share = static_cast<double>(std::popcount(shared)) / std::popcount(others);
      place.requests += before.requests;
      place.work.jobs += share * before.work.jobs;
      place.work.seconds += share * before.work.seconds;
    }
    Place& own = ahead_[devices];
    own.requests += requests;
    own.work.jobs += work.jobs;
    own.work.seconds += work.seconds;
    return place;
  }

 private:
  std::map<uint64_t, Place> ahead_;
};

void Dispatcher::LeavePositionsToTimer() {
  positions_stale_ = true;
  changed_.NotifyAll();
}

absl::Time Dispatcher::NextPositions() const {
  return positions_stale_ ? positions_from_ : absl::InfiniteFuture();
}

void Dispatcher::UpdatePositions(Followups* followups) {
  if (waiting_ > kToldAtOnce) return LeavePositionsToTimer();
  positions_stale_ = false;
  const absl::Time now = clock_->Now();
  positions_at_ = now;
  std::vector<RankedEntry> order;
  order.reserve(queue_.size());
  for (const auto& entry : queue_) order.push_back(Ranked(entry, now));
  std::sort(order.begin(), order.end());
  Places places;
  for (const auto& [rank, sequence] : order) TellPlace(sequence, now, &places, followups);
}

void Dispatcher::UpdatePositionsLater() {
  Followups followups;
  bool many = false;
  {
    MutexLock lock(&mutex_);
    many = waiting_ > kToldAtOnce;
    if (many) {
      positions_stale_ = false;
    } else {
      UpdatePositions(&followups);
    }
  }
  Follow(std::move(followups));
  if (many) UpdatePositionsOfMany();
}

// Those that come meanwhile are told the next time.
void Dispatcher::UpdatePositionsOfMany() {
  const absl::Time begin = clock_->Now();
  const std::vector<RankedEntry> order = RankAll();
  Places places;
  for (size_t told = 0; told < order.size(); told += kSlice) {
    Followups followups;
    {
      MutexLock lock(&mutex_);
      first_told_ = order.front().second;
      const absl::Time now = clock_->Now();
      for (size_t i = told; i < std::min(told + kSlice, order.size()); ++i) {
        TellPlace(order[i].second, now, &places, &followups);
      }
    }
    Follow(std::move(followups));
  }
  MutexLock lock(&mutex_);
  const absl::Time end = clock_->Now();
  positions_at_ = end;
  positions_from_ = end + kRests * (end - begin);
}

std::vector<Dispatcher::RankedEntry> Dispatcher::RankAll() const {
  std::vector<RankedEntry> order;
  int64_t next = 0;
  while (next >= 0) {
    MutexLock lock(&mutex_);
    const absl::Time now = clock_->Now();
    auto entry = queue_.lower_bound(next);
    for (size_t i = 0; i < kSlice && entry != queue_.end(); ++i, ++entry) order.push_back(Ranked(*entry, now));
    next = entry == queue_.end() ? -1 : entry->first;
  }
  std::sort(order.begin(), order.end());
  return order;
}

Dispatcher::RankedEntry Dispatcher::Ranked(const std::pair<const int64_t, Entry>& entry, absl::Time now) const {
  return {core_->OrderOf(entry.second.images.front(), now), entry.first};
}

WaitingWork Dispatcher::WaitingWorkOf(const Entry& entry) const {
  WaitingWork sum;
  for (JobId id : entry.images) {
    const WaitingWork work = core_->WorkOf(id);
    sum.jobs += work.jobs;
    sum.seconds += work.seconds;
  }
  return sum;
}

// Unless it is gone, or has been told much the same.
void Dispatcher::TellPlace(int64_t sequence, absl::Time now, Places* places, Followups* followups) {
  const auto found = queue_.find(sequence);
  if (found == queue_.end()) return;
  Entry& entry = found->second;
  const bool started = entry.request->started();
  const Places::Place place =
      places->Next(DevicesOf(entry.request->request().model), started ? 0 : 1, WaitingWorkOf(entry));
  if (started) return;
  const absl::Duration wait = core_->PredictedWait(entry.images.front(), place.work, now);
  const absl::Duration expected = entry.told_wait - (now - entry.told_at);
  if (place.requests == entry.position && !IsMuchOff(expected, wait)) return;
  entry.position = place.requests;
  entry.told_wait = wait;
  entry.told_at = now;
  entry.request->output()->Add(QueuedEvent{place.requests, wait});
  followups->told.push_back(entry.request);
}

void Dispatcher::UpdateWaits(absl::Time now) {
  if (waiting_ > 0 && now >= positions_at_ + kWaitsUpdated) LeavePositionsToTimer();
}

// Of a long queue, of the one that was the first when all were told.
absl::Duration Dispatcher::WaitOfFirst(absl::Time now) const {
  std::optional<RankedEntry> first;
  for (auto entry = queue_.begin(); waiting_ <= kToldAtOnce && entry != queue_.end(); ++entry) {
    if (entry->second.request->started()) continue;
    const RankedEntry ranked = Ranked(*entry, now);
    if (!first || ranked < *first) first = ranked;
  }
  const auto entry = queue_.find(first ? first->second : first_told_);
  if (entry == queue_.end()) return absl::ZeroDuration();
  return core_->PredictedWait(entry->second.images.front(), {}, now);
}

}  // namespace fresco
