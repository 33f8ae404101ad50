#include "server/rpc/unread_answers.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/scheduler/retry.h"

namespace fresco {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kMiB = 1 << 20;

std::vector<SharedBytes> Pictures(int count, int64_t bytes) {
  std::vector<SharedBytes> pictures;
  for (int i = 0; i < count; ++i) pictures.emplace_back(std::string(bytes, 'x'));
  return pictures;
}

TEST(UnreadAnswersTest, BeyondTheLimitThereIsNoRoomUntilAnAnswerIsRead) {
  UnreadAnswers answers(4 * kMiB);
  auto first = answers.Take("", Pictures(2, kMiB));
  ASSERT_TRUE(first.ok()) << first.status();
  const absl::Status refused = answers.Take("", Pictures(1, 3 * kMiB)).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("server.answer_bytes (4194304)"));
  EXPECT_TRUE(RetryAfter(refused).has_value());
  EXPECT_TRUE(answers.Take("", Pictures(1, kMiB)).ok());
  first->reset();
  EXPECT_TRUE(answers.Take("", Pictures(1, 3 * kMiB)).ok());
}

TEST(UnreadAnswersTest, ThePicturesOfManyAnswersAreCountedOnce) {
  UnreadAnswers answers(4 * kMiB);
  const std::vector<SharedBytes> pictures = Pictures(1, 3 * kMiB);
  std::vector<std::unique_ptr<UnreadAnswers::Hold>> holds;
  for (int i = 0; i < 10; ++i) {
    auto hold = answers.Take("", pictures);
    ASSERT_TRUE(hold.ok()) << hold.status();
    holds.push_back(*std::move(hold));
  }
  EXPECT_FALSE(answers.Take("", Pictures(1, 3 * kMiB)).ok());
  // They are there until the last one is read.
  while (holds.size() > 1) holds.pop_back();
  EXPECT_FALSE(answers.Take("", Pictures(1, 3 * kMiB)).ok());
  holds.clear();
  EXPECT_TRUE(answers.Take("", Pictures(1, 3 * kMiB)).ok());
}

// A picture of next to nothing is still a call that somebody has left open.
TEST(UnreadAnswersTest, AnswersHaveASizeOfTheirOwn) {
  UnreadAnswers answers(kMiB);
  const std::vector<SharedBytes> pictures = Pictures(1, 1);
  std::vector<std::unique_ptr<UnreadAnswers::Hold>> holds;
  for (auto hold = answers.Take("", pictures); hold.ok() && holds.size() < 1000; hold = answers.Take("", pictures))
    holds.push_back(*std::move(hold));
  EXPECT_LT(holds.size(), 100u);
}

TEST(UnreadAnswersTest, OneTenantLeavesHalfToTheOthers) {
  UnreadAnswers answers(8 * kMiB);
  const auto one = answers.Take("one", Pictures(1, 3 * kMiB));
  ASSERT_TRUE(one.ok());
  EXPECT_FALSE(answers.Take("one", Pictures(1, 3 * kMiB)).ok());
  EXPECT_TRUE(answers.Take("two", Pictures(1, 3 * kMiB)).ok());
}

TEST(UnreadAnswersTest, TheOnlyAnswerMayBeOfAnySize) {
  UnreadAnswers answers(kMiB);
  const auto only = answers.Take("one", Pictures(1, 5 * kMiB));
  ASSERT_TRUE(only.ok()) << only.status();
  EXPECT_FALSE(answers.Take("two", Pictures(1, 1)).ok());
}

}  // namespace
}  // namespace fresco
