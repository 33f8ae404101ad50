#include "server/scheduler/estimate.h"

#include <algorithm>
#include <cstddef>
#include <functional>
#include <queue>

namespace fresco {
namespace {

constexpr double kWeightOfNewest = 0.3;
// Requests choose their sizes, and with them the keys: the table must not grow without bound.
constexpr size_t kMaxKeys = 4096;

template <typename Map, typename Key>
void Average(Map* averages, const Key& key, absl::Duration step) {
  const auto [entry, is_new] = averages->try_emplace(key, step);
  if (!is_new) entry->second += kWeightOfNewest * (step - entry->second);
}

// When each of a device's slots is free, soonest on top.
using Slots = std::priority_queue<absl::Duration, std::vector<absl::Duration>, std::greater<>>;

Slots MakeSlots(const DeviceLoad& device) {
  Slots slots(std::greater<>(), device.busy);
  for (int i = static_cast<int>(device.busy.size()); i < std::max(1, device.slots); ++i)
    slots.push(absl::ZeroDuration());
  return slots;
}

}  // namespace

void StepTimes::Record(const Engine* engine, const std::string& batch_key, absl::Duration step) {
  MutexLock lock(&mutex_);
  if (by_key_.size() >= kMaxKeys) by_key_.clear();
  Average(&by_key_, std::pair(engine, batch_key), step);
  Average(&by_engine_, engine, step);
}

absl::Duration StepTimes::Get(const Engine* engine, const std::string& batch_key) const {
  MutexLock lock(&mutex_);
  if (const auto found = by_key_.find({engine, batch_key}); found != by_key_.end()) return found->second;
  if (const auto found = by_engine_.find(engine); found != by_engine_.end()) return found->second;
  return absl::ZeroDuration();
}

std::vector<absl::Duration> EstimateWaits(const std::vector<DeviceLoad>& devices,
                                          const std::vector<WaitingWork>& waiting) {
  std::vector<Slots> slots;
  for (const DeviceLoad& device : devices) slots.push_back(MakeSlots(device));
  std::vector<absl::Duration> waits;
  for (const WaitingWork& work : waiting) {
    const auto first = std::min_element(work.devices.begin(), work.devices.end(), [&](const auto& a, const auto& b) {
      return slots[a.first].top() < slots[b.first].top();
    });
    if (first == work.devices.end()) {
      waits.push_back(absl::InfiniteDuration());
      continue;
    }
    Slots& chosen = slots[first->first];
    waits.push_back(chosen.top());
    for (int i = 0; i < work.images; ++i) {
      const absl::Duration start = chosen.top();
      chosen.pop();
      chosen.push(start + first->second);
    }
  }
  return waits;
}

}  // namespace fresco
