// What a caller sees of requests that go well: order of events, batching, progress, previews, costs, metadata.
#include "server/scheduler/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "pipeline/image/codec.h"
#include "tests/support/scheduler_harness.h"

namespace fresco {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::Pair;
using ::testing::SizeIs;

const absl::Duration kSecond = absl::Seconds(1);

std::vector<int> StepsOf(const std::vector<RequestEvent>& events, int image) {
  std::vector<int> steps;
  for (const ProgressEvent& event : EventsOf<ProgressEvent>(events)) {
    if (event.image_index == image) steps.push_back(event.step);
  }
  return steps;
}

TEST(SchedulerTest, EventsComeInOrder) {
  SchedulerHarness harness;
  harness.AddModel();
  const std::vector<RequestEvent> events = harness.Submit(harness.Request("a", 3, 2))->Rest();
  ASSERT_GE(events.size(), 5u);
  EXPECT_TRUE(std::holds_alternative<QueuedEvent>(events[0]));
  EXPECT_EQ(std::get<QueuedEvent>(events[0]).position, 0);
  EXPECT_EQ(std::get<StartedEvent>(events[1]).device, "cpu");
  EXPECT_TRUE(std::holds_alternative<CompletedEvent>(events.back()));
  EXPECT_THAT(EventsOf<StartedEvent>(events), SizeIs(1));
  EXPECT_THAT(StepsOf(events, 0), ElementsAre(1, 2, 3));
  EXPECT_THAT(StepsOf(events, 1), ElementsAre(1, 2, 3));
  // Each image comes after its own last step.
  for (int image = 0; image < 2; ++image) {
    const auto last_step = std::find_if(events.begin(), events.end(), [&](const RequestEvent& event) {
      const auto* progress = std::get_if<ProgressEvent>(&event);
      return progress != nullptr && progress->image_index == image && progress->step == 3;
    });
    const auto picture = std::find_if(events.begin(), events.end(), [&](const RequestEvent& event) {
      const auto* found = std::get_if<ImageEvent>(&event);
      return found != nullptr && found->image_index == image;
    });
    EXPECT_LT(last_step - events.begin(), picture - events.begin());
    EXPECT_NE(picture, events.end());
  }
}

TEST(SchedulerTest, EachImageHasItsOwnSeedStepsAndGuidance) {
  SchedulerHarness harness;
  FakeScript* script = harness.AddModel();
  script->step_gate()->Close();
  GenerationRequest request = harness.Request("a", 2, 3);
  request.images[1].steps = 5;
  request.images[1].seed = 70;
  request.images[2].guidance_scale = 1.5f;
  auto reader = harness.Submit(request);
  script->step_gate()->Open();
  const std::vector<ImageEvent> images = EventsOf<ImageEvent>(reader->Rest());
  ASSERT_THAT(images, SizeIs(3));
  for (const ImageEvent& event : images) {
    const ImageSpec& spec = request.images[event.image_index];
    EXPECT_EQ(event.image.bytes, PictureText(16, 16, FakeColour(spec)));
    EXPECT_EQ(event.provenance.spec, spec);
    EXPECT_EQ(event.image.mime_type, "image/png");
    EXPECT_EQ(event.image.width, 16);
  }
  // They advanced together, and the longer one alone in the end.
  EXPECT_THAT(StepTexts(*script), ElementsAre("a0 a0 a0", "a1 a1 a1", "a2", "a3", "a4"));
}

TEST(SchedulerTest, NewcomersJoinAtTheNextStep) {
  SchedulerHarness harness;
  FakeScript* script = harness.AddModel();
  script->step_gate()->Close();
  auto first = harness.Submit(harness.Request("a", 3));
  script->step_gate()->AwaitBlocked();
  auto second = harness.Submit(harness.Request("b", 2));
  script->step_gate()->Allow(1);
  script->step_gate()->AwaitArrivals(2);
  auto third = harness.Submit(harness.Request("c", 1));
  script->step_gate()->Open();
  EXPECT_TRUE(first->Result().ok());
  EXPECT_TRUE(second->Result().ok());
  EXPECT_TRUE(third->Result().ok());
  EXPECT_THAT(StepTexts(*script), ElementsAre("a0", "a1 b0", "a2 b1 c0"));
}

TEST(SchedulerTest, WhatCannotShareAStepGoesOneAfterTheOther) {
  SchedulerHarness harness;
  FakeScript* script = harness.AddModel();
  script->prepare_gate()->Close();
  auto hold = harness.Submit(harness.Request("h", 1));
  script->prepare_gate()->AwaitBlocked();
  auto small = harness.Submit(harness.Request("s", 3));
  auto large = harness.Submit(harness.Sized(harness.Request("l", 3), 32));
  auto small_too = harness.Submit(harness.Request("t", 2));
  script->prepare_gate()->Open();
  EXPECT_TRUE(small->Result().ok());
  EXPECT_TRUE(large->Result().ok());
  EXPECT_TRUE(small_too->Result().ok());
  EXPECT_THAT(StepTexts(*script), ElementsAre("h0", "s0 t0", "s1 t1", "s2", "l0", "l1", "l2"));
}

TEST(SchedulerTest, WhatIsUrgentGoesFirstAtTheNextStep) {
  SchedulerHarness harness;
  FakeScript* script = harness.AddModel();
  script->step_gate()->Close();
  auto running = harness.Submit(harness.Request("r", 3));
  script->step_gate()->AwaitBlocked();
  GenerationRequest request = harness.Sized(harness.Request("u", 2), 32);
  request.priority = RequestPriority::kInteractive;
  auto urgent = harness.Submit(request);
  script->step_gate()->Open();
  EXPECT_TRUE(urgent->Result().ok());
  EXPECT_TRUE(running->Result().ok());
  EXPECT_THAT(StepTexts(*script), ElementsAre("r0", "u0", "u1", "r1", "r2"));
  EXPECT_EQ(script->parks(), 0);  // the device has room for both
}

TEST(SchedulerTest, WhatLeavesTheDeviceForSomethingUrgentGoesOnAfterwards) {
  SchedulerOptions options;
  options.max_resident = 1;
  SchedulerHarness harness(options);
  FakeScript* script = harness.AddModel();
  script->step_gate()->Close();
  const GenerationRequest request = harness.Request("r", 3);
  auto running = harness.Submit(request);
  script->step_gate()->AwaitBlocked();
  GenerationRequest pressing = harness.Sized(harness.Request("u", 2), 32);
  pressing.priority = RequestPriority::kInteractive;
  auto urgent = harness.Submit(pressing);
  script->step_gate()->Open();
  EXPECT_TRUE(urgent->Result().ok());
  const std::vector<RequestEvent> events = running->Rest();
  EXPECT_THAT(StepTexts(*script), ElementsAre("r0", "u0", "u1", "r1", "r2"));
  EXPECT_EQ(script->parks(), 1);
  EXPECT_EQ(script->resumes(), 1);
  EXPECT_THAT(harness.observer.counts(), ElementsAre(Pair("fake preempted on cpu", 1)));
  EXPECT_THAT(StepsOf(events, 0), ElementsAre(1, 2, 3));
  EXPECT_THAT(EventsOf<StartedEvent>(events), SizeIs(1));
  ASSERT_THAT(EventsOf<ImageEvent>(events), SizeIs(1));
  EXPECT_EQ(EventsOf<ImageEvent>(events)[0].image.bytes, PictureText(16, 16, FakeColour(request.images[0])));
}

TEST(SchedulerTest, MaxBatchBoundsTheImagesInFlight) {
  SchedulerOptions options;
  options.max_batch = 2;
  SchedulerHarness harness(options);
  FakeScript* script = harness.AddModel();
  EXPECT_TRUE(harness.Submit(harness.Request("a", 2, 5))->Result().ok());
  for (const FakeStep& step : script->steps()) EXPECT_LE(step.live_jobs, 2);
  EXPECT_THAT(StepTexts(*script), ElementsAre("a0 a0", "a1 a1", "a0 a0", "a1 a1", "a0", "a1"));
}

TEST(SchedulerTest, PriorityThenArrivalDecidesWhoStarts) {
  SchedulerOptions options;
  options.max_batch = 1;
  SchedulerHarness harness(options);
  FakeScript* script = harness.AddModel();
  script->step_gate()->Close();
  std::vector<std::unique_ptr<EventReader>> readers;
  readers.push_back(harness.Submit(harness.Request("first", 1)));
  script->step_gate()->AwaitBlocked();
  const auto submit = [&](const std::string& id, RequestPriority priority) {
    GenerationRequest request = harness.Request(id, 1);
    request.priority = priority;
    readers.push_back(harness.Submit(std::move(request)));
  };
  submit("batch", RequestPriority::kBatch);
  submit("standard", RequestPriority::kStandard);
  submit("standard2-", RequestPriority::kStandard);
  submit("interactive", RequestPriority::kInteractive);
  script->step_gate()->Open();
  for (auto& reader : readers) EXPECT_TRUE(reader->Result().ok());
  EXPECT_THAT(StepTexts(*script), ElementsAre("first0", "interactive0", "standard0", "standard2-0", "batch0"));
}

TEST(SchedulerTest, QueuedTellsPositionAndWaitAndTellsThemAgainWhenTheyChange) {
  SchedulerOptions options;
  options.max_batch = 1;
  SchedulerHarness harness(options);
  FakeScript* script = harness.AddModel();
  script->SetDurations({}, kSecond, {});
  EXPECT_TRUE(harness.Submit(harness.Request("warm-up", 4))->Result().ok());  // from which step times are known
  script->step_gate()->Close();
  auto running = harness.Submit(harness.Request("running", 4));
  script->step_gate()->AwaitArrivals(5);
  auto second = harness.Submit(harness.Request("second", 10));
  auto third = harness.Submit(harness.Request("third", 20));  // due later than the second, as it asks for more
  QueuedEvent event = second->Await<QueuedEvent>();
  EXPECT_EQ(event.position, 0);
  EXPECT_EQ(event.estimated_wait, 4 * kSecond);
  event = third->Await<QueuedEvent>();
  EXPECT_EQ(event.position, 1);
  EXPECT_EQ(event.estimated_wait, 14 * kSecond);
  // Somebody pushes ahead,
  GenerationRequest urgent = harness.Request("urgent", 2);
  urgent.priority = RequestPriority::kInteractive;
  auto pushing = harness.Submit(urgent);
  EXPECT_EQ(pushing->Await<QueuedEvent>().position, 0);
  // (and more like it may come in the meantime)
  event = second->Await<QueuedEvent>();
  EXPECT_EQ(event.position, 1);
  EXPECT_GE(event.estimated_wait, 6 * kSecond);
  EXPECT_LT(event.estimated_wait, 7 * kSecond);
  EXPECT_EQ(third->Await<QueuedEvent>().position, 2);
  // and somebody leaves.
  ASSERT_TRUE(harness.scheduler->Cancel("", "second", absl::CancelledError("")).ok());
  event = third->Await<QueuedEvent>();
  EXPECT_EQ(event.position, 1);
  EXPECT_GE(event.estimated_wait, 6 * kSecond);
  EXPECT_LT(event.estimated_wait, 7 * kSecond);
}

TEST(SchedulerTest, TheObserverHearsOfWaitsAsTheyWerePredictedAndAsTheyWere) {
  SchedulerOptions options;
  options.max_batch = 1;
  options.costs = FlatCosts(kSecond);
  SchedulerHarness harness(options);
  FakeScript* script = harness.AddModel();
  script->SetDurations({}, kSecond, {});
  script->step_gate()->Close();
  auto running = harness.Submit(harness.Request("running", 4));
  script->step_gate()->AwaitBlocked();
  auto waiting = harness.Submit(harness.Request("waiting", 4));
  script->step_gate()->Open();
  EXPECT_TRUE(running->Result().ok());
  EXPECT_TRUE(waiting->Result().ok());
  harness.Settle();
  const std::vector<absl::Duration> predicted = harness.observer.predictions("standard");
  ASSERT_EQ(predicted.size(), 2u);
  EXPECT_EQ(predicted[0], 0 * kSecond);
  EXPECT_NEAR(absl::ToDoubleSeconds(predicted[1]), 4, 0.001);
  EXPECT_THAT(harness.observer.waits(), ElementsAre(0 * kSecond, 4 * kSecond));
}

TEST(SchedulerTest, ProgressTellsTheTimeThatRemains) {
  SchedulerHarness harness;
  FakeScript* script = harness.AddModel();
  script->SetDurations({}, 2 * kSecond, {});
  std::vector<absl::Duration> remaining;
  for (const auto& event : EventsOf<ProgressEvent>(harness.Submit(harness.Request("a", 4))->Rest())) {
    EXPECT_EQ(event.total_steps, 4);
    remaining.push_back(event.remaining);
  }
  EXPECT_THAT(remaining, ElementsAre(6 * kSecond, 4 * kSecond, 2 * kSecond, 0 * kSecond));
}

TEST(SchedulerTest, CompletedTellsWhatItCost) {
  SchedulerOptions options;
  options.max_batch = 2;
  options.costs = FlatCosts(kSecond);
  SchedulerHarness harness(options);
  FakeScript* script = harness.AddModel();
  script->SetDurations(2 * kSecond, kSecond, 3 * kSecond);
  script->step_gate()->Close();
  auto other = harness.Submit(harness.Request("other", 2));
  script->step_gate()->AwaitBlocked();
  auto reader = harness.Submit(harness.Request("a", 3));
  script->step_gate()->Open();
  const auto completed = reader->Await<CompletedEvent>();
  // Submitted after 2 s; started after the other's first step (1 s); prepared (2 s); one step of both; the other is
  // decoded (3 s); two steps alone; decoded.
  EXPECT_EQ(completed.timings.queue, 1 * kSecond);
  EXPECT_EQ(completed.timings.prepare, 2 * kSecond);
  EXPECT_EQ(completed.timings.denoise, (1 + 3 + 2) * kSecond);
  EXPECT_EQ(completed.timings.decode, 3 * kSecond);
  EXPECT_EQ(completed.timings.encode, 0 * kSecond);
  EXPECT_EQ(completed.timings.total, (1 + 2 + 6 + 3) * kSecond);
  EXPECT_EQ(completed.batch_size_min, 1);
  EXPECT_EQ(completed.batch_size_max, 2);
  EXPECT_DOUBLE_EQ(completed.batch_size_mean, 4.0 / 3);
  EXPECT_EQ(completed.peak_memory_bytes, 3000);  // of the step of two
  EXPECT_THAT(completed.warnings, IsEmpty());
}

TEST(SchedulerTest, PeakMemoryIsOfTheRequestsOwnTime) {
  SchedulerHarness harness;
  harness.AddModel();
  EXPECT_EQ(harness.Submit(harness.Request("four", 2, 4))->Await<CompletedEvent>().peak_memory_bytes, 5000);
  EXPECT_EQ(harness.Submit(harness.Request("one", 2, 1))->Await<CompletedEvent>().peak_memory_bytes, 2000);
}

TEST(SchedulerTest, AWarningIsToldOnce) {
  SchedulerHarness harness;
  harness.AddModel();
  GenerationRequest request = harness.Request("a", 1, 3);
  for (ImageSpec& spec : request.images) spec.prompt = std::string(100, 'x');
  const auto completed = harness.Submit(request)->Await<CompletedEvent>();
  ASSERT_THAT(completed.warnings, SizeIs(1));
  EXPECT_EQ(completed.warnings[0].field, "prompt");
}

TEST(SchedulerTest, PreviewsComeWithEveryNthStep) {
  SchedulerHarness harness;
  harness.AddModel();
  GenerationRequest request = harness.Sized(harness.Request("a", 6), 64);
  request.preview_every = 2;
  request.preview_max_side = 48;
  const auto progress = EventsOf<ProgressEvent>(harness.Submit(request)->Rest());
  ASSERT_THAT(progress, SizeIs(6));
  for (int i = 0; i < 6; ++i) {
    EXPECT_EQ(progress[i].step, i + 1);
    ASSERT_EQ(progress[i].preview.has_value(), (i + 1) % 2 == 0) << "step " << i + 1;
    if (!progress[i].preview) continue;
    const uint8_t step = i + 1;  // what the fake engine paints
    EXPECT_EQ(progress[i].preview->bytes, PictureText(48, 48, {step, step, step}));
    EXPECT_EQ(progress[i].preview->mime_type, "image/jpeg");
  }
}

TEST(SchedulerTest, TheDeviceDoesNotWaitForTheEncoder) {
  SchedulerHarness harness;
  FakeScript* script = harness.AddModel();
  harness.image_gate.Close();
  harness.preview_gate.Close();
  GenerationRequest request = harness.Request("a", 2);
  request.preview_every = 1;
  auto first = harness.Submit(request);
  harness.preview_gate.AwaitBlocked();
  auto second = harness.Submit(harness.Request("b", 3));
  while (second->Await<ProgressEvent>().step < 3) {
  }
  EXPECT_THAT(script->steps(), SizeIs(::testing::Ge(3u)));
  harness.OpenGates();
  EXPECT_TRUE(first->Result().ok());
  EXPECT_TRUE(second->Result().ok());
}

TEST(SchedulerTest, NoMorePicturesAreDrawnThanTheEncoderCanTake) {
  SchedulerOptions options;
  options.max_batch = 1;
  SchedulerHarness harness(options);
  FakeScript* script = harness.AddModel();
  harness.image_gate.Close();
  script->step_gate()->Close();
  std::vector<std::unique_ptr<EventReader>> readers;
  for (int i = 0; i < 5; ++i) readers.push_back(harness.Submit(harness.Request("r" + std::to_string(i), 1)));
  script->step_gate()->Open();
  readers[2]->Await<ProgressEvent>();
  harness.image_gate.AwaitBlocked();
  ASSERT_TRUE(harness.scheduler->Cancel("", "r4", absl::OkStatus()).ok());  // waits: r3, too, has to
  EXPECT_EQ(readers[4]->Result().code(), absl::StatusCode::kCancelled);
  EXPECT_THAT(script->steps(), SizeIs(3));
  EXPECT_THAT(script->calls(), Not(Contains("finish r2")));
  harness.image_gate.Open();
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(readers[i]->Result().ok());
}

TEST(SchedulerTest, PicturesCarryHowTheyCameToBe) {
  SchedulerOptions options;
  options.software = "fresco 9.9";
  SchedulerHarness harness(options, EncodeImage);
  harness.AddModel();
  GenerationRequest request = harness.Request("an apple", 2);
  request.images[0].seed = 77;
  request.encode.metadata = {{"Request", "r-1"}};
  const auto image = harness.Submit(request)->Await<ImageEvent>();
  EXPECT_EQ(image.provenance.model, "fake");
  EXPECT_EQ(image.provenance.weights_digest, "sha256:0000");
  EXPECT_EQ(image.provenance.precision, "fp32");
  EXPECT_EQ(image.provenance.device, "cpu");
  EXPECT_EQ(image.provenance.software, "fresco 9.9");
  EXPECT_EQ(image.provenance.sampler, "flow-match-euler");
  EXPECT_EQ(image.provenance.batch_size_min, 1);
  const auto decoded = DecodeImage(image.image.bytes);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  const std::vector<uint8_t> colour = FakeColour(request.images[0]);
  EXPECT_TRUE(std::equal(colour.begin(), colour.end(), decoded->image.rgb.begin()));
  EXPECT_THAT(decoded->metadata, ::testing::Contains(::testing::Pair("Request", "r-1")));
  EXPECT_THAT(decoded->metadata, ::testing::Contains(::testing::Pair("parameters", HasSubstr("Seed: 77"))));
  EXPECT_THAT(decoded->metadata, ::testing::Contains(::testing::Pair("fresco:provenance", HasSubstr("\"seed\":77"))));
}

TEST(SchedulerTest, TheObserverHearsOfEverything) {
  SchedulerOptions options;
  options.costs = FlatCosts(kSecond);
  SchedulerHarness harness(options);
  FakeScript* script = harness.AddModel();
  script->SetDurations(2 * kSecond, kSecond, 3 * kSecond);
  GenerationRequest request = harness.Request("a", 3, 2);
  request.preview_every = 3;
  EXPECT_TRUE(harness.Submit(request)->Result().ok());
  harness.Settle();
  const auto stages = harness.observer.stages();
  EXPECT_THAT(stages.at("prepare"), ElementsAre(2 * kSecond, 2 * kSecond));
  EXPECT_THAT(stages.at("denoise"), ElementsAre(3 * kSecond, 3 * kSecond));
  EXPECT_THAT(stages.at("decode"), ElementsAre(3 * kSecond, 3 * kSecond));
  EXPECT_THAT(stages.at("preview"), SizeIs(2));
  EXPECT_THAT(stages.at("encode"), SizeIs(2));
  EXPECT_THAT(harness.observer.batches(), ElementsAre(2, 2, 2));
  EXPECT_EQ(harness.observer.images(), 2);
  EXPECT_THAT(harness.observer.waits(), ElementsAre(0 * kSecond));
  EXPECT_EQ(harness.observer.depth("fake/standard"), 0);
  EXPECT_EQ(harness.observer.running(), 0);
  ASSERT_THAT(harness.observer.done(), SizeIs(1));
  EXPECT_EQ(harness.observer.done()[0].id, "a");
  EXPECT_EQ(harness.observer.done()[0].code, absl::StatusCode::kOk);
  EXPECT_EQ(harness.observer.done()[0].duration, (2 + 3 + 6) * kSecond);  // prepared together, decoded one by one
}

TEST(SchedulerTest, TheSnapshotShowsWhatWaitsAndWhatRuns) {
  SchedulerOptions options;
  options.max_batch = 2;
  SchedulerHarness harness(options);
  FakeScript* script = harness.AddModel();
  script->step_gate()->Close();
  auto running = harness.Submit(harness.Request("running", 5, 2));
  GenerationRequest request = harness.Request("waiting", 3);
  request.tenant = "t";
  request.priority = RequestPriority::kBatch;
  auto waiting = harness.Submit(request);
  script->step_gate()->Allow(2);
  script->step_gate()->AwaitArrivals(3);
  const SchedulerSnapshot snapshot = harness.scheduler->Snapshot();
  EXPECT_EQ(snapshot.waiting, 1);
  EXPECT_EQ(snapshot.running, 1);
  EXPECT_FALSE(snapshot.draining);
  ASSERT_THAT(snapshot.devices, SizeIs(1));
  EXPECT_EQ(snapshot.devices[0].device, "cpu");
  EXPECT_EQ(snapshot.devices[0].batch_size, 2);
  EXPECT_THAT(snapshot.devices[0].models, ElementsAre("fake"));
  ASSERT_THAT(snapshot.requests, SizeIs(2));
  for (const RequestSnapshot& seen : snapshot.requests) {
    const bool is_waiting = seen.id == "waiting";
    EXPECT_EQ(seen.waiting, is_waiting);
    EXPECT_EQ(seen.tenant, is_waiting ? "t" : "");
    EXPECT_EQ(seen.priority, is_waiting ? RequestPriority::kBatch : RequestPriority::kStandard);
    EXPECT_EQ(seen.image_count, is_waiting ? 1 : 2);
    EXPECT_EQ(seen.steps_done, is_waiting ? 0 : 4);
    EXPECT_EQ(seen.total_steps, is_waiting ? 3 : 10);
  }
  harness.OpenGates();
  EXPECT_TRUE(running->Result().ok());
  EXPECT_TRUE(waiting->Result().ok());
}

// One model on both: a step of the slow one tells nothing of the fast one.
TEST(SchedulerTest, WhatIsLearnedOfStepsIsOfATypeOfDevices) {
  SchedulerHarness harness;
  harness.AddModel("fake", "cpu")->SetDurations({}, 10 * kSecond, {});
  EXPECT_TRUE(harness.Submit(harness.Request("a"))->Result().ok());
  harness.AddModel("fake", "cuda:1")->SetDurations({}, kSecond, {});
  Gate removed;
  const auto told = [&](const absl::Status&) { removed.Pass(); };
  ASSERT_TRUE(harness.scheduler->RemoveModel("fake", "cpu", Removal::kWhenDone, told).ok());
  removed.AwaitPassed(1);
  EXPECT_TRUE(harness.Submit(harness.Request("b"))->Result().ok());
  const std::vector<MeasuredStep> measured = harness.scheduler->Costs().Measured();
  ASSERT_THAT(measured, SizeIs(2));
  EXPECT_EQ(measured[0].type, "cpu");
  EXPECT_EQ(measured[0].seconds, 10);
  EXPECT_EQ(measured[1].type, "cuda");
  EXPECT_EQ(measured[1].seconds, 1);
}

TEST(SchedulerTest, WhatIsLearnedOfStepsCanBeKept) {
  SchedulerHarness harness;
  FakeScript* script = harness.AddModel();
  script->SetDurations({}, 2 * kSecond, {});
  EXPECT_TRUE(harness.Submit(harness.Request("a", 4))->Result().ok());
  const std::vector<MeasuredStep> measured = harness.scheduler->Costs().Measured();
  ASSERT_THAT(measured, SizeIs(1));
  EXPECT_EQ(measured[0].model, "fake");
  EXPECT_EQ(measured[0].rows, 2);  // with guidance
  EXPECT_EQ(measured[0].seconds, 2);
  EXPECT_EQ(measured[0].count, 4);
  // Of the fake engine's 2000 bytes in such a step, 1000 are weights and 10 the image's own.
  EXPECT_EQ(measured[0].activation_bytes, 990);
}

}  // namespace
}  // namespace fresco
