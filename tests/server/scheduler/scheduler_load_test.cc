// The scheduler under pressure: a full queue, slow readers, draining, shutting down, several devices and models, many
// threads.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
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
using ::testing::UnorderedElementsAre;

const absl::Duration kSecond = absl::Seconds(1);

TEST(SchedulerLoadTest, AFullQueueRefusesAndSaysWhenToComeBack) {
  SchedulerOptions options;
  options.max_batch = 1;
  options.max_queue = 2;
  SchedulerHarness harness(options);
  FakeScript* script = harness.AddModel();
  script->SetDurations({}, kSecond, {});
  EXPECT_TRUE(harness.Submit(harness.Request("warm-up", 4))->Result().ok());
  script->step_gate()->Close();
  auto running = harness.Submit(harness.Request("running", 30));
  script->step_gate()->AwaitArrivals(5);
  auto one = harness.Submit(harness.Request("one"));
  auto two = harness.scheduler->Submit(harness.Request("two"));
  ASSERT_TRUE(two.ok());
  const absl::Status refused = harness.scheduler->Submit(harness.Request("three")).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("2 requests are waiting"));
  EXPECT_EQ(RetryAfter(refused), 30 * kSecond);  // when the next of those that wait starts
  EXPECT_THAT(harness.observer.counts(), ElementsAre(Pair("fake queue_full", 1)));
  // Whoever has gone away makes room.
  (*two)->Close();
  auto three = harness.Submit(harness.Request("three"));
  script->step_gate()->Open();
  EXPECT_TRUE(one->Result().ok());
  EXPECT_TRUE(three->Result().ok());
}

TEST(SchedulerLoadTest, ASlowReaderGetsAllPicturesThoughFewerPreviewsAndSteps) {
  SchedulerOptions options;
  options.channel_bytes = 2'000;
  SchedulerHarness harness(options);
  harness.AddModel();
  GenerationRequest request = harness.Request("slow", 20, 2);
  request.preview_every = 1;
  const auto channel = harness.scheduler->Submit(request);
  ASSERT_TRUE(channel.ok());
  harness.Settle();  // nothing is read until all is over
  const std::vector<RequestEvent> events = EventReader(*channel).Rest();
  EXPECT_TRUE(std::holds_alternative<CompletedEvent>(events.back()));
  EXPECT_THAT(EventsOf<ImageEvent>(events), SizeIs(2));
  const auto progress = EventsOf<ProgressEvent>(events);
  EXPECT_LT(progress.size(), 12u);
  std::vector<int> last = {0, 0};
  for (const ProgressEvent& event : progress) {
    EXPECT_GT(event.step, last[event.image_index]);
    last[event.image_index] = event.step;
  }
  EXPECT_THAT(last, ElementsAre(20, 20));
}

TEST(SchedulerLoadTest, AStalledReaderEndsItsOwnCallOnly) {
  SchedulerOptions options;
  options.channel_bytes = 600;
  options.slow_reader_limit = 30 * kSecond;
  options.costs = FlatCosts(10 * kSecond);
  SchedulerHarness harness(options);
  FakeScript* script = harness.AddModel();
  script->SetDurations({}, 10 * kSecond, {});
  script->step_gate()->Close();
  auto reading = harness.Submit(harness.Request("reading", 12));
  script->step_gate()->AwaitBlocked();
  const auto stalled = harness.scheduler->Submit(harness.Request("stalled", 12));
  ASSERT_TRUE(stalled.ok());
  for (int step = 1; step <= 12; ++step) {
    script->step_gate()->Allow(1);
    EXPECT_EQ(reading->Await<ProgressEvent>().step, step);
  }
  script->step_gate()->Open();
  EXPECT_TRUE(reading->Result().ok());
  const absl::Status status = EventReader(*stalled).Result();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("read nothing for 30s"));
  EXPECT_EQ(script->live_jobs(), 0);
}

TEST(SchedulerLoadTest, TheDeviceDoesNotWaitForThoseWhoAreToldTheirNewPlace) {
  SchedulerOptions options;
  options.max_batch = 1;
  SchedulerHarness harness(options);
  FakeScript* script = harness.AddModel();
  script->step_gate()->Close();
  auto first = harness.Submit(harness.Request("first", 1));
  script->step_gate()->AwaitBlocked();
  auto second = harness.Submit(harness.Request("second", 1));
  const auto third = harness.scheduler->Submit(harness.Request("third", 1));
  ASSERT_TRUE(third.ok());
  EXPECT_EQ(std::get<QueuedEvent>(*(*third)->Next()).position, 1);
  Gate slow;
  slow.Close();
  (*third)->SetReadyCallback([&] { slow.Pass(); });
  script->step_gate()->Allow(1);
  slow.AwaitBlocked();
  script->step_gate()->AwaitArrivals(2);  // second's step, while third is being told that it is next
  slow.Open();
  script->step_gate()->Open();
  const std::vector<RequestEvent> events = EventReader(*third).Rest();
  EXPECT_EQ(std::get<QueuedEvent>(events.front()).position, 0);
  EXPECT_THAT(EventsOf<QueuedEvent>(events), SizeIs(1));
  EXPECT_TRUE(std::holds_alternative<StartedEvent>(events[1]));
  EXPECT_TRUE(first->Result().ok());
  EXPECT_TRUE(second->Result().ok());
}

