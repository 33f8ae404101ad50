// Requests that end before they are done: failures, exceptions, memory, cancellation, deadlines.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "server/scheduler/retry.h"
#include "server/scheduler/scheduler.h"
#include "tests/support/scheduler_harness.h"

namespace fresco {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;
using ::testing::SizeIs;
using Stage = FakeScript::Stage;

const absl::Duration kSecond = absl::Seconds(1);

TEST(SchedulerFailureTest, OneBadImageFailsAlone) {
  SchedulerHarness harness;
  FakeScript* script = harness.AddModel();
  script->Fail("bad", Stage::kStep, absl::DataLossError("the velocity is not finite"), 1);
  script->step_gate()->Close();
  auto good = harness.Submit(harness.Request("good", 4));
  script->step_gate()->AwaitBlocked();
  auto bad = harness.Submit(harness.Request("bad", 4));
  script->step_gate()->Open();
  const absl::Status status = bad->Result();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(status.message(), "image 0: the velocity is not finite");
  EXPECT_TRUE(good->Result().ok());
  EXPECT_THAT(StepTexts(*script), ElementsAre("good0", "good1 bad0", "good2 bad1", "good3"));
}

TEST(SchedulerFailureTest, AFailedImageEndsItsWholeRequest) {
  SchedulerOptions options;
  options.max_batch = 2;
  SchedulerHarness harness(options);
  FakeScript* script = harness.AddModel();
  script->Fail("bad", Stage::kStep, absl::DataLossError("not finite"), 1);
  GenerationRequest request = harness.Request("a", 4, 5);
  request.images[1].prompt = "bad";
  const absl::Status status = harness.Submit(request)->Result();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("image 1"));
  harness.Settle();
  EXPECT_EQ(script->live_jobs(), 0);
  EXPECT_THAT(StepTexts(*script), ElementsAre("a0 bad0", "a1 bad1"));
}

class SchedulerStageTest : public ::testing::TestWithParam<std::tuple<Stage, bool>> {};

TEST_P(SchedulerStageTest, FailuresAndExceptionsFailTheRequestAndNothingElse) {
  const auto [stage, throws] = GetParam();
  SchedulerHarness harness;
  FakeScript* script = harness.AddModel();
  if (throws) {
    script->Throw("bad", stage);
  } else {
    script->Fail("bad", stage, absl::InternalError("the device is on fire"));
  }
  GenerationRequest request = harness.Request("bad", 2);
  request.preview_every = 1;
  const absl::Status status = harness.Submit(request)->Result();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()), HasSubstr("image 0: "));
  EXPECT_THAT(std::string(status.message()), HasSubstr(throws ? "scripted exception" : "on fire"));
  EXPECT_EQ(script->live_jobs(), 0);
  EXPECT_TRUE(harness.Submit(harness.Request("good"))->Result().ok());
}

INSTANTIATE_TEST_SUITE_P(Stages, SchedulerStageTest,
                         ::testing::Combine(::testing::Values(Stage::kPrepare, Stage::kStep, Stage::kPreview,
                                                              Stage::kFinish),
                                            ::testing::Bool()));

TEST(SchedulerFailureTest, APreviewThatDoesNotFitIsLeftOut) {
  SchedulerHarness harness;
  FakeScript* script = harness.AddModel();
  script->Fail("a", Stage::kPreview, absl::ResourceExhaustedError("no memory"));
  GenerationRequest request = harness.Request("a", 2);
  request.preview_every = 1;
  const std::vector<RequestEvent> events = harness.Submit(request)->Rest();
  EXPECT_TRUE(std::holds_alternative<CompletedEvent>(events.back()));
  for (const ProgressEvent& event : EventsOf<ProgressEvent>(events)) EXPECT_FALSE(event.preview);
}

