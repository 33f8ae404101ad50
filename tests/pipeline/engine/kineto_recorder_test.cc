// What libtorch's profiler makes of scopes and operations.
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/record_function.h>
#include <c10/core/InferenceMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "pipeline/base/clock.h"
#include "pipeline/engine/layer_times.h"
#include "pipeline/engine/profiler.h"
#include "pipeline/precision/layer_scope.h"

namespace fresco {
namespace {

using ::testing::ElementsAre;
using ::testing::Gt;
using ::testing::IsEmpty;

void Work() {
  const c10::InferenceMode inference;
  const at::Tensor x = at::ones({8, 8});
  const StageScope stage("step");
  const ModuleScope module("transformer");
  for (size_t i = 0; i < 2; ++i) {
    const ModuleScope block("transformer_blocks", i);
    const LayerScope layer("ff.net.2", [] { return LayerWork{1024, 768, "fp32"}; });
    const KernelScope kernel("fresco::kernel");
    at::mm(x, x);
  }
}

absl::StatusOr<Recording> RecordWork(RecordedDetail detail) {
  const SystemClock clock;
  auto recorder = MakeRecorder("cpu", detail, &clock);
  if (!recorder.ok()) return recorder.status();
  const absl::Status begun = (*recorder)->Begin();
  if (!begun.ok()) return begun;
  Work();
  return (*recorder)->End();
}

std::vector<std::string> NamesOf(const nlohmann::json& trace, const std::string& category) {
  std::vector<std::string> names;
  for (const auto& event : trace["traceEvents"]) {
    if (event.value("cat", "") == category) names.push_back(event["name"]);
  }
  return names;
}

TEST(KinetoRecorderTest, RecordsScopesWithTheirWork) {
  const auto recording = RecordWork(RecordedDetail::kLayers);
  ASSERT_TRUE(recording.ok()) << recording.status();
  EXPECT_FALSE(recording->on_device);
  EXPECT_THAT(recording->kernels, IsEmpty());
  EXPECT_THAT(recording->trace, IsEmpty());
  const std::vector<StageTimes> stages = AddUpLayers({*recording});
  ASSERT_EQ(stages.size(), 1u);
  ASSERT_EQ(stages[0].layers.size(), 2u);
  EXPECT_EQ(stages[0].layers[1].name, "transformer.transformer_blocks.1.ff.net.2");
  EXPECT_EQ(stages[0].layers[1].flops, 1024);
  EXPECT_EQ(stages[0].layers[1].bytes, 768);
  EXPECT_EQ(stages[0].layers[1].dtype, "fp32");
  EXPECT_THAT(stages[0].layers[1].seconds, Gt(0));
  EXPECT_THAT(stages[0].outside_seconds, Gt(0));
}

// Each look at it is a microsecond later.
class CountingClock final : public Clock {
 public:
  absl::Time Now() const override { return absl::FromUnixMicros(++looks_); }
  absl::Time WallTime() const override { return Now(); }
  void WaitUntil(CondVar*, Mutex*, absl::Time) override {}

