#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <thread>

#include "absl/strings/cord.h"
#include "pipeline/base/clock.h"
#include "pipeline/base/mutex.h"
#include "pipeline/base/printable.h"
#include "pipeline/base/status.h"
#include "pipeline/base/utf8.h"

namespace fresco {
namespace {

absl::StatusOr<std::unique_ptr<int>> Half(int value) {
  if (value % 2 != 0) return absl::InvalidArgumentError("odd");
  return std::make_unique<int>(value / 2);
}

absl::Status CheckQuarter(int value, int* quarter) {
  FRESCO_ASSIGN_OR_RETURN(const std::unique_ptr<int> half, Half(value));
  FRESCO_ASSIGN_OR_RETURN(std::unique_ptr<int> result, Half(*half));  // two in one scope
  *quarter = *result;
  if (value < 0) FRESCO_RETURN_IF_ERROR(absl::OutOfRangeError("negative"));
  return absl::OkStatus();
}

TEST(StatusTest, MacrosPassErrorsUpAndValuesOn) {
  int quarter = 0;
  EXPECT_TRUE(CheckQuarter(12, &quarter).ok());
  EXPECT_EQ(quarter, 3);
  EXPECT_EQ(CheckQuarter(6, &quarter), absl::InvalidArgumentError("odd"));
  EXPECT_EQ(CheckQuarter(-4, &quarter), absl::OutOfRangeError("negative"));
}

TEST(StatusTest, AnnotateKeepsCodeAndPayloads) {
  absl::Status status = absl::NotFoundError("no such file");
  status.SetPayload("url", absl::Cord("retry"));
  const absl::Status annotated = Annotate(status, "config.json");
  EXPECT_EQ(annotated.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(annotated.message(), "config.json: no such file");
  EXPECT_EQ(annotated.GetPayload("url"), absl::Cord("retry"));
  EXPECT_TRUE(Annotate(absl::OkStatus(), "x").ok());
}

struct Gate {
  Mutex mutex;
  CondVar condition;
  bool open FRESCO_GUARDED_BY(mutex) = false;
};

TEST(ClockTest, ANotificationEndsAWaitWithoutDeadline) {
  SystemClock clock;
  Gate gate;
  std::thread opener([&gate] {
    MutexLock lock(&gate.mutex);
    gate.open = true;
    gate.condition.NotifyAll();
  });
  {
    MutexLock lock(&gate.mutex);
    while (!gate.open) clock.WaitUntil(&gate.condition, &gate.mutex, absl::InfiniteFuture());
    EXPECT_TRUE(gate.open);
  }
  opener.join();
}

TEST(ClockTest, AWaitEndsAtItsDeadline) {
  SystemClock clock;
  Gate gate;
  MutexLock lock(&gate.mutex);
  const absl::Time deadline = clock.Now() + absl::Milliseconds(5);
  while (clock.Now() < deadline) clock.WaitUntil(&gate.condition, &gate.mutex, deadline);
  EXPECT_GE(clock.Now(), deadline);
  clock.WaitUntil(&gate.condition, &gate.mutex, absl::InfinitePast());  // returns, holding the mutex
  EXPECT_FALSE(gate.open);
}

TEST(PrintableNameTest, EscapesAndCutsBetweenCharacters) {
  EXPECT_EQ(PrintableName("proj_out é"), "proj_out é");
  EXPECT_EQ(PrintableName("a\n\x1b[2J\x7f\""), "a\\n\\x1b[2J\\x7f\\\"");
  const std::string long_name = "x" + std::string(1 << 20, 'y');
  EXPECT_EQ(PrintableName(long_name), long_name.substr(0, 200) + "…");
  std::string wide = "x";
  for (int i = 0; i < 1000; ++i) wide += "é";
  EXPECT_EQ(PrintableName(wide), wide.substr(0, 199) + "…");  // the 200th byte is the first of two
}

TEST(PrintableNameTest, EscapesBytesThatAreNoUtf8) {
  EXPECT_EQ(PrintableName("lay\xFErs \xC3\x28"), "lay\\xfers \\xc3(");
  EXPECT_TRUE(IsUtf8(PrintableName(std::string(199, 'x') + "\xE7\x8B\x90")));
}

TEST(PrintableTest, LeavesAllThatCanBeShown) {
  const std::string text = "expected 'a' or \"b\\\", found é" + std::string(500, 'x');
  EXPECT_EQ(Printable(text), text);
  EXPECT_EQ(Printable("a\nb\t\x1b[31m\x7f \xFF\xC3"), "a\\x0ab\\x09\\x1b[31m\\x7f \\xff\\xc3");
}

TEST(MutexTest, ManyThreadsCountTogether) {
  Mutex mutex;
  int count = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 1000; ++i) {
        MutexLock lock(&mutex);
        ++count;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(count, 4000);
}

}  // namespace
}  // namespace fresco