TEST(SchedulerFailureTest, ABatchThatDoesNotFitIsSplit) {
  SchedulerHarness harness;
  FakeScript* script = harness.AddModel();
  script->SetMemoryLimit(2);
  const auto completed = harness.Submit(harness.Request("a", 2, 5))->Await<CompletedEvent>();
  EXPECT_EQ(completed.batch_size_max, 2);
  EXPECT_EQ(completed.batch_size_min, 1);
  // Five and then three do not fit; from then on it is known that no more than two do.
  EXPECT_THAT(harness.observer.batches(), ElementsAre(2, 1, 2, 2, 2, 1));
  EXPECT_THAT(harness.observer.counts(), ElementsAre(Pair("fake split on cpu", 2)));
}

TEST(SchedulerFailureTest, OfABatchThatDoesNotFitOnlyTheImageFailsThatCannotFit) {
  SchedulerOptions options;
  options.costs = FlatCosts(kSecond);
  SchedulerHarness harness(options);
  FakeScript* script = harness.AddModel();
  script->SetMemoryLimit(4);
  script->SetWeight("heavy", 5);
  script->step_gate()->Close();
  std::vector<std::unique_ptr<EventReader>> light;
  light.push_back(harness.Submit(harness.Request("a", 2)));
  script->step_gate()->AwaitBlocked();
  light.push_back(harness.Submit(harness.Request("b", 2)));
  const auto heavy = harness.Submit(harness.Request("heavy", 2));
  light.push_back(harness.Submit(harness.Request("c", 2)));
  script->step_gate()->Open();
  EXPECT_EQ(heavy->Result().code(), absl::StatusCode::kResourceExhausted);
  for (const auto& reader : light) EXPECT_TRUE(reader->Result().ok());
  EXPECT_THAT(StepTexts(*script),
              ElementsAre("a0", "a1 b0 heavy0 c0", "a1 b0", "heavy0 c0", "heavy0", "c0", "b1", "c1"));
  EXPECT_THAT(harness.observer.counts(), ElementsAre(Pair("fake split on cpu", 2)));
}

// A CPU has them share steps with others, a GPU must not, and the model is on both.
TEST(SchedulerFailureTest, AnImageThatMustBeAloneOnOneOfItsDevicesIsThere) {
  SchedulerOptions options;
  options.costs = FlatCosts(absl::Seconds(1));
  SchedulerHarness harness(options);
  const auto add = [&](const char* device, bool batch_invariant) {
    const auto script = harness.scripts[device] = std::make_shared<FakeScript>();
    ModelInfo info = FakeModelInfo("fake", device);
    info.batch_invariant = batch_invariant;
    const auto loader = [&harness, info, script]() -> absl::StatusOr<std::unique_ptr<Engine>> {
      return std::make_unique<FakeEngine>(info, script, &harness.clock);
    };
    EXPECT_TRUE(harness.Load("fake", device, loader).ok());
    script->step_gate()->Close();
    return script.get();
  };
  FakeScript* const cpu = add("cpu", true);
  const auto busy = harness.Submit(harness.Request("busy"));
  cpu->step_gate()->AwaitBlocked();
  FakeScript* const gpu = add("gpu", false);
  const auto first = harness.Submit(harness.Request("a"));
  gpu->step_gate()->AwaitBlocked();
  GenerationRequest request = harness.Request("alone");
  for (ImageSpec& spec : request.images) spec.deterministic = true;
  const auto alone = harness.Submit(request);
  const auto other = harness.Submit(harness.Request("b"));
  gpu->step_gate()->Open();
  for (const auto& reader : {first.get(), alone.get(), other.get()}) EXPECT_TRUE(reader->Result().ok());
  int steps = 0;
  for (const FakeStep& step : gpu->steps()) {
    if (StepText(step).find("alone") == std::string::npos) continue;
    EXPECT_EQ(step.images.size(), 1u) << StepText(step);
    ++steps;
  }
  EXPECT_EQ(steps, 4);
}

