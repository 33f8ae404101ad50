// What a ledger says of who holds memory, from what it is told of blocks that come and go.
#include "pipeline/base/memory_ledger.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <string>
#include <thread>
#include <vector>

namespace fresco {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr int64_t kMiB = 1 << 20;

MemoryHolderId Holder(const char* component, MemoryKind kind, const char* model = "ledger test") {
  const MemoryModelScope of(model);
  const MemoryScope scope(component, kind);
  return CurrentMemoryHolder();
}

std::vector<std::string> Names(const MemorySnapshot& snapshot) {
  std::vector<std::string> names;
  for (const MemoryHeld& held : snapshot.held) names.push_back(NameOf(held.holder));
  return names;
}

TEST(MemoryScopeTest, TheInnermostCountsAndEndsWithItsScope) {
  EXPECT_EQ(CurrentMemoryHolder(), 0);
  EXPECT_EQ(NameOf(MemoryHolderOf(0)), "other");
  const MemoryModelScope model("m");
  const MemoryScope outer("transformer", MemoryKind::kActivations);
  const MemoryHolderId before = CurrentMemoryHolder();
  {
    const MemoryScope inner("images", MemoryKind::kState);
    EXPECT_EQ(NameOf(MemoryHolderOf(CurrentMemoryHolder())), "images");
    EXPECT_EQ(MemoryHolderOf(CurrentMemoryHolder()).model, "m");
    std::thread([] { EXPECT_EQ(CurrentMemoryHolder(), 0); }).join();  // of this thread alone
  }
  EXPECT_EQ(CurrentMemoryHolder(), before);
  EXPECT_EQ(NameOf(MemoryHolderOf(before)), "transformer activations");
}

TEST(MemoryScopeTest, AHolderIsOneByModelComponentAndKind) {
  const MemoryHolderId weights = Holder("vae", MemoryKind::kWeights);
  EXPECT_EQ(Holder("vae", MemoryKind::kWeights), weights);
  EXPECT_NE(Holder("vae", MemoryKind::kActivations), weights);
  EXPECT_NE(Holder("vae", MemoryKind::kWeights, "another"), weights);
}

TEST(MemoryLedgerTest, SaysWhoHeldWhatWhenAllHeldTheMost) {
  const MemoryHolderId weights = Holder("vae", MemoryKind::kWeights);
  const MemoryHolderId activations = Holder("vae", MemoryKind::kActivations);
  MemoryLedger ledger;
  ASSERT_TRUE(ledger.Take(100, weights));
  ASSERT_TRUE(ledger.Take(50, activations));
  ledger.Give(50, activations);
  ASSERT_TRUE(ledger.Take(10, activations));
  const MemorySnapshot snapshot = ledger.Snapshot();
  EXPECT_EQ(snapshot.allocated_bytes, 110);
  EXPECT_EQ(snapshot.peak_bytes, 150);
  ASSERT_THAT(Names(snapshot), ElementsAre("vae weights", "vae activations"));
  EXPECT_EQ(snapshot.held[1].bytes, 10);
  EXPECT_EQ(snapshot.held[1].peak_bytes, 50);
  EXPECT_EQ(snapshot.held[1].at_peak_bytes, 50);
  ledger.ResetPeak();
  EXPECT_EQ(ledger.Snapshot().peak_bytes, 110);
  EXPECT_EQ(ledger.Snapshot().held[1].at_peak_bytes, 10);
}

TEST(MemoryLedgerTest, NamesTheLargestBlocksThatAreStillThere) {
  const MemoryHolderId weights = Holder("transformer", MemoryKind::kWeights);
  MemoryLedger ledger;
  std::array<char, 4> at;  // addresses
  const auto add = [&](size_t i, const char* name, int64_t bytes) {
    const MemoryNameScope scope(name);
    ASSERT_TRUE(ledger.Take(bytes, weights));
    ledger.Remember(&at[i], bytes, weights);
  };
  add(0, "small", 1000);
  add(1, "gone", 9 * kMiB);
  add(2, "middling", 2 * kMiB);
  add(3, "large", 3 * kMiB);
  ledger.Forget(&at[1], 9 * kMiB);
  ledger.Give(9 * kMiB, weights);
  const MemorySnapshot snapshot = ledger.Snapshot(/*blocks=*/8);
  ASSERT_EQ(snapshot.largest.size(), 2);
  EXPECT_EQ(snapshot.largest[0].name, "large");
  EXPECT_EQ(snapshot.largest[0].bytes, 3 * kMiB);
  EXPECT_EQ(NameOf(snapshot.largest[0].holder), "transformer weights");
  EXPECT_EQ(snapshot.largest[1].name, "middling");
  EXPECT_THAT(ledger.Snapshot(/*blocks=*/1).largest, ::testing::SizeIs(1));
}

TEST(MemoryLedgerTest, RefusesWhatGoesBeyondTheLimitAndKeepsWhatWasThen) {
  const MemoryHolderId weights = Holder("transformer", MemoryKind::kWeights);
  MemoryLedger ledger;
  ledger.SetLimit(100);
  ASSERT_TRUE(ledger.Take(80, weights));
  EXPECT_FALSE(ledger.Take(21, weights));
  ledger.NoteShortage(21);
  EXPECT_EQ(ledger.allocated_bytes(), 80);
  EXPECT_EQ(ledger.peak_bytes(), 80);
  EXPECT_TRUE(ledger.Take(20, weights));
  ledger.Give(100, weights);
  const std::optional<MemoryShortage> shortage = TakeMemoryShortage();
  ASSERT_TRUE(shortage.has_value());
  EXPECT_EQ(shortage->asked_bytes, 21);
  EXPECT_EQ(shortage->before.allocated_bytes, 80);
  EXPECT_EQ(shortage->before.limit_bytes, 100);
  EXPECT_FALSE(TakeMemoryShortage().has_value());
}

TEST(MemoryLedgerTest, AListenerHearsOfChangesWhileItIsThere) {
  struct Listener : MemoryListener {
    void OnChange(MemoryHolderId /*holder*/, int64_t bytes) override { heard.push_back(bytes); }
    std::vector<int64_t> heard;
  } listener;
  const MemoryHolderId images = Holder("images", MemoryKind::kState);
  MemoryLedger ledger;
  ASSERT_TRUE(ledger.Take(1, images));
  EXPECT_THAT(listener.heard, IsEmpty());
  ledger.SetListener(&listener);
  ASSERT_TRUE(ledger.Take(2, images));
  ledger.Give(1, images);
  ledger.SetListener(nullptr);
  ledger.Give(2, images);
  EXPECT_THAT(listener.heard, ElementsAre(3, 2));
}

// Threads that allocate at once lose no byte, and the parts at the peak are the whole.
TEST(MemoryLedgerTest, CountsForManyThreads) {
  const MemoryHolderId holders[] = {Holder("transformer", MemoryKind::kActivations),
                                    Holder("vae", MemoryKind::kActivations)};
  MemoryLedger ledger;
  std::vector<std::thread> threads;
  for (const MemoryHolderId holder : holders) {
    threads.emplace_back([&ledger, holder] {
      for (int i = 0; i < 10'000; ++i) {
        ASSERT_TRUE(ledger.Take(i, holder));
        if (i % 2 == 0) ledger.Give(i, holder);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const int64_t odd = 25'000'000;  // the sum of odd numbers below 10,000
  EXPECT_EQ(ledger.allocated_bytes(), 2 * odd);
  for (const MemoryHeld& held : ledger.Snapshot().held) EXPECT_EQ(held.bytes, odd);
  EXPECT_GE(ledger.peak_bytes(), 2 * odd);
}

}  // namespace
}  // namespace fresco