TEST(SchedulerLoadTest, WhoFloodsTheQueueLeavesRoomForOthers) {
  SchedulerOptions options;
  options.max_batch = 1;
  options.costs = FlatCosts(kSecond);
  SchedulerHarness harness(options);
  FakeScript* script = harness.AddModel();
  script->step_gate()->Close();
  std::vector<std::unique_ptr<EventReader>> readers;
  absl::Status refused;
  for (int i = 0; refused.ok(); ++i) {
    GenerationRequest request = harness.Request("greedy" + std::to_string(i), 4);
    request.tenant = "greedy";
    auto channel = harness.scheduler->Submit(request);
    refused = channel.status();
    if (channel.ok()) readers.push_back(std::make_unique<EventReader>(*channel));
    script->step_gate()->AwaitBlocked();
  }
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("too much of this caller is waiting"));
  EXPECT_TRUE(RetryAfter(refused).has_value());
  EXPECT_THAT(harness.observer.counts(), ElementsAre(Pair("fake tenant_share", 1)));
  GenerationRequest request = harness.Request("modest", 4);
  request.tenant = "modest";
  readers.push_back(harness.Submit(request));
  script->step_gate()->Open();
  for (auto& reader : readers) EXPECT_TRUE(reader->Result().ok());
}

TEST(SchedulerLoadTest, DrainRefusesFinishesAndTells) {
  SchedulerHarness harness;
  FakeScript* script = harness.AddModel();
  script->step_gate()->Close();
  auto running = harness.Submit(harness.Request("running"));
  script->step_gate()->AwaitBlocked();
  EXPECT_FALSE(harness.scheduler->Drain(harness.clock.Now()));
  const absl::Status refused = harness.scheduler->Submit(harness.Request("new")).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(RetryAfter(refused).has_value());
  EXPECT_TRUE(harness.scheduler->Snapshot().draining);

  const absl::Time deadline = harness.clock.Now() + 5 * kSecond;
  std::thread waiting([&] { EXPECT_FALSE(harness.scheduler->Drain(deadline)); });
  harness.clock.AwaitWaiter(deadline);
  harness.clock.Advance(5 * kSecond);
  waiting.join();

  script->step_gate()->Open();
  EXPECT_TRUE(harness.scheduler->Drain(absl::InfiniteFuture()));
  EXPECT_TRUE(running->Result().ok());
}

TEST(SchedulerLoadTest, TheDestructorEndsWhatIsLeft) {
  SchedulerOptions options;
  options.max_batch = 2;
  SchedulerHarness harness(options);
  FakeScript* script = harness.AddModel();
  script->step_gate()->Close();
  auto running = harness.Submit(harness.Request("running", 50, 3));
  script->step_gate()->AwaitBlocked();
  auto waiting = harness.Submit(harness.Request("waiting", 50));
  std::thread closing([&] { harness.scheduler.reset(); });
  EXPECT_EQ(waiting->Result().code(), absl::StatusCode::kUnavailable);  // while the device is still at it
  script->step_gate()->Open();
  EXPECT_EQ(running->Result().code(), absl::StatusCode::kUnavailable);
  closing.join();
  EXPECT_EQ(script->live_jobs(), 0);
  EXPECT_THAT(script->steps(), SizeIs(1));
  EXPECT_THAT(harness.observer.done(), SizeIs(2));
}

TEST(SchedulerLoadTest, ModelsThatAreNotLoadedAreUnavailable) {
  SchedulerHarness harness;
  absl::Status refused = harness.scheduler->Submit(harness.Request("a")).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(RetryAfter(refused).has_value());
  const auto fails = []() -> absl::StatusOr<std::unique_ptr<Engine>> { return absl::NotFoundError("no such file"); };
  EXPECT_EQ(harness.Load("fake", "cpu", fails).code(), absl::StatusCode::kNotFound);
  const auto throws = []() -> absl::StatusOr<std::unique_ptr<Engine>> {
    throw std::runtime_error("thrown by the loader");
  };
  EXPECT_EQ(harness.Load("fake", "cpu", throws).code(), absl::StatusCode::kInternal);
  refused = harness.scheduler->Submit(harness.Request("a")).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable);
  harness.AddModel();
  EXPECT_EQ(harness.Load("fake", "cpu", fails).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(harness.Submit(harness.Request("a"))->Result().ok());
}