TEST(SchedulerFailureTest, WhatDoesNotFitAloneFails) {
  SchedulerHarness harness;
  FakeScript* script = harness.AddModel();
  script->SetMemoryLimit(0);
  EXPECT_EQ(harness.Submit(harness.Request("a", 2, 3))->Result().code(), absl::StatusCode::kResourceExhausted);
  script->SetMemoryLimit(1);
  harness.clock.Advance(kTooLargeFor);
  EXPECT_TRUE(harness.Submit(harness.Request("b", 2, 3))->Result().ok());
}

absl::Status Refusal(SchedulerHarness* harness, const GenerationRequest& request) {
  return harness->scheduler->Submit(request).status();
}

GenerationRequest OfSide(const std::string& id, int pixels) {
  return SchedulerHarness::Sized(SchedulerHarness::Request(id, 2), pixels);
}

TEST(SchedulerFailureTest, WhatIsKnownNotToFitIsRefusedAtOnce) {
  SchedulerHarness harness;
  FakeScript* script = harness.AddModel();
  script->SetMemoryLimit(0);
  EXPECT_EQ(harness.Submit(OfSide("a", 32))->Result().code(), absl::StatusCode::kResourceExhausted);
  script->SetMemoryLimit(1);
  const size_t steps = script->steps().size();
  for (int side : {32, 48}) {  // a larger one needs no less
    const absl::Status refusal = Refusal(&harness, OfSide("b", side));
    EXPECT_EQ(refusal.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(std::string(refusal.message()), HasSubstr("has run out of memory by itself: ask for a smaller width"));
    EXPECT_EQ(RetryAfter(refusal), std::nullopt);
  }
  EXPECT_THAT(script->steps(), SizeIs(steps));
  EXPECT_THAT(harness.observer.counts(), ElementsAre(Pair("fake memory", 2)));
  EXPECT_TRUE(harness.Submit(OfSide("smaller", 16))->Result().ok());
}

// Others may have had the memory.
TEST(SchedulerFailureTest, WhatDidNotFitIsTriedAgain) {
  SchedulerHarness harness;
  FakeScript* script = harness.AddModel();
  script->SetMemoryLimit(0);
  EXPECT_EQ(harness.Submit(harness.Request("a"))->Result().code(), absl::StatusCode::kResourceExhausted);
  script->SetMemoryLimit(1);
  harness.clock.Advance(kTooLargeFor - kSecond);
  EXPECT_EQ(Refusal(&harness, harness.Request("b")).code(), absl::StatusCode::kResourceExhausted);
  harness.clock.Advance(kSecond);
  EXPECT_TRUE(harness.Submit(harness.Request("c"))->Result().ok());
  EXPECT_TRUE(harness.Submit(harness.Request("d"))->Result().ok());
}

void Unload(SchedulerHarness* harness, const std::string& model) {
  Gate removed;
  EXPECT_TRUE(
      harness->scheduler->RemoveModel(model, "cpu", Removal::kWhenDone, [&](const absl::Status&) { removed.Pass(); })
          .ok());
  removed.AwaitPassed(1);
}

TEST(SchedulerFailureTest, WhatDidNotFitIsTriedAgainWhenAModelHasGone) {
  SchedulerHarness harness;
  FakeScript* script = harness.AddModel();
  harness.AddModel("other");
  script->SetMemoryLimit(0);
  EXPECT_EQ(harness.Submit(harness.Request("a"))->Result().code(), absl::StatusCode::kResourceExhausted);
  script->SetMemoryLimit(1);
  EXPECT_EQ(Refusal(&harness, harness.Request("b")).code(), absl::StatusCode::kResourceExhausted);
  Unload(&harness, "other");
  EXPECT_TRUE(harness.Submit(harness.Request("c"))->Result().ok());
}

// Of 3,000 bytes a model has 1,000; an image's step has been seen to take 990 beside its 10.
TEST(SchedulerFailureTest, WhatHasFittedIsRefusedWhereOtherModelsHaveItsMemory) {
  SchedulerHarness harness;
  harness.scripts["cpu"] = std::make_shared<FakeScript>();
  harness.scripts["cpu"]->SetDeviceMemory({3000, 1});
  harness.AddModel();
  EXPECT_TRUE(harness.Submit(harness.Request("a"))->Result().ok());
  harness.AddModel("b");
  EXPECT_TRUE(harness.Submit(harness.Request("fits"))->Result().ok());
  harness.scripts["cpu"]->SetDeviceMemory({3500, 1});
  harness.AddModel("c");
  const absl::Status refusal = Refusal(&harness, harness.Request("does not"));
  EXPECT_EQ(refusal.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refusal.message()), HasSubstr("needs about 990 B for a step or its decoding and 10 B for its "
                                                        "latents and texts, where a device has 500 B"));
  // Of the other model nothing has been seen.
  GenerationRequest other = harness.Request("other");
  other.model = "c";
  EXPECT_TRUE(harness.Submit(other)->Result().ok());
  Unload(&harness, "b");
  EXPECT_TRUE(harness.Submit(harness.Request("again"))->Result().ok());
}

