// Random arrivals, cancellations and failures of images, steps, memory, models and devices against every policy: what
// must hold whatever happens.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
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
  bool faults;
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
    int device = -1;      // where it is resident
    bool moving = false;  // from a device to host memory
    int moves_from = -1;
    int steps = 0;
    bool started = false;
    absl::Time received;
    int64_t request = 0;
  };
  // How long any of a request's images has been in a step.
  struct Stepped {
    absl::Duration total;
    absl::Time until = absl::InfinitePast();
  };
  struct Moving {
    JobId job = 0;
    absl::Time ends;
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
    for (int d = 0; d < GetParam().devices; ++d) AddDevice();
  }

  void AddDevice() {
    const int device = core_->AddDevice(limits_);
    ASSERT_EQ(device, static_cast<int>(running_.size()));
    running_.emplace_back();
    loaded_.emplace_back();
    for (int model = 0; model < kModels; ++model) Load(device, model, model == 0 || device % 2 == 0);
  }

  void Load(int device, int model, bool loaded) {
    core_->SetLoaded(device, model, loaded);
    loaded_[device][model] = loaded;
  }

  // Engines that take images of different sizes into one step say so by their keys.
  bool MixesSizes() const { return GetParam().seed % 2 == 0; }

  int Below(int bound) { return static_cast<int>(random_() % bound); }

  void Arrive() {
    Known known;
    known.tenant = "tenant" + std::to_string(Below(5));
    known.priority = static_cast<PriorityClass>(Below(3));
    known.tokens = kSizes[Below(4)];
    known.rows = 1 + Below(2);
    known.model = Below(kModels);
    known.steps_left = 1 + Below(30);
    known.steps = known.steps_left;
    known.received = now_;
    known.request = sequence_;
    const std::string key = MixesSizes() ? "any size" : std::to_string(known.tokens);
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

  void Park(JobId job) {
    jobs_.at(job).moving = true;
    moving_.push_back({job, now_ + absl::Milliseconds(Below(30))});
  }

  void EndMoves() {
    for (const Moving& move : moving_) {
      if (move.ends > now_) continue;
      core_->Parked(move.job, now_);
      if (!jobs_.contains(move.job)) continue;
      Known& known = jobs_.at(move.job);
      if (core_->index().job(move.job).state == JobState::kWaiting) known.moving = false;
    }
    std::erase_if(moving_, [&](const Moving& move) { return move.ends <= now_; });
  }

  void Boundary(int device) {
    for (JobId job : core_->DropHopeless(device, now_)) ASSERT_EQ(jobs_.erase(job), 1u);
    CheckFirsts();
    const Decision decision = core_->Decide(device, now_);
    for (JobId job : decision.preempt) {
      ASSERT_EQ(jobs_.at(job).device, device) << "preempted where it is not";
      jobs_.at(job).device = -1;
      jobs_.at(job).moves_from = device;
    }
    for (JobId job : decision.start) {
      Known& known = jobs_.at(job);
      ASSERT_EQ(known.device, -1) << "started twice";
      ASSERT_FALSE(known.moving) << "started before it is in host memory";
      ASSERT_TRUE(loaded_[device][known.model]) << "on a device without its model";
      known.device = device;
      CheckAge(known);
    }
    for (JobId job : decision.preempt) Park(job);
    CheckBatch(device, decision);
    Running& own = running_[device];
    own = {decision.batch, absl::InfiniteFuture(), absl::ZeroDuration()};
    if (own.batch.empty()) return;
    batch_model_.resize(running_.size());
    batch_model_[device] = jobs_.at(own.batch.front()).model;
    int tokens = 0;
    for (JobId job : own.batch) tokens += jobs_.at(job).rows * jobs_.at(job).tokens;
    own.duration = absl::Seconds(StepSeconds(tokens, 1) * (0.9 + 0.02 * Below(11)));
    own.ends = now_ + own.duration;
  }

  // What the index keeps from event to event is what looking at everything gives.
  void CheckFirsts() {
    const QueueIndex& index = core_->index();
    std::array<JobId, kModels> by_rank = {-1, -1};
    std::array<JobId, kModels> by_arrival = {-1, -1};
    for (const auto& [id, known] : jobs_) {
      const Job& job = index.job(id);
      if (job.state != JobState::kWaiting) continue;
      JobId& first = by_rank[known.model];
      if (first < 0 || index.RankOf(job, now_) < index.RankOf(index.job(first), now_)) first = id;
      JobId& oldest = by_arrival[known.model];
      if (oldest < 0 || id < oldest) oldest = id;  // numbers are given in the order of arrival
    }
    for (ModelId model = 0; model < kModels; ++model) {
      ASSERT_EQ(index.FirstByRank(model, 0), by_rank[model]);
      ASSERT_EQ(index.FirstByArrival(model, 0), by_arrival[model]);
    }
  }

  // The bound is for what others make it wait: a request may be larger than it, and its images go one after the other.
  void CheckAge(Known& known) {
    const ClassOptions of_class = CoreOptions().classes[static_cast<int>(known.priority)];
    if (!known.started && !GetParam().faults && GetParam().policy == "deadline-fair") {
      ASSERT_LE(now_ - known.received - stepped_[known.request].total, of_class.max_wait)
          << "waited beyond its age bound";
    }
    known.started = true;
  }

  void CheckBatch(int device, const Decision& decision) {
    std::set<JobId> distinct(decision.batch.begin(), decision.batch.end());
    ASSERT_EQ(distinct.size(), decision.batch.size());
    ASSERT_LE(static_cast<int>(decision.batch.size()), limits_.max_batch);
    int tokens = 0;
    std::set<int> sizes;
    for (JobId job : decision.batch) {
      const Known& known = jobs_.at(job);
      ASSERT_EQ(known.device, device) << "stepped where it is not";
      ASSERT_EQ(known.model, jobs_.at(decision.batch.front()).model);
      sizes.insert(known.tokens);
      tokens += known.rows * known.tokens;
    }
    if (decision.batch.size() > 1) {
      ASSERT_LE(tokens * kBytesPerToken, limits_.activation_bytes);
    }
    ASSERT_TRUE(sizes.size() < 2 || (MixesSizes() && GetParam().policy == "deadline-fair"));
    mixed_ += sizes.size() > 1 ? 1 : 0;
    int64_t resident = 0;
    bool could_run = false;
    for (const auto& [job, known] : jobs_) {
      resident += known.device == device ? kStateBytes : 0;
      const bool waits = known.device == -1 && !known.moving;
      could_run = could_run || known.device == device || (waits && loaded_[device][known.model]);
    }
    ASSERT_LE(resident, limits_.state_bytes);
    ASSERT_LE(resident / kStateBytes, limits_.max_resident);
    ASSERT_EQ(decision.batch.empty(), !could_run) << "idle beside work";
  }

  // Of a forward of these; 0: one is gone, and nobody knows.
  int64_t BytesOf(const std::vector<JobId>& images) const {
    int64_t tokens = 0;
    for (JobId job : images) {
      if (!jobs_.contains(job)) return 0;
      tokens += int64_t{jobs_.at(job).rows} * jobs_.at(job).tokens;
    }
    return tokens * kBytesPerToken;
  }

  // Of the step that is under way, at random: what it was computed in, and images that failed in it.
  std::vector<Forward> Outcome(const Running& step) {
    Forward forward{step.batch, step.duration};
    if (!GetParam().faults) return {forward};
    if (Below(30) == 0) {  // NaN or an exception, in one or in all of them
      const bool all = Below(2) == 0;
      for (JobId job : step.batch) {
        if (jobs_.contains(job)) Remove(job);
        if (!all) break;
      }
      if (all) return {};
    }
    if (Below(20) == 0) {  // memory is short
      forward.out_of_memory = true;
      const auto half = step.batch.begin() + static_cast<ptrdiff_t>(step.batch.size() / 2);
      const std::vector<JobId> first(step.batch.begin(), half), second(half, step.batch.end());
      return {forward, {first, step.duration, BytesOf(first)}, {second, step.duration, 0}};
    }
    if (Below(50) == 0) forward.duration = absl::InfiniteDuration();  // a clock that is wrong
    if (Below(50) == 0) forward.duration = -step.duration;
    return {forward};
  }

  void Remove(JobId job) {
    core_->Remove(job);
    jobs_.erase(job);
  }

  void EndStep(int device) {
    const Running own = running_[device];
    running_[device] = {};
    const std::vector<Forward> forwards = Outcome(own);
    for (JobId job : own.batch) {
      if (!jobs_.contains(job)) continue;
      --jobs_.at(job).steps_left;
      Stepped& stepped = stepped_[jobs_.at(job).request];
      stepped.total += std::min(own.duration, now_ - stepped.until);
      stepped.until = now_;
    }
    const bool keep = Below(4) == 0;  // until its picture is there
    const auto done = keep ? SchedulingCore::DoneJobs::kKeep : SchedulingCore::DoneJobs::kRemove;
    for (JobId job : core_->StepDone(device, forwards, done)) {
      if (keep) core_->Remove(job);
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
    Remove(victim->first);
  }

  // What is on a device, of one model or of all (-1), loses what it has there: it goes on from what was kept.
  void Displace(int device, int model) {
    for (auto& [job, known] : jobs_) {
      const bool moves = known.moving && known.moves_from == device;
      if ((known.device != device && !moves) || (model >= 0 && known.model != model)) continue;
      known.device = -1;
      known.moving = false;
      if (Below(3) == 0) known.steps_left = std::min(known.steps_left + Below(2), known.steps);
      core_->Displace(job, known.steps_left, now_);
      ASSERT_EQ(core_->index().job(job).steps_left, known.steps_left);
    }
    if (model < 0 || (!running_[device].batch.empty() && batch_model_[device] == model)) {
      // The thread may come back from its call all the same, and is not heeded.
      if (Below(2) == 0) {
        ASSERT_TRUE(core_->StepDone(device, absl::Seconds(1)).empty());
      }
      running_[device] = {};
    }
  }

  // A device or a model goes, or comes.
  void Change() {
    const int device = Below(static_cast<int>(running_.size()));
    const int model = Below(kModels);
    switch (Below(4)) {
      case 0:
        loaded_[device].fill(false);
        Displace(device, -1);
        core_->RemoveDevice(device);
        gone_.insert(device);
        break;
      case 1:
        Load(device, model, false);
        Displace(device, model);
        break;
      case 2:
        if (!gone_.contains(device)) Load(device, model, Below(2) == 0);
        break;
      default:
        if (running_.size() < 40) AddDevice();
    }
  }

  void WakeIdle() {
    for (int device = 0; device < static_cast<int>(running_.size()); ++device) {
      if (running_[device].batch.empty()) Boundary(device);
    }
  }

  // The next thing that happens; false: nothing is left.
  bool Tick(bool arriving) {
    int next = -1;
    for (int d = 0; d < static_cast<int>(running_.size()); ++d) {
      if (running_[d].ends < absl::InfiniteFuture() && (next < 0 || running_[d].ends < running_[next].ends)) next = d;
    }
    if (next < 0 && !arriving && moving_.empty()) return false;
    if (next < 0 && !arriving) now_ = std::max(now_, moving_.front().ends);
    const absl::Time arrival = arriving ? now_ + absl::Milliseconds(1 + Below(600)) : absl::InfiniteFuture();
    if (next >= 0 && running_[next].ends <= arrival) {
      now_ = running_[next].ends;
      EndMoves();
      EndStep(next);
      Boundary(next);
    } else if (arriving) {
      now_ = arrival;
      EndMoves();
      Arrive();
      if (Below(20) == 0) Cancel();
      if (GetParam().faults && Below(40) == 0) Change();
    } else {
      EndMoves();
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
  std::map<JobId, Known> jobs_;         // that have been taken and have not ended
  std::map<int64_t, Stepped> stepped_;  // by request
  std::vector<Running> running_;
  std::vector<int> batch_model_;
  std::vector<std::array<bool, kModels>> loaded_;  // by device
  std::set<int> gone_;
  std::vector<Moving> moving_;
  int done_ = 0, mixed_ = 0;  // images; steps of more than one size
};

TEST_P(RandomTraceTest, NoJobIsLostOrRunTwiceBudgetsHoldAndNoDeviceIdlesBesideWork) {
  for (int i = 0; i < 3000; ++i) {
    ASSERT_TRUE(Tick(/*arriving=*/true));
    if (HasFatalFailure()) return;
    ASSERT_EQ(core_->index().unfinished(), static_cast<int>(jobs_.size()));
  }
  AddDevice();  // the last that had a model may be gone
  if (running_.size() % 2 == 0) AddDevice();
  WakeIdle();
  for (int i = 0; Tick(/*arriving=*/false); ++i) {
    if (HasFatalFailure()) return;
    ASSERT_LT(i, 100000) << "it does not end";
  }
  EXPECT_TRUE(jobs_.empty());
  EXPECT_EQ(core_->index().unfinished(), 0);
  EXPECT_EQ(core_->index().waiting(), 0);
  EXPECT_GT(done_, 100);
  // With faults memory may always be too short for it.
  if (!GetParam().faults) {
    EXPECT_EQ(mixed_ > 0, MixesSizes() && GetParam().policy == "deadline-fair");
  }
}

std::vector<Param> Params() {
  std::vector<Param> params;
  for (const char* policy : {"fifo", "dynamic", "deadline-fair"}) {
    for (int devices : {1, 4}) {
      for (bool faults : {false, true}) {
        for (uint64_t seed = 1; seed <= 30; ++seed) params.push_back({policy, devices, seed, faults});
      }
    }
  }
  return params;
}

INSTANTIATE_TEST_SUITE_P(Policies, RandomTraceTest, ::testing::ValuesIn(Params()), [](const auto& info) {
  std::string name = info.param.policy + "_" + std::to_string(info.param.devices) +
                     (info.param.faults ? "_faults_" : "_") + std::to_string(info.param.seed);
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

// Requests of three tenants, classes and kinds come to two devices. A kind's steps take as long, however many share
// one.
class OrderTest : public ::testing::TestWithParam<const char*> {
 protected:
  struct Kind {
    int tokens, rows, steps;
    absl::Duration step;
  };
  static constexpr int kDevices = 2, kMostRows = 16;

  // One of which images are alike.
  struct Lane {
    int tenant = 0, priority = 0, kind = 0;
    auto operator<=>(const Lane&) const = default;
  };

  OrderTest() {
    for (const Kind& kind : kinds_) {
      for (int rows = 1; rows <= kMostRows; ++rows) costs_.RecordStep(costs_.Curve("m", kind.tokens), rows, kind.step);
    }
    CoreOptions options;
    options.policy = GetParam();
    core_ = *SchedulingCore::Create(options, &costs_);
    for (int i = 0; i < kDevices; ++i) core_->SetLoaded(core_->AddDevice({}), core_->Model("m"), true);
  }

  void Add(const Lane& lane, int64_t sequence) {
    const Kind& kind = kinds_[lane.kind];
    const std::string tenant = std::to_string(lane.tenant), key = std::to_string(kind.tokens);
    RequestedJobs request;
    request.tenant = tenant;
    request.priority = static_cast<PriorityClass>(lane.priority);
    request.model = core_->Model("m");
    request.sequence = sequence;
    request.images = {{key, kind.tokens, kind.rows, kind.steps, 1000}};
    if (core_->Admit(request, now_).refusal != Admission::Refusal::kNone) return;
    lanes_[core_->Add(request, now_).front()] = lane;
  }

  // A step boundary.
  void Boundary(DeviceId device) {
    absl::Duration step;
    if (const JobId running = running_[device]; running >= 0) step = kinds_[lanes_.at(running).kind].step;
    core_->StepDone(device, step);
    core_->DropHopeless(device, now_);
    const Decision decision = core_->Decide(device, now_);
    std::vector<JobId> starts = decision.start;
    std::sort(starts.begin(), starts.end());  // together: no order
    for (JobId job : starts) {
      const Lane& lane = lanes_.at(job);
      if (!begun_.insert(job).second) continue;  // it goes on
      const auto [last, is_first] = last_.emplace(lane, job);
      EXPECT_LE(last->second, job);
      last->second = job;
    }
    for (JobId job : decision.preempt) core_->Parked(job, now_);
    running_[device] = decision.batch.empty() ? -1 : decision.batch.front();
    next_[device] =
        now_ + (decision.batch.empty() ? absl::Milliseconds(10) : kinds_[lanes_.at(running_[device]).kind].step);
  }

  const std::vector<Kind> kinds_ = {{1024, 2, 5, absl::Milliseconds(100)},
                                    {1024, 1, 12, absl::Milliseconds(100)},
                                    {4096, 2, 3, absl::Milliseconds(300)}};
  CostModel costs_;
  std::unique_ptr<SchedulingCore> core_;
  absl::Time now_ = absl::UnixEpoch();
  std::array<absl::Time, kDevices> next_ = {now_, now_};
  std::array<JobId, kDevices> running_ = {-1, -1};
  std::map<JobId, Lane> lanes_;
  std::set<JobId> begun_;
  std::map<Lane, JobId> last_;  // that began
};

TEST_P(OrderTest, WithinATenantAndClassAlikeImagesBeginInTheOrderOfArrival) {
  std::mt19937_64 random(7);
  const auto any = [&](int below) { return static_cast<int>(random() % below); };
  absl::Time arrival = now_;
  for (int64_t i = 0; i < 6000;) {
    const auto next = std::min_element(next_.begin(), next_.end());
    now_ = std::min(*next, arrival);
    if (arrival <= *next) {
      const int tenant = any(3), priority = any(3);
      Add({tenant, priority, any(3)}, i++);
      arrival += absl::Milliseconds(any(i / 1000 % 2 == 0 ? 100 : 500));  // crowds, and not
    } else {
      Boundary(static_cast<DeviceId>(next - next_.begin()));
    }
  }
  EXPECT_GT(begun_.size(), 1000u);
  EXPECT_EQ(last_.size(), 27u);
}

INSTANTIATE_TEST_SUITE_P(Policies, OrderTest, ::testing::Values("fifo", "dynamic", "deadline-fair"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace fresco
