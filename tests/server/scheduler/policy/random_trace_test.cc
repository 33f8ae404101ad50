// Random arrivals, cancellations, failures and devices against every policy: what must hold whatever happens.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "server/scheduler/policy/scheduling_core.h"

namespace fresco {
namespace {

struct Param {
  std::string policy;
  int devices;
  uint64_t seed;
};

constexpr int kModels = 2;
constexpr int kSizes[] = {800, 1357, 2333, 4429};
constexpr int64_t kStateBytes = 1000;
constexpr int64_t kBytesPerToken = 100;  // of activations

double StepSeconds(int tokens, int rows) {
  return 0.01 + 1e-5 * rows * tokens;
}

class RandomTraceTest : public ::testing::TestWithParam<Param> {
 protected:
  struct Known {
    std::string tenant;
    PriorityClass priority;
    int tokens = 0, rows = 0, model = 0;
    int steps_left = 0;
    int device = -1;  // where it is resident
  };
  struct Running {
    std::vector<JobId> batch;
    absl::Time ends = absl::InfiniteFuture();
    absl::Duration duration;
  };

  void SetUp() override {
    random_.seed(GetParam().seed);
    CoreOptions options;
    options.policy = GetParam().policy;
    core_ = *SchedulingCore::Create(options, &costs_);
    for (int m = 0; m < kModels; ++m) {
      const std::string name = "model" + std::to_string(m);
      EXPECT_EQ(core_->Model(name), m);
      for (int tokens : kSizes) {
        costs_.RecordStep(costs_.Curve(name, tokens), 2, absl::Seconds(StepSeconds(tokens, 2)));
        costs_.RecordMemory(costs_.Curve(name, tokens), 2, 2 * tokens * kBytesPerToken);
      }
    }
    limits_.state_bytes = 12 * kStateBytes;
    limits_.max_resident = 10;
    limits_.activation_bytes = 6 * 4429 * kBytesPerToken;
    running_.resize(GetParam().devices);
    for (int d = 0; d < GetParam().devices; ++d) {
      core_->AddDevice(limits_);
      core_->SetLoaded(d, 0, true);
      core_->SetLoaded(d, 1, d % 2 == 0);
    }
  }

  int Below(int bound) { return static_cast<int>(random_() % bound); }

  void Arrive() {
    Known known;
    known.tenant = "tenant" + std::to_string(Below(5));
    known.priority = static_cast<PriorityClass>(Below(3));
    known.tokens = kSizes[Below(4)];
    known.rows = 1 + Below(2);
    known.model = Below(kModels);
    known.steps_left = 1 + Below(30);
    const std::string key = std::to_string(known.tokens);
    RequestedJobs request;
    request.tenant = known.tenant;
    request.priority = known.priority;
    request.model = known.model;
    request.sequence = sequence_++;
    if (Below(4) == 0) request.deadline = now_ + absl::Seconds(1 + Below(60));
    request.images.assign(1 + Below(3), {key, known.tokens, known.rows, known.steps_left, kStateBytes});
    if (core_->Admit(request, now_).refusal != Admission::Refusal::kNone) return;
    for (JobId job : core_->Add(request, now_)) {
      ASSERT_TRUE(jobs_.emplace(job, known).second) << "an id was used again";
    }
  }

  void Boundary(int device) {
    for (JobId job : core_->DropHopeless(device, now_)) ASSERT_EQ(jobs_.erase(job), 1u);
    const Decision decision = core_->Decide(device, now_);
    for (JobId job : decision.preempt) {
      ASSERT_EQ(jobs_.at(job).device, device) << "preempted where it is not";
      jobs_.at(job).device = -1;
    }
    for (JobId job : decision.start) {
      ASSERT_EQ(jobs_.at(job).device, -1) << "started twice";
      jobs_.at(job).device = device;
    }
    CheckBatch(device, decision);
    for (JobId job : decision.preempt) core_->Parked(job, now_);
    Running& own = running_[device];
    own = {decision.batch, absl::InfiniteFuture(), absl::ZeroDuration()};
    if (own.batch.empty()) return;
    int rows = 0;
    for (JobId job : own.batch) rows += jobs_.at(job).rows;
    own.duration = absl::Seconds(StepSeconds(jobs_.at(own.batch.front()).tokens, rows) * (0.9 + 0.02 * Below(11)));
    own.ends = now_ + own.duration;
  }

  void CheckBatch(int device, const Decision& decision) {
    std::set<JobId> distinct(decision.batch.begin(), decision.batch.end());
    ASSERT_EQ(distinct.size(), decision.batch.size());
    ASSERT_LE(static_cast<int>(decision.batch.size()), limits_.max_batch);
    int rows = 0;
    for (JobId job : decision.batch) {
      const Known& known = jobs_.at(job);
      ASSERT_EQ(known.device, device) << "stepped where it is not";
      ASSERT_EQ(known.tokens, jobs_.at(decision.batch.front()).tokens);
      ASSERT_EQ(known.model, jobs_.at(decision.batch.front()).model);
      ASSERT_TRUE(known.model == 0 || device % 2 == 0) << "on a device without its model";
      rows += known.rows;
    }
    if (decision.batch.size() > 1) {
      ASSERT_LE(rows * jobs_.at(decision.batch.front()).tokens * kBytesPerToken, limits_.activation_bytes);
    }
    int64_t resident = 0;
    bool could_run = false;
    for (const auto& [job, known] : jobs_) {
      resident += known.device == device ? kStateBytes : 0;
      const bool here = known.device == device || known.device == -1;
      could_run = could_run || (here && (known.model == 0 || device % 2 == 0));
    }
    ASSERT_LE(resident, limits_.state_bytes);
    ASSERT_LE(resident / kStateBytes, limits_.max_resident);
    ASSERT_EQ(decision.batch.empty(), !could_run) << "idle beside work";
  }