// What a file says of memory may be of other settings: it makes no refusal, as nobody would find out.
TEST(SchedulerFailureTest, WhatIsKnownOfMemoryFromAFileRefusesNothing) {
  SchedulerOptions options;
  ASSERT_TRUE(options.costs.Add({"fake", 1, 2, 1.0, 1, 1'000'000}).ok());
  SchedulerHarness harness(options);
  harness.scripts["cpu"] = std::make_shared<FakeScript>();
  harness.scripts["cpu"]->SetDeviceMemory({3000, 1});
  harness.AddModel();
  EXPECT_TRUE(harness.Submit(harness.Request("a"))->Result().ok());
}

TEST(SchedulerFailureTest, APictureThatCouldNotBeDecodedForWantOfMemoryIsRefusedTheNextTime) {
  SchedulerHarness harness;
  FakeScript* script = harness.AddModel();
  script->Fail("a", Stage::kFinish, absl::ResourceExhaustedError("no memory to decode"));
  EXPECT_EQ(harness.Submit(harness.Request("a"))->Result().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(Refusal(&harness, harness.Request("b")).message()), HasSubstr("run out of memory by itself"));
  // Larger ones may be decoded in tiles.
  EXPECT_TRUE(harness.Submit(OfSide("larger", 32))->Result().ok());
}

TEST(SchedulerFailureTest, AnEncoderThatFailsFailsTheRequest) {
  std::atomic<bool> throws = false;
  SchedulerHarness harness({}, [&](const Image&, const EncodeOptions&) -> absl::StatusOr<std::string> {
    if (throws) throw std::runtime_error("thrown by the encoder");
    return absl::InternalError("refused by the encoder");
  });
  harness.AddModel();
  absl::Status status = harness.Submit(harness.Request("a"))->Result();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()), HasSubstr("refused by the encoder"));
  throws = true;
  status = harness.Submit(harness.Request("a"))->Result();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("image 0: encoding: the encoder threw an exception: thrown by the encoder"));
}

TEST(SchedulerFailureTest, AnEncoderThatThrowsNoExceptionFailsTheRequestToo) {
  SchedulerHarness harness({}, [](const Image&, const EncodeOptions&) -> absl::StatusOr<std::string> { throw 7; });
  harness.AddModel();
  const absl::Status status = harness.Submit(harness.Request("a"))->Result();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()), HasSubstr("image 0: encoding: the encoder threw something"));
}

