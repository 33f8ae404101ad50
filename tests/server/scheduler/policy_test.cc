#include "server/scheduler/policy.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace fresco {
namespace {

WaitingImage Waiting(int priority, int64_t sequence, int image_index = 0, int engine = 0) {
  WaitingImage image;
  image.engine = engine;
  image.batch_key = "16x16";
  image.priority = priority;
  image.sequence = sequence;
  image.image_index = image_index;
  image.steps = 4;
  return image;
}

RunningImage Running(int engine, std::string_view key, int64_t last_step, int64_t sequence = 0) {
  RunningImage image;
  image.engine = engine;
  image.batch_key = key;
  image.last_step = last_step;
  image.sequence = sequence;
  image.steps_left = 4;
  return image;
}

struct StartCase {
  std::string name;
  std::vector<WaitingImage> waiting;
  int running = 0;
  int max_batch = 8;
  std::vector<int> expected;
};

class ImagesToStartTest : public ::testing::TestWithParam<StartCase> {};

TEST_P(ImagesToStartTest, Chooses) {
  const StartCase& param = GetParam();
  PolicyView view;
  view.waiting = param.waiting;
  view.running.assign(param.running, Running(0, "16x16", 1));
  EXPECT_EQ(ImagesToStart(view, {param.max_batch}), param.expected);
}

INSTANTIATE_TEST_SUITE_P(
    Policy, ImagesToStartTest,
    ::testing::Values(
        StartCase{"NothingWaits", {}, 0, 8, {}},
        StartCase{"InOrderOfArrival", {Waiting(1, 5), Waiting(1, 3), Waiting(1, 4)}, 0, 8, {1, 2, 0}},
        StartCase{"PriorityBeforeArrival", {Waiting(2, 1), Waiting(1, 2), Waiting(0, 3)}, 0, 8, {2, 1, 0}},
        StartCase{
            "ImagesOfOneRequestTogether", {Waiting(1, 1, 1), Waiting(1, 2, 0), Waiting(1, 1, 0)}, 0, 8, {2, 0, 1}},
        StartCase{"AsManyAsAreFree", {Waiting(1, 1), Waiting(1, 2), Waiting(1, 3)}, 6, 8, {0, 1}},
        StartCase{"NoneWhenFull", {Waiting(0, 1)}, 8, 8, {}},
        StartCase{"AllEnginesShareTheDevice", {Waiting(1, 1, 0, 0), Waiting(1, 2, 0, 1)}, 0, 8, {0, 1}}),
    [](const auto& info) { return info.param.name; });

struct BatchCase {
  std::string name;
  std::vector<RunningImage> running;
  int max_batch = 8;
  std::vector<int> expected;
};

class NextBatchTest : public ::testing::TestWithParam<BatchCase> {};

TEST_P(NextBatchTest, Chooses) {
  PolicyView view;
  view.running = GetParam().running;
  EXPECT_EQ(NextBatch(view, {GetParam().max_batch}), GetParam().expected);
}

INSTANTIATE_TEST_SUITE_P(
    Policy, NextBatchTest,
    ::testing::Values(
        BatchCase{"NothingRuns", {}, 8, {}},
        BatchCase{"WhatCanGoTogether", {Running(0, "a", 3), Running(0, "a", 3), Running(0, "a", 3)}, 8, {0, 1, 2}},
        BatchCase{"TheGroupThatWaitedLongest", {Running(0, "a", 7), Running(0, "b", 6), Running(0, "a", 7)}, 8, {1}},
        BatchCase{"EnginesDoNotMix", {Running(0, "a", 5), Running(1, "a", 4)}, 8, {1}},
        // A newcomer carries the number of the step before it.
        BatchCase{"NewcomersJoinTheirGroup", {Running(0, "a", 5), Running(0, "b", 4), Running(0, "b", 5)}, 8, {1, 2}},
        BatchCase{
            "NewcomersDoNotPutTheirGroupOff", {Running(0, "a", 3), Running(0, "a", 5), Running(0, "b", 4)}, 8, {0, 1}},
        BatchCase{"NewGroupsDoNotPushAhead", {Running(0, "new", 5, 9), Running(0, "a", 5, 1)}, 8, {1}},
        BatchCase{"NoMoreThanABatch", {Running(0, "a", 3), Running(0, "a", 1), Running(0, "a", 2)}, 2, {1, 2}}),
    [](const auto& info) { return info.param.name; });

TEST(PolicyFairnessTest, NoGroupStarvesWhileNewOnesKeepComing) {
  // "old" runs; at every step a newcomer of a key of its own joins, is advanced once and leaves.
  std::vector<std::string> keys;
  for (int i = 0; i < 40; ++i) keys.push_back("new" + std::to_string(i));
  std::vector<RunningImage> running = {Running(0, "old", 0)};
  int advanced_old = 0;
  for (int step = 1; step <= 40; ++step) {
    running.push_back(Running(0, keys[step - 1], step - 1, step));
    PolicyView view;
    view.running = running;
    const std::vector<int> batch = NextBatch(view, {64});
    ASSERT_EQ(batch.size(), 1u);
    if (batch[0] == 0) {
      ++advanced_old;
      running[0].last_step = step;
    } else {
      running.erase(running.begin() + batch[0]);
    }
  }
  // The groups that are there take turns: at worst all that came before one's last turn go first.
  EXPECT_GE(advanced_old, 5);
}

}  // namespace
}  // namespace fresco