TEST(SchedulerLoadTest, TwoDevicesDrawOneModelAtTheSameTime) {
  SchedulerHarness harness;
  FakeScript* one = harness.AddModel("fake", "cuda:0");
  FakeScript* two = harness.AddModel("fake", "cuda:1");
  one->step_gate()->Close();
  two->step_gate()->Close();
  SchedulerOptions options;
  std::vector<std::unique_ptr<EventReader>> readers;
  // More images than one device takes at a time, so that both have work.
  for (int i = 0; i < 4; ++i)
    readers.push_back(harness.Submit(harness.Request("r" + std::to_string(i), 2, options.max_batch)));
  one->step_gate()->AwaitBlocked();
  two->step_gate()->AwaitBlocked();
  harness.OpenGates();
  std::set<std::string> devices;
  for (auto& reader : readers) {
    const std::vector<RequestEvent> events = reader->Rest();
    EXPECT_THAT(EventsOf<StartedEvent>(events), SizeIs(1));
    // Not where each request starts: its first image may be on the same device in all of them.
    for (const ImageEvent& image : EventsOf<ImageEvent>(events)) devices.insert(image.provenance.device);
    EXPECT_TRUE(std::holds_alternative<CompletedEvent>(events.back()));
  }
  EXPECT_THAT(devices, UnorderedElementsAre("cuda:0", "cuda:1"));
}

TEST(SchedulerLoadTest, ImagesOfOneRequestSpreadOverTheDevices) {
  SchedulerOptions options;
  options.max_batch = 1;
  SchedulerHarness harness(options);
  FakeScript* one = harness.AddModel("fake", "cuda:0");
  FakeScript* two = harness.AddModel("fake", "cuda:1");
  one->step_gate()->Close();
  two->step_gate()->Close();
  const GenerationRequest request = harness.Request("r", 2, 4);
  auto reader = harness.Submit(request);
  one->step_gate()->AwaitBlocked();
  two->step_gate()->AwaitBlocked();
  harness.OpenGates();
  const std::vector<RequestEvent> events = reader->Rest();
  EXPECT_TRUE(std::holds_alternative<CompletedEvent>(events.back()));
  EXPECT_THAT(EventsOf<StartedEvent>(events), SizeIs(1));
  std::set<std::string> devices;
  std::set<int> images;
  for (const ImageEvent& image : EventsOf<ImageEvent>(events)) {
    devices.insert(image.provenance.device);
    images.insert(image.image_index);
    EXPECT_EQ(image.image.bytes, PictureText(16, 16, FakeColour(request.images[image.image_index])));
  }
  EXPECT_THAT(devices, UnorderedElementsAre("cuda:0", "cuda:1"));
  EXPECT_THAT(images, UnorderedElementsAre(0, 1, 2, 3));
}

TEST(SchedulerLoadTest, WhatIsPausedGoesOnOnADeviceThatIsFree) {
  SchedulerHarness harness;
  harness.AddModel("fake", "cuda:0");
  harness.AddModel("fake", "cuda:1");
  for (const auto& [device, script] : harness.scripts) script->step_gate()->Close();
  auto moved = harness.Submit(harness.Request("m", 3));
  auto other = harness.Submit(harness.Sized(harness.Request("o", 1), 32));
  for (const auto& [device, script] : harness.scripts) script->step_gate()->AwaitBlocked();
  FakeScript* here = harness.scripts["cuda:0"].get();
  FakeScript* there = harness.scripts["cuda:1"].get();
  if (StepTexts(*here).front() != "m0") std::swap(here, there);
  GenerationRequest request = harness.Sized(harness.Request("u", 1000), 48);
  request.priority = RequestPriority::kInteractive;
  auto urgent = harness.Submit(request);
  // It takes the place of the first, until the other device is free for that.
  here->step_gate()->Allow(1);
  here->step_gate()->AwaitArrivals(2);
  EXPECT_EQ(StepTexts(*here).back(), "u0");
  there->step_gate()->Open();
  EXPECT_TRUE(other->Result().ok());
  for (int step = 1; there->resumes() == 0 && step < 1000; ++step) {
    here->step_gate()->Allow(1);
    here->step_gate()->AwaitArrivals(2 + step);
  }
  const std::vector<RequestEvent> events = moved->Rest();
  EXPECT_TRUE(std::holds_alternative<CompletedEvent>(events.back()));
  EXPECT_THAT(StepTexts(*there), ElementsAre("o0", "m1", "m2"));
  EXPECT_EQ(here->parks(), 1);
  ASSERT_TRUE(harness.scheduler->Cancel("", "u", absl::OkStatus()).ok());
}