TEST(SchedulerFailureTest, CancellingARunningRequestFreesItBeforeTheNextStep) {
  SchedulerHarness harness;
  FakeScript* script = harness.AddModel();
  script->step_gate()->Close();
  auto kept = harness.Submit(harness.Request("kept", 3));
  script->step_gate()->AwaitBlocked();
  auto gone = harness.Submit(harness.Request("gone", 3, 2));
  script->step_gate()->Allow(1);
  script->step_gate()->AwaitArrivals(2);
  ASSERT_TRUE(harness.scheduler->Cancel("", "gone", absl::CancelledError("changed my mind")).ok());
  script->step_gate()->Open();
  const absl::Status status = gone->Result();
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(status.message(), "changed my mind");
  EXPECT_TRUE(kept->Result().ok());
  const std::vector<FakeStep> steps = script->steps();
  ASSERT_THAT(steps, SizeIs(3));
  EXPECT_EQ(StepText(steps[1]), "kept1 gone0 gone0");
  EXPECT_EQ(StepText(steps[2]), "kept2");
  EXPECT_EQ(steps[2].live_jobs, 1);
}

TEST(SchedulerFailureTest, CancellingAWaitingRequestNeedsNoDevice) {
  SchedulerOptions options;
  options.max_batch = 1;
  SchedulerHarness harness(options);
  FakeScript* script = harness.AddModel();
  script->step_gate()->Close();
  auto running = harness.Submit(harness.Request("running"));
  script->step_gate()->AwaitBlocked();
  auto waiting = harness.Submit(harness.Request("waiting"));
  ASSERT_TRUE(harness.scheduler->Cancel("", "waiting", absl::OkStatus()).ok());
  EXPECT_EQ(waiting->Result().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(harness.scheduler->Snapshot().waiting, 0);
}

TEST(SchedulerFailureTest, OnlyTheOwnRequestsCanBeCancelled) {
  SchedulerHarness harness;
  FakeScript* script = harness.AddModel();
  script->step_gate()->Close();
  GenerationRequest request = harness.Request("same");
  request.tenant = "one";
  auto one = harness.Submit(request);
  request.tenant = "two";
  auto two = harness.Submit(request);  // the same id is another tenant's own
  EXPECT_EQ(harness.scheduler->Cancel("three", "same", absl::OkStatus()).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(harness.scheduler->Cancel("one", "other", absl::OkStatus()).code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(harness.scheduler->Cancel("one", "same", absl::OkStatus()).ok());
  script->step_gate()->Open();
  EXPECT_EQ(one->Result().code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(two->Result().ok());
  EXPECT_EQ(harness.scheduler->Cancel("two", "same", absl::OkStatus()).code(), absl::StatusCode::kNotFound);
}

TEST(SchedulerFailureTest, AnIdIsTakenUntilItsRequestHasEnded) {
  SchedulerHarness harness;
  FakeScript* script = harness.AddModel();
  script->step_gate()->Close();
  auto first = harness.Submit(harness.Request("id"));
  EXPECT_EQ(harness.scheduler->Submit(harness.Request("id")).status().code(), absl::StatusCode::kAlreadyExists);
  script->step_gate()->Open();
  EXPECT_TRUE(first->Result().ok());
  EXPECT_TRUE(harness.Submit(harness.Request("id"))->Result().ok());
}

TEST(SchedulerFailureTest, AClosedChannelCancels) {
  SchedulerOptions options;
  options.max_batch = 1;
  SchedulerHarness harness(options);
  FakeScript* script = harness.AddModel();
  script->step_gate()->Close();
  const auto running = harness.scheduler->Submit(harness.Request("running", 100));
  script->step_gate()->AwaitBlocked();
  const auto waiting = harness.scheduler->Submit(harness.Request("waiting", 100));
  ASSERT_TRUE(running.ok() && waiting.ok());
  (*running)->Close();
  (*waiting)->Close();
  script->step_gate()->Open();
  harness.Settle();
  EXPECT_THAT(StepTexts(*script), ElementsAre("running0"));
  for (const auto& done : harness.observer.done()) EXPECT_EQ(done.code, absl::StatusCode::kCancelled) << done.id;
  EXPECT_THAT(harness.observer.done(), SizeIs(2));
  EXPECT_EQ(script->live_jobs(), 0);
}

TEST(SchedulerFailureTest, ADeadlineThatPassesWhileRunningEndsAtTheNextBoundary) {
  SchedulerOptions options;
  options.core.policy = "fifo";  // which looks no further
  SchedulerHarness harness(options);
  FakeScript* script = harness.AddModel();
  script->SetDurations({}, kSecond, {});
  GenerationRequest request = harness.Request("late", 10);
  request.deadline = harness.clock.Now() + 2.5 * kSecond;
  EXPECT_EQ(harness.Submit(request)->Result().code(), absl::StatusCode::kDeadlineExceeded);
  harness.Settle();
  EXPECT_THAT(script->steps(), SizeIs(3));
  EXPECT_EQ(script->live_jobs(), 0);
}

TEST(SchedulerFailureTest, WhatCannotMeetItsDeadlineAnyMoreEndsAtOnce) {
  SchedulerHarness harness;
  FakeScript* script = harness.AddModel();
  script->SetDurations({}, kSecond, {});
  GenerationRequest request = harness.Request("late", 10, 2);
  request.deadline = harness.clock.Now() + 2.5 * kSecond;
  const absl::Status status = harness.Submit(request)->Result();
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(status.message()), HasSubstr("cannot be done by its deadline"));
  EXPECT_THAT(script->steps(), SizeIs(1));  // after which it is known what a step takes
  EXPECT_EQ(script->live_jobs(), 0);
  EXPECT_TRUE(harness.Submit(harness.Request("good", 1))->Result().ok());
}

TEST(SchedulerFailureTest, ADeadlineThatCannotBeMetIsRefused) {
  SchedulerOptions options;
  options.max_batch = 1;
  options.costs = FlatCosts(kSecond);
  SchedulerHarness harness(options);
  FakeScript* script = harness.AddModel();
  script->step_gate()->Close();
  auto running = harness.Submit(harness.Request("running", 10));
  script->step_gate()->AwaitBlocked();
  GenerationRequest request = harness.Request("late", 4);
  request.deadline = harness.clock.Now() + 3 * kSecond;  // not even by itself
  absl::Status refused = harness.scheduler->Submit(request).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(RetryAfter(refused), std::nullopt);
  request.deadline = harness.clock.Now() + 9 * kSecond;  // once the device is free: 10 + 4 - 9 s from now
  refused = harness.scheduler->Submit(request).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("it would be done in about 14 s"));
  ASSERT_NE(RetryAfter(refused), std::nullopt);
  EXPECT_NEAR(absl::ToDoubleSeconds(*RetryAfter(refused)), 5, 0.001);
  EXPECT_THAT(harness.observer.counts(), ElementsAre(Pair("fake deadline", 2)));
  request.deadline = harness.clock.Now() + 20 * kSecond;
  auto in_time = harness.Submit(request);
  script->step_gate()->Open();
  EXPECT_TRUE(running->Result().ok());
  EXPECT_TRUE(in_time->Result().ok());
}

TEST(SchedulerFailureTest, WhatCannotBeParkedFailsAlone) {
  for (const Stage stage : {Stage::kPark, Stage::kResume}) {
    SchedulerOptions options;
    options.max_resident = 1;
    SchedulerHarness harness(options);
    FakeScript* script = harness.AddModel();
    script->Fail("moved", stage, absl::ResourceExhaustedError("no host memory"));
    script->step_gate()->Close();
    auto moved = harness.Submit(harness.Request("moved", 3));
    script->step_gate()->AwaitBlocked();
    GenerationRequest request = harness.Sized(harness.Request("urgent", 2), 32);
    request.priority = RequestPriority::kInteractive;
    auto urgent = harness.Submit(request);
    script->step_gate()->Open();
    EXPECT_TRUE(urgent->Result().ok());
    const absl::Status status = moved->Result();
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(std::string(status.message()), HasSubstr("image 0: no host memory"));
    EXPECT_EQ(script->live_jobs(), 0);
  }
}

TEST(SchedulerFailureTest, AParkedImageCanBeCancelled) {
  SchedulerOptions options;
  options.max_resident = 1;
  SchedulerHarness harness(options);
  FakeScript* script = harness.AddModel();
  script->step_gate()->Close();
  auto parked = harness.Submit(harness.Request("parked", 3));
  script->step_gate()->AwaitBlocked();
  GenerationRequest request = harness.Sized(harness.Request("urgent", 2), 32);
  request.priority = RequestPriority::kInteractive;
  auto urgent = harness.Submit(request);
  script->step_gate()->Allow(1);
  script->step_gate()->AwaitArrivals(2);  // urgent's first step
  EXPECT_EQ(script->live_jobs(), 2);
  ASSERT_TRUE(harness.scheduler->Cancel("", "parked", absl::OkStatus()).ok());
  EXPECT_EQ(parked->Result().code(), absl::StatusCode::kCancelled);  // no device is needed for it
  EXPECT_EQ(script->live_jobs(), 1);
  script->step_gate()->Open();
  EXPECT_TRUE(urgent->Result().ok());
  EXPECT_EQ(script->resumes(), 0);
}

TEST(SchedulerFailureTest, ADeadlineThatPassesInTheQueueNeedsNoDevice) {
  SchedulerOptions options;
  options.max_batch = 1;
  SchedulerHarness harness(options);
  FakeScript* script = harness.AddModel();
  script->step_gate()->Close();
  auto running = harness.Submit(harness.Request("running"));
  script->step_gate()->AwaitBlocked();
  GenerationRequest request = harness.Request("late");
  request.deadline = harness.clock.Now() + 7 * kSecond;
  auto late = harness.Submit(request);
  harness.clock.AwaitWaiter(request.deadline);
  harness.clock.Advance(7 * kSecond);
  EXPECT_EQ(late->Result().code(), absl::StatusCode::kDeadlineExceeded);
  script->step_gate()->Open();
  EXPECT_TRUE(running->Result().ok());
  EXPECT_THAT(StepTexts(*script), ElementsAre("running0", "running1", "running2", "running3"));
}

TEST(SchedulerFailureTest, ADeadlineThatHasPassedIsRefused) {
  SchedulerHarness harness;
  harness.AddModel();
  GenerationRequest request = harness.Request("late");
  request.deadline = harness.clock.Now();
  EXPECT_EQ(harness.scheduler->Submit(request).status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(harness.observer.counts(), ElementsAre(Pair("fake deadline_passed", 1)));
  request.images.clear();
  EXPECT_EQ(harness.scheduler->Submit(request).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(SchedulerFailureTest, StopTellsCallersAtOnceThoughADeviceIsInTheMiddleOfAStep) {
  SchedulerOptions options;
  options.max_batch = 1;
  SchedulerHarness harness(options);
  FakeScript* script = harness.AddModel();
  script->step_gate()->Close();
  auto running = harness.Submit(harness.Request("running", 4));
  script->step_gate()->AwaitBlocked();
  auto waiting = harness.Submit(harness.Request("waiting", 4));
  harness.scheduler->Stop();
  for (EventReader* reader : {running.get(), waiting.get()}) {
    const absl::Status status = reader->Result();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
    EXPECT_EQ(status.message(), "the server is shutting down");
    EXPECT_TRUE(RetryAfter(status).has_value());
  }
  EXPECT_EQ(script->live_jobs(), 1);  // the device has not come to its step boundary
  script->step_gate()->Open();
  harness.Settle();
  EXPECT_EQ(script->live_jobs(), 0);
  EXPECT_THAT(StepTexts(*script), ElementsAre("running0"));
}

}  // namespace
}  // namespace fresco
