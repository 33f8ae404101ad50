// Models whose load takes long. A load is not watched as a device's calls are: nothing of the device's waits for it,
// and nobody can say how long a disk or a share may take. Whoever runs the server hears of it, and can see it in the
// status.
#include <algorithm>

#include "server/scheduler/dispatcher.h"
#include "server/scheduler/guarded.h"

namespace fresco {

int64_t Dispatcher::BeginLoad(int worker, const std::string& model) {
  MutexLock lock(&mutex_);
  const absl::Time now = clock_->Now();
  loads_.emplace(loads_begun_, LoadUnderWay{worker, model, now, now + options_.watchdog.load});
  changed_.NotifyAll();  // the timer
  return loads_begun_++;
}

void Dispatcher::EndLoad(int64_t load) {
  MutexLock lock(&mutex_);
  loads_.erase(load);
}

void Dispatcher::FindSlowLoads(absl::Time now, Followups* followups) {
  for (auto& [id, load] : loads_) {
    if (now < load.tell_at) continue;
    load.tell_at = now + options_.watchdog.load;
    followups->slow_loads.push_back({load.model, workers_.at(load.worker).device, now - load.begin});
  }
}

std::vector<SlowLoad> Dispatcher::SlowLoadsOf(int worker) const {
  const absl::Time now = clock_->Now();
  std::vector<SlowLoad> slow;
  for (const auto& [id, load] : loads_) {
    if (load.worker != worker || now < load.begin + options_.watchdog.load) continue;
    slow.push_back({load.model, workers_.at(worker).device, now - load.begin});
  }
  return slow;
}

absl::Time Dispatcher::NextSlowLoad() const {
  absl::Time next = absl::InfiniteFuture();
  for (const auto& [id, load] : loads_) next = std::min(next, load.tell_at);
  return next;
}

void Dispatcher::Tell(const SlowLoad& load) {
  if (options_.on_slow_load == nullptr) return;
  GuardedVoid("the callback", [&] { options_.on_slow_load(load); }).IgnoreError();
}

}  // namespace fresco
