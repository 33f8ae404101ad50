// Images that must be alone (deterministic ones, where a batch changes bits) share no step, under any policy, and hold
// up nothing for ever.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <string>
#include <vector>

#include "server/scheduler/policy/scheduling_core.h"

namespace fresco {
namespace {

class Alone : public ::testing::TestWithParam<const char*> {
 protected:
  Alone() {
    // Sharing a step costs nothing, so that every policy shares where it may.
    for (int rows = 1; rows <= 16; ++rows) costs_.RecordStep(costs_.Curve("m", 1000), rows, absl::Milliseconds(100));
    CoreOptions options;
    options.policy = GetParam();
    core_ = *SchedulingCore::Create(options, &costs_);
    core_->SetLoaded(core_->AddDevice({}), core_->Model("m"), true);
  }

  void Add(bool alone, PriorityClass priority = PriorityClass::kStandard) {
    RequestedJobs request;
    request.tenant = "t";
    request.priority = priority;
    request.sequence = sequence_++;
    request.images = {{alone ? "key alone" : "key", 1000, 1, 3, 10}};
    request.images.front().alone = alone;
    for (JobId id : core_->Add(request, now_)) alone_[id] = alone;
  }

  // Draws all there is; the sizes of the steps in which something alone took part, and of the others.
  std::map<bool, std::vector<size_t>> DrawAll() {
    std::map<bool, std::vector<size_t>> sizes;
    for (Decision next = core_->Decide(0, now_); !next.batch.empty(); next = core_->Decide(0, now_)) {
      for (JobId id : next.preempt) core_->Parked(id, now_);
      bool any_alone = false;
      for (JobId id : next.batch) any_alone = any_alone || alone_.at(id);
      sizes[any_alone].push_back(next.batch.size());
      now_ += absl::Milliseconds(100);
      core_->StepDone(0, absl::Milliseconds(100));
    }
    return sizes;
  }

  CostModel costs_;
  std::unique_ptr<SchedulingCore> core_;
  std::map<JobId, bool> alone_;
  absl::Time now_ = absl::FromUnixSeconds(1000);
  int64_t sequence_ = 0;
};

TEST_P(Alone, EachOfItsStepsIsItsOwn) {
  for (int i = 0; i < 4; ++i) Add(true);
  const auto sizes = DrawAll();
  EXPECT_EQ(core_->index().unfinished(), 0);
  EXPECT_EQ(sizes.at(true), std::vector<size_t>(4 * 3, 1));
}

TEST_P(Alone, OthersShareStepsBesideIt) {
  for (int i = 0; i < 6; ++i) Add(i % 3 == 0, i % 2 == 0 ? PriorityClass::kStandard : PriorityClass::kInteractive);
  for (int i = 0; i < 4; ++i) Add(false);
  const auto sizes = DrawAll();
  EXPECT_EQ(core_->index().unfinished(), 0);
  EXPECT_EQ(sizes.at(true), std::vector<size_t>(2 * 3, 1));
  EXPECT_THAT(sizes.at(false), ::testing::Contains(::testing::Gt(size_t{1})));
}

// It comes when a batch runs, and others come when it runs.
TEST_P(Alone, NeitherJoinsNorIsJoined) {
  Add(false);
  Add(false);
  ASSERT_EQ(core_->Decide(0, now_).batch.size(), 2u);
  core_->StepDone(0, absl::Milliseconds(100));
  Add(true, PriorityClass::kInteractive);
  Add(true);
  Add(false);
  const auto sizes = DrawAll();
  EXPECT_EQ(core_->index().unfinished(), 0);
  EXPECT_EQ(sizes.at(true), std::vector<size_t>(2 * 3, 1));
}

// Two devices of one type and one of another, images that come at random, and room for one image on each device, so
// that there is always one that makes place for another.
TEST_P(Alone, BegunItGoesOnOnItsTypeOfDevice) {
  constexpr int kDevices = 3, kImages = 300;
  CoreOptions options;
  options.policy = GetParam();
  core_ = *SchedulingCore::Create(options, &costs_);
  for (int device = 0; device < kDevices; ++device) {
    DeviceLimits limits;
    limits.max_batch = limits.max_resident = 1;
    limits.type = device / 2;
    core_->SetLoaded(core_->AddDevice(limits), core_->Model("m"), true);
  }
  struct Image {
    bool one_type = false;
    int type = -1;  // that has begun it
    int steps = 0;
  };
  std::map<JobId, Image> images;
  std::mt19937_64 random(7);
  int added = 0, done = 0, parked = 0;
  while (done < kImages) {
    ASSERT_LT(now_, absl::FromUnixSeconds(100'000)) << "it does not end";
    for (int i = 0; i < 3 && added < kImages && random() % 4 == 0; ++i, ++added) {
      RequestedJobs request;
      request.tenant = "t";
      request.priority = static_cast<PriorityClass>(random() % kPriorityClasses);
      request.sequence = sequence_++;
      request.images = {{random() % 2 == 0 ? "large" : "small", 1000, 1, 1 + static_cast<int>(random() % 6), 10}};
      request.images.front().one_type = random() % 2 == 0;
      images[core_->Add(request, now_).front()].one_type = request.images.front().one_type;
    }
    for (int device = 0; device < kDevices; ++device) {
      core_->StepDone(device, absl::Milliseconds(100));
      const Decision next = core_->Decide(device, now_);
      for (JobId id : next.preempt) core_->Parked(id, now_);
      parked += static_cast<int>(next.preempt.size());
      for (JobId id : next.start) {
        Image& image = images.at(id);
        ASSERT_TRUE(!image.one_type || image.steps == 0 || image.type == device / 2);
        image.type = device / 2;
      }
      for (JobId id : next.batch) ++images.at(id).steps;
    }
    now_ += absl::Milliseconds(100);
    done = added - core_->index().unfinished();
  }
  EXPECT_EQ(std::string(GetParam()) == "deadline-fair", parked > 20) << parked;
}

INSTANTIATE_TEST_SUITE_P(Policies, Alone, ::testing::Values("fifo", "dynamic", "deadline-fair"), [](const auto& info) {
  std::string name = info.param;
  for (char& c : name) c = c == '-' ? '_' : c;
  return name;
});

}  // namespace
}  // namespace fresco
