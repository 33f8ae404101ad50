#include "bench/scheduler/decision_time.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "bench/scheduler/device_model.h"
#include "server/scheduler/policy/scheduling_core.h"

namespace fresco {
namespace {

using WallClock = std::chrono::steady_clock;

constexpr int kDecisions = 5000;
constexpr int kTenantsHere = 1000;
constexpr int kSizes = 25;

class Crowd {
 public:
  Crowd(SchedulingCore* core, ModelId model, bool mixes) : core_(core), model_(model), mixes_(mixes) {}

  void AddOne(absl::Time now) {
    const std::string tenant = "tenant-" + std::to_string(random_() % kTenantsHere);
    const int tokens = 1024 + 128 * static_cast<int>(random_() % kSizes);
    const std::string key = mixes_ ? "any size" : std::to_string(tokens);
    RequestedJobs request;
    request.tenant = tenant;
    request.priority = static_cast<PriorityClass>(random_() % kPriorityClasses);
    request.model = model_;
    request.sequence = sequence_++;
    request.images = {
        {key, tokens, 1 + static_cast<int>(random_() % 2), 4 + static_cast<int>(random_() % 47), 1 << 20}};
    core_->Add(request, now);
  }

 private:
  SchedulingCore* const core_;
  const ModelId model_;
  const bool mixes_;
  std::mt19937_64 random_{1};
  int64_t sequence_ = 0;
};

}  // namespace

DecisionTime MeasureDecision(int waiting, bool mixes) {
  CostModel costs;
  const DeviceModel device_model;
  auto core = SchedulingCore::Create({}, &costs);
  const ModelId model = (*core)->Model("model");
  for (int rows : {1, 2, 4, 8, 16}) {
    costs.RecordStep(costs.Curve("model", 1357), rows, absl::Seconds(device_model.StepSeconds(1357, rows)));
  }
  const DeviceId device = (*core)->AddDevice({});
  (*core)->SetLoaded(device, model, true);
  Crowd crowd(core->get(), model, mixes);
  absl::Time now = absl::UnixEpoch();
  for (int i = 0; i < waiting; ++i) crowd.AddOne(now);
  std::vector<double> seconds;
  for (int i = 0; i < kDecisions; ++i) {
    const auto begin = WallClock::now();
    const auto done = (*core)->StepDone(device, absl::Milliseconds(50));
    (*core)->DropHopeless(device, now);
    const Decision decision = (*core)->Decide(device, now);
    for (JobId job : decision.preempt) (*core)->Parked(job, now);
    seconds.push_back(std::chrono::duration<double>(WallClock::now() - begin).count());
    for (size_t d = 0; d < done.size(); ++d) crowd.AddOne(now);
    now += absl::Milliseconds(50);
  }
  std::sort(seconds.begin(), seconds.end());
  return {seconds[seconds.size() / 2], seconds[seconds.size() * 99 / 100]};
}

}  // namespace fresco