TEST(SchedulerLoadTest, TwoModelsShareADevice) {
  SchedulerHarness harness;
  FakeScript* script = harness.AddModel("fake", "cpu");
  harness.AddModel("other", "cpu");
  script->prepare_gate()->Close();
  auto hold = harness.Submit(harness.Request("h", 1));
  script->prepare_gate()->AwaitBlocked();
  auto first = harness.Submit(harness.Request("a", 3));
  GenerationRequest request = harness.Request("b", 3);
  request.model = "other";
  auto second = harness.Submit(request);
  EXPECT_EQ(second->Await<QueuedEvent>().position, 1);  // they share the device
  script->prepare_gate()->Open();
  EXPECT_TRUE(first->Result().ok());
  EXPECT_EQ(second->Await<ImageEvent>().provenance.model, "other");
  EXPECT_THAT(StepTexts(*script), ElementsAre("h0", "a0", "a1", "a2", "b0", "b1", "b2"));
}

// Queued*, Started, whatever else but neither of them again.
bool PlacesComeBeforeTheStart(const std::vector<RequestEvent>& events) {
  const auto waits = [](const RequestEvent& event) { return std::holds_alternative<QueuedEvent>(event); };
  const auto start = std::find_if_not(events.begin(), events.end(), waits);
  const auto starts = EventsOf<StartedEvent>(events).size();
  return std::none_of(start, events.end(), waits) && start != events.begin() && starts <= 1 &&
         (starts == 0 || std::holds_alternative<StartedEvent>(*start));
}

TEST(SchedulerLoadTest, ManyThreads) {
  constexpr int kThreads = 8;
  constexpr int kRequests = 40;
  SchedulerOptions options;
  options.max_batch = 4;
  options.max_queue = 16;
  options.encode_threads = 2;
  SchedulerHarness harness(options);
  harness.AddModel("fake", "one");
  harness.AddModel("fake", "two");
  harness.AddModel("other", "two");
  harness.scripts["two"]->Fail("bad", FakeScript::Stage::kStep, absl::DataLossError("not finite"), 1);
  std::atomic<int> accepted = 0;
  std::atomic<int> ended = 0;
  const auto submit_some = [&](int thread) {
    std::mt19937 random(thread);
    for (int i = 0; i < kRequests; ++i) {
      GenerationRequest request =
          SchedulerHarness::Request(absl::StrCat(thread, "-", i), 1 + random() % 4, 1 + random() % 3);
      request.model = random() % 3 == 0 ? "other" : "fake";
      request.priority = static_cast<RequestPriority>(random() % 3);
      request.preview_every = random() % 3;
      if (random() % 5 == 0) request.images[0].prompt = "bad";
      if (random() % 4 == 0) request = SchedulerHarness::Sized(std::move(request), 32);
      const std::string id = request.id;
      const auto channel = harness.scheduler->Submit(std::move(request));
      if (!channel.ok()) {
        EXPECT_EQ(channel.status().code(), absl::StatusCode::kResourceExhausted);
        EXPECT_TRUE(RetryAfter(channel.status()).has_value());
        continue;
      }
      ++accepted;
      const int what = random() % 4;
      if (what == 0) (void)harness.scheduler->Cancel("", id, absl::CancelledError("never mind"));
      if (what == 1) {
        (*channel)->Close();
      } else {
        EXPECT_TRUE(PlacesComeBeforeTheStart(EventReader(*channel).Rest())) << id;
      }
      ++ended;
      (void)harness.scheduler->Snapshot();
    }
  };
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) threads.emplace_back(submit_some, t);
  for (std::thread& thread : threads) thread.join();
  harness.Settle();
  EXPECT_EQ(accepted, ended);
  EXPECT_THAT(harness.observer.done(), SizeIs(accepted.load()));
  std::set<std::string> ids;
  for (const auto& done : harness.observer.done()) EXPECT_TRUE(ids.insert(done.id).second) << done.id;
  EXPECT_EQ(harness.observer.running(), 0);
  for (const char* key :
       {"fake/interactive", "fake/standard", "fake/batch", "other/interactive", "other/standard", "other/batch"}) {
    EXPECT_LE(harness.observer.depth(key), 0) << key;
  }
  for (const auto& [device, script] : harness.scripts) EXPECT_EQ(script->live_jobs(), 0) << device;
  EXPECT_EQ(harness.scheduler->Snapshot().requests.size(), 0u);
}

}  // namespace
}  // namespace fresco
