// What a timeline makes of blocks that come and go, at times that the test sets.
#include "pipeline/engine/memory_timeline.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "tests/support/fake_clock.h"

namespace fresco {
namespace {

using ::testing::ElementsAre;

constexpr int64_t kMiB = 1 << 20;

class MemoryTimelineTest : public ::testing::Test {
 protected:
  static MemoryHolderId Holder(const char* component, MemoryKind kind) {
    const MemoryModelScope model("timeline test");
    const MemoryScope scope(component, kind);
    return CurrentMemoryHolder();
  }
  void Take(int64_t bytes, MemoryHolderId holder) { ASSERT_TRUE(ledger_.Take(bytes, holder)); }
  void Pass() { clock_.Advance(absl::Seconds(1)); }

  const MemoryHolderId weights_ = Holder("vae", MemoryKind::kWeights);
  const MemoryHolderId steps_ = Holder("transformer", MemoryKind::kActivations);
  const MemoryHolderId decoding_ = Holder("vae", MemoryKind::kActivations);
  FakeClock clock_;
  MemoryLedger ledger_;
};

TEST_F(MemoryTimelineTest, NamesThePeakItsStageAndWhoHasWhatThen) {
  Take(100 * kMiB, weights_);  // before anybody looks
  const absl::Time begin = clock_.Now();
  MemoryTimeline timeline(&ledger_, &clock_);
  timeline.Begin("denoising");
  Take(20 * kMiB, steps_);
  Pass();
  ledger_.Give(20 * kMiB, steps_);
  timeline.Begin("decoding");
  Take(30 * kMiB, decoding_);
  Pass();
  Take(40 * kMiB, decoding_);
  ledger_.Give(30 * kMiB, decoding_);
  Pass();
  ledger_.Give(40 * kMiB, decoding_);
  timeline.Begin("denoising");  // once more, with less
  Take(10 * kMiB, steps_);
  Pass();
  timeline.End();
  const MemoryHistory history = timeline.History();
  ASSERT_EQ(history.stages.size(), 2);
  ASSERT_NE(history.peak(), nullptr);
  EXPECT_EQ(history.peak()->name, "decoding");
  EXPECT_EQ(history.peak()->peak.at, begin + absl::Seconds(2));
  EXPECT_EQ(history.peak()->peak.total_bytes(), 170 * kMiB);
  std::vector<std::string> names;
  for (const MemoryHolder& holder : history.holders) names.push_back(NameOf(holder));
  EXPECT_THAT(names, ElementsAre("vae weights", "vae activations", "transformer activations"));
  EXPECT_THAT(history.peak()->peak.bytes, ElementsAre(100 * kMiB, 70 * kMiB, 0));
  EXPECT_THAT(history.stages[0].peak.bytes, ElementsAre(100 * kMiB, 0, 20 * kMiB));
}

TEST_F(MemoryTimelineTest, ShowsEachTimeWhatWasHeldThen) {
  MemoryTimeline timeline(&ledger_, &clock_);
  timeline.Begin("denoising");
  for (int i = 0; i < 3; ++i) {
    Pass();
    Take(5 * kMiB, steps_);
  }
  Pass();
  ledger_.Give(15 * kMiB, steps_);
  timeline.End();
  const MemoryHistory history = timeline.History();
  std::vector<int64_t> totals;
  for (const MemoryHistory::Moment& moment : history.moments) totals.push_back(moment.total_bytes() / kMiB);
  EXPECT_THAT(totals, ElementsAre(5, 10, 15, 0, 0));
}

// A spike between two moments that are kept is kept itself.
TEST_F(MemoryTimelineTest, FewMomentsStillHoldThePeak) {
  MemoryTimeline timeline(&ledger_, &clock_);
  timeline.Begin("denoising");
  for (int i = 1; i <= 1000; ++i) {
    clock_.Advance(absl::Milliseconds(1));
    const int64_t bytes = (i == 777 ? 50 : 1) * kMiB;
    Take(bytes, steps_);
    ledger_.Give(bytes, steps_);
  }
  timeline.End();
  const MemoryHistory history = timeline.History(/*moments=*/10);
  EXPECT_LE(history.moments.size(), 12);
  int64_t most = 0;
  for (const MemoryHistory::Moment& moment : history.moments) most = std::max(most, moment.total_bytes());
  EXPECT_EQ(most, 50 * kMiB);
  EXPECT_EQ(history.peak()->peak.total_bytes(), 50 * kMiB);
}

TEST_F(MemoryTimelineTest, LooksOnBetweenBeginAndEndAlone) {
  MemoryTimeline timeline(&ledger_, &clock_);
  EXPECT_EQ(timeline.History().peak(), nullptr);
  timeline.Begin("denoising");
  Pass();
  timeline.End();
  Take(9 * kMiB, steps_);
  ledger_.Give(7 * kMiB, steps_);
  Pass();
  timeline.Begin("decoding");  // finds what is there now
  timeline.End();
  EXPECT_EQ(timeline.History().stages.at(0).peak.total_bytes(), 0);
  EXPECT_EQ(timeline.History().peak()->peak.total_bytes(), 2 * kMiB);
}

TEST_F(MemoryTimelineTest, NothingIsToldOnceItIsGone) {
  {
    MemoryTimeline timeline(&ledger_, &clock_);
    timeline.Begin("denoising");
  }
  Take(kMiB, steps_);
}

}  // namespace
}  // namespace fresco