 private:
  mutable int64_t looks_ = 0;
};

TEST(ScopeRecorderTest, ReadsTheClockAtEachBeginningAndEnd) {
  const CountingClock clock;
  auto recorder = MakeRecorder("cpu", RecordedDetail::kLayers, &clock);
  ASSERT_TRUE(recorder.ok() && (*recorder)->Begin().ok());
  Work();
  const auto recording = (*recorder)->End();
  ASSERT_TRUE(recording.ok()) << recording.status();
  // step { transformer { 0 { layer } 1 { layer } } }: twelve looks; a kernel's are none.
  const std::vector<StageTimes> stages = AddUpLayers({*recording});
  ASSERT_EQ(stages.size(), 1u);
  EXPECT_DOUBLE_EQ(stages[0].seconds, 11e-6);
  EXPECT_DOUBLE_EQ(stages[0].layers[0].seconds, 1e-6);
  EXPECT_DOUBLE_EQ(stages[0].outside_seconds, 9e-6);
}

TEST(ScopeRecorderTest, HasWhatItsOwnThreadOpensWhileItRecords) {
  const CountingClock clock;
  auto recorder = MakeRecorder("cpu", RecordedDetail::kLayers, &clock);
  ASSERT_TRUE(recorder.ok());
  absl::StatusOr<Recording> recording;
  {
    const ModuleScope before("before");
    ASSERT_TRUE((*recorder)->Begin().ok());
    const ModuleScope open("still open");
    std::thread([] { const ModuleScope scope("another thread's"); }).join();
    recording = (*recorder)->End();
    const ModuleScope after("after");
  }
  ASSERT_TRUE(recording.ok()) << recording.status();
  ASSERT_EQ(recording->scopes.size(), 1u);
  EXPECT_EQ(recording->scopes[0].name, "still open");
}

TEST(KinetoRecorderTest, TheTraceIsJsonAndHasOperationsWithinTheirLayers) {
  const auto recording = RecordWork(RecordedDetail::kOperations);
  ASSERT_TRUE(recording.ok()) << recording.status();
  const auto trace = nlohmann::json::parse(recording->trace);
  EXPECT_THAT(NamesOf(trace, "user_annotation"), ElementsAre("step", "transformer", "transformer_blocks.0", "ff.net.2",
                                                             "transformer_blocks.1", "ff.net.2"));
  const std::vector<std::string> operations = NamesOf(trace, "cpu_op");
  EXPECT_EQ(std::count(operations.begin(), operations.end(), "aten::mm"), 2);
  EXPECT_EQ(std::count(operations.begin(), operations.end(), "fresco::kernel"), 2);
  for (const auto& event : trace["traceEvents"]) {
    if (event.value("name", "") != "ff.net.2") continue;
    EXPECT_EQ(event["args"]["FLOPs"], 1024);
    EXPECT_EQ(event["args"]["bytes"], 768);
    EXPECT_EQ(event["args"]["dtype"], "fp32");
  }
}

TEST(KinetoRecorderTest, RecordsAgainAndLeavesNothingOn) {
  for (int i = 0; i < 2; ++i) {
    const auto recording = RecordWork(RecordedDetail::kLayers);
    ASSERT_TRUE(recording.ok()) << recording.status();
    EXPECT_EQ(recording->scopes.size(), 6u);
    EXPECT_FALSE(at::hasCallbacks());
  }
}

TEST(KinetoRecorderTest, ARecorderThatGoesEndsWhatItBegan) {
  const SystemClock clock;
  {
    auto recorder = MakeRecorder("cpu", RecordedDetail::kOperations, &clock);
    ASSERT_TRUE(recorder.ok()) << recorder.status();
    ASSERT_TRUE((*recorder)->Begin().ok());
    EXPECT_TRUE(at::hasCallbacks());
  }
  EXPECT_FALSE(at::hasCallbacks());
}

TEST(LayerScopeTest, WorkIsAskedForOnlyWhereItIsRecorded) {
  int asked = 0;
  const auto work = [&] {
    ++asked;
    return LayerWork();
  };
  { const LayerScope scope("alone", work); }
  EXPECT_EQ(asked, 0);
  const SystemClock clock;
  auto recorder = MakeRecorder("cpu", RecordedDetail::kLayers, &clock);
  ASSERT_TRUE(recorder.ok() && (*recorder)->Begin().ok());
  { const LayerScope scope("recorded", work); }
  EXPECT_EQ(asked, 1);
  EXPECT_TRUE((*recorder)->End().ok());
}

TEST(MeasurePeaksTest, GivesARateForEachType) {
  const auto peaks = MeasurePeaks("cpu", {"fp32", "fp8"});
  ASSERT_TRUE(peaks.ok()) << peaks.status();
  EXPECT_GT(peaks->at("fp32"), 1e8);               // of any processor
  EXPECT_EQ(peaks->at("fp8"), peaks->at("fp32"));  // what emulates it
  EXPECT_EQ(peaks->size(), 2u);
}

}  // namespace
}  // namespace fresco