  void EndStep(int device) {
    const Running own = running_[device];
    running_[device] = {};
    for (JobId job : own.batch) {
      if (jobs_.contains(job)) --jobs_.at(job).steps_left;
    }
    for (JobId job : core_->StepDone(device, own.duration)) {
      ASSERT_EQ(jobs_.at(job).steps_left, 0) << "done before its last step";
      jobs_.erase(job);
      ++done_;
    }
    for (const auto& [job, known] : jobs_) ASSERT_GT(known.steps_left, 0) << "not done after its last step";
  }

  void Cancel() {
    if (jobs_.empty()) return;
    auto victim = jobs_.begin();
    std::advance(victim, Below(static_cast<int>(jobs_.size())));
    core_->Remove(victim->first);
    jobs_.erase(victim);
  }

  void WakeIdle() {
    for (int device = 0; device < GetParam().devices; ++device) {
      if (running_[device].batch.empty()) Boundary(device);
    }
  }

  // The next thing that happens; false: nothing is left.
  bool Tick(bool arriving) {
    int next = -1;
    for (int d = 0; d < GetParam().devices; ++d) {
      if (running_[d].ends < absl::InfiniteFuture() && (next < 0 || running_[d].ends < running_[next].ends)) next = d;
    }
    if (next < 0 && !arriving) return false;
    const absl::Time arrival = arriving ? now_ + absl::Milliseconds(1 + Below(600)) : absl::InfiniteFuture();
    if (next >= 0 && running_[next].ends <= arrival) {
      now_ = running_[next].ends;
      EndStep(next);
      Boundary(next);
    } else {
      now_ = arrival;
      Arrive();
      if (Below(20) == 0) Cancel();
    }
    WakeIdle();
    return true;
  }

  std::mt19937_64 random_;
  CostModel costs_;
  std::unique_ptr<SchedulingCore> core_;
  DeviceLimits limits_;
  absl::Time now_ = absl::UnixEpoch();
  int64_t sequence_ = 0;
  std::map<JobId, Known> jobs_;  // that have been taken and have not ended
  std::vector<Running> running_;
  int done_ = 0;
};

TEST_P(RandomTraceTest, NoJobIsLostOrRunTwiceBudgetsHoldAndNoDeviceIdlesBesideWork) {
  for (int i = 0; i < 3000; ++i) {
    ASSERT_TRUE(Tick(/*arriving=*/true));
    if (HasFatalFailure()) return;
    ASSERT_EQ(core_->index().unfinished(), static_cast<int>(jobs_.size()));
  }
  for (int i = 0; Tick(/*arriving=*/false); ++i) {
    if (HasFatalFailure()) return;
    ASSERT_LT(i, 100000) << "it does not end";
  }
  EXPECT_TRUE(jobs_.empty());
  EXPECT_EQ(core_->index().unfinished(), 0);
  EXPECT_EQ(core_->index().waiting(), 0);
  EXPECT_GT(done_, 100);
}

std::vector<Param> Params() {
  std::vector<Param> params;
  for (const char* policy : {"fifo", "dynamic", "deadline-fair"}) {
    for (int devices : {1, 4}) {
      for (uint64_t seed : {1, 2, 3}) params.push_back({policy, devices, seed});
    }
  }
  return params;
}

INSTANTIATE_TEST_SUITE_P(Policies, RandomTraceTest, ::testing::ValuesIn(Params()), [](const auto& info) {
  std::string name =
      info.param.policy + "_" + std::to_string(info.param.devices) + "_" + std::to_string(info.param.seed);
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

// Images alike of one tenant and class start in the order in which they came, whatever else there is.
TEST(OrderTest, WithinATenantAndClassAlikeImagesStartInTheOrderOfArrival) {
  for (const char* policy : {"fifo", "dynamic", "deadline-fair"}) {
    CostModel costs;
    costs.RecordStep(costs.Curve("m", 1024), 2, absl::Milliseconds(100));
    CoreOptions options;
    options.policy = policy;
    auto core = *SchedulingCore::Create(options, &costs);
    const ModelId model = core->Model("m");
    core->SetLoaded(core->AddDevice({}), model, true);
    std::mt19937_64 random(7);
    std::map<JobId, std::pair<int, int>> lane_of;  // tenant and class
    std::map<std::pair<int, int>, JobId> last;
    absl::Time now = absl::UnixEpoch();
    for (int64_t i = 0; i < 2000; ++i) {
      const std::pair<int, int> lane(static_cast<int>(random() % 3), static_cast<int>(random() % 3));
      const std::string tenant = std::to_string(lane.first);
      RequestedJobs request;
      request.tenant = tenant;
      request.priority = static_cast<PriorityClass>(lane.second);
      request.model = model;
      request.sequence = i;
      request.images = {{"k", 1024, 2, 5, 1000}};
      if (core->Admit(request, now).refusal == Admission::Refusal::kNone) {
        lane_of[core->Add(request, now).front()] = lane;
      }
      core->DropHopeless(0, now);
      const Decision decision = core->Decide(0, now);
      std::vector<JobId> starts = decision.start;
      std::sort(starts.begin(), starts.end());  // together: no order
      for (JobId job : starts) {
        if (core->index().job(job).steps_left < 5) continue;  // it goes on
        const auto known = last.find(lane_of.at(job));
        ASSERT_TRUE(known == last.end() || known->second < job) << policy;
        last[lane_of.at(job)] = job;
      }
      for (JobId job : decision.preempt) core->Parked(job, now);
      now += absl::Milliseconds(100);
      core->StepDone(0, absl::Milliseconds(100));
    }
  }
}

}  // namespace
}  // namespace fresco
