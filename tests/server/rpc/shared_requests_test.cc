#include "server/rpc/shared_requests.h"

#include <atomic>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/event_reader.h"
#include "tests/support/fake_clock.h"

namespace fresco {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Role = SharedRequests::Role;
using Seat = SharedRequests::Seat;

constexpr absl::Duration kKeep = absl::Seconds(60);

ImageEvent Picture(int index, int64_t bytes) {
  ImageEvent event;
  event.image_index = index;
  event.image.bytes = std::string(static_cast<size_t>(bytes), 'i');
  return event;
}

ProgressEvent Step(int index, int step) {
  ProgressEvent event;
  event.image_index = index;
  event.step = step;
  event.preview = EncodedImage{std::string(100, 'p'), "image/jpeg", 1, 1};
  return event;
}

std::string TextOf(const RequestEvent& event) {
  if (const auto* queued = std::get_if<QueuedEvent>(&event))
    return absl::StrCat("queued ", queued->position, " ", absl::FormatDuration(queued->estimated_wait));
  if (const auto* started = std::get_if<StartedEvent>(&event)) return absl::StrCat("started ", started->device);
  if (const auto* progress = std::get_if<ProgressEvent>(&event))
    return absl::StrCat("step ", progress->image_index, ".", progress->step, progress->preview ? " seen" : "");
  if (const auto* image = std::get_if<ImageEvent>(&event)) return absl::StrCat("image ", image->image_index);
  if (const auto* failed = std::get_if<FailedEvent>(&event)) return std::string(failed->status.message());
  return "completed";
}

// What is in the channel now.
std::vector<std::string> Read(const Seat& seat) {
  std::vector<std::string> texts;
  while (auto event = seat.channel->Next()) texts.push_back(TextOf(*event));
  return texts;
}

class SharedRequestsTest : public testing::Test {
 protected:
  explicit SharedRequestsTest(ResultsConfig results = {kKeep, 100'000, true}) {
    SharedRequestsDependencies dependencies;
    dependencies.clock = &clock_;
    dependencies.cancel = [this](const EventChannel& source, const absl::Status& reason) {
      EXPECT_TRUE(source.closed());
      MutexLock lock(&mutex_);
      cancelled_.emplace_back(reason.message());
    };
    dependencies.extend_deadline = [this](const EventChannel&, absl::Time deadline) {
      MutexLock lock(&mutex_);
      extended_.push_back(deadline);
    };
    dependencies.on_held = [this](int64_t bytes) {
      MutexLock lock(&mutex_);
      held_ = bytes;
      changed_.NotifyAll();
    };
    shared_ = SharedRequests::Start({results, 1 << 20}, dependencies);
  }
  ~SharedRequestsTest() override { shared_->Stop(); }

  absl::StatusOr<Seat> TryEnter(const std::string& tenant, const std::string& id, const std::string& prompt = "a",
                                absl::Time deadline = absl::InfiniteFuture()) {
    return shared_->Enter(tenant, {id, "Generate", {{"prompt", prompt}}}, deadline, nullptr);
  }
  Seat Enter(const std::string& tenant, const std::string& id) { return TryEnter(tenant, id).value(); }

  // A whole request; its pictures have so many bytes.
  void Draw(const std::string& tenant, const std::string& id, int64_t bytes) {
    const Seat seat = Enter(tenant, id);
    ASSERT_EQ(seat.role, Role::kFirst) << id;
    for (RequestEvent event : std::initializer_list<RequestEvent>{QueuedEvent{}, StartedEvent{"cpu"}, Step(0, 1),
                                                                  Picture(0, bytes), CompletedEvent{}}) {
      seat.source->Put(std::move(event), clock_.Now());
    }
    EXPECT_EQ(Read(seat).back(), "completed");
  }

  // Whether what was drawn is there; asking draws nothing.
  bool IsKept(const std::string& tenant, const std::string& id) {
    const Seat seat = Enter(tenant, id);
    if (seat.role != Role::kServed) shared_->Leave(seat, absl::CancelledError("only asked"));
    return seat.role == Role::kServed;
  }

  int64_t held() const {
    MutexLock lock(&mutex_);
    return held_;
  }
  void AwaitHeld(int64_t bytes) {
    MutexLock lock(&mutex_);
    while (held_ != bytes) changed_.Wait(&mutex_);
  }
  std::vector<std::string> cancelled() const {
    MutexLock lock(&mutex_);
    return cancelled_;
  }
  std::vector<absl::Time> extended() const {
    MutexLock lock(&mutex_);
    return extended_;
  }

  FakeClock clock_;
  mutable Mutex mutex_;
  CondVar changed_;
  std::vector<std::string> cancelled_ FRESCO_GUARDED_BY(mutex_);
  std::vector<absl::Time> extended_ FRESCO_GUARDED_BY(mutex_);
  int64_t held_ FRESCO_GUARDED_BY(mutex_) = 0;
  std::shared_ptr<SharedRequests> shared_;
};

TEST_F(SharedRequestsTest, WhoComesLaterIsToldWhereTheRequestStands) {
  const Seat first = Enter("", "x");
  EXPECT_EQ(first.role, Role::kFirst);
  const Seat early = Enter("", "x");
  EXPECT_EQ(early.role, Role::kJoined);
  EXPECT_THAT(Read(early), IsEmpty());
  first.source->Put(QueuedEvent{3, absl::Seconds(10)}, clock_.Now());
  clock_.Advance(absl::Seconds(4));
  const Seat queued = Enter("", "x");
  EXPECT_THAT(Read(queued), ElementsAre("queued 3 6s"));
  first.source->Put(StartedEvent{"cuda:1"}, clock_.Now());
  for (int step = 1; step <= 2; ++step) {
    for (int image = 0; image < 2; ++image) first.source->Put(Step(image, step), clock_.Now());
  }
  first.source->Put(Picture(1, 10), clock_.Now());
  const Seat late = Enter("", "x");
  EXPECT_THAT(Read(late), ElementsAre("queued 0 0", "started cuda:1", "image 1", "step 0.2"));
  first.source->Put(Step(0, 3), clock_.Now());
  first.source->Put(Picture(0, 10), clock_.Now());
  first.source->Put(CompletedEvent{}, clock_.Now());
  EXPECT_THAT(Read(late), ElementsAre("step 0.3 seen", "image 0", "completed"));
  for (const Seat& seat : {first, early}) {
    EXPECT_THAT(Read(seat),
                ElementsAre("queued 3 10s", "started cuda:1", "step 0.1 seen", "step 1.1 seen", "step 0.2 seen",
                            "step 1.2 seen", "image 1", "step 0.3 seen", "image 0", "completed"));
  }
  const Seat after = Enter("", "x");
  EXPECT_EQ(after.role, Role::kServed);
  EXPECT_THAT(Read(after), ElementsAre("queued 0 0", "started cuda:1", "image 1", "image 0", "completed"));
}

TEST_F(SharedRequestsTest, WhatIsKeptGoesWhenItsTimeHasCome) {
  Draw("", "x", 1000);
  EXPECT_GT(held(), 1000);
  clock_.Advance(kKeep - absl::Seconds(1));
  EXPECT_TRUE(IsKept("", "x"));  // which prolongs nothing
  clock_.Advance(absl::Seconds(1));
  AwaitHeld(0);
  EXPECT_FALSE(IsKept("", "x"));
}

TEST_F(SharedRequestsTest, TheOldestMakesRoom) {
  for (int i = 0; i < 5; ++i) Draw("", absl::StrCat(i), 25'000);
  EXPECT_LE(held(), 100'000);
  EXPECT_FALSE(IsKept("", "0"));
  EXPECT_FALSE(IsKept("", "1"));
  for (const char* id : {"2", "3", "4"}) EXPECT_TRUE(IsKept("", id)) << id;
}

TEST_F(SharedRequestsTest, ATenantPushesOutWhatItHoldsMoreThanOthersAndNoMore) {
  for (int i = 0; i < 3; ++i) Draw("one", absl::StrCat(i), 28'000);
  for (int i = 0; i < 9; ++i) Draw("two", absl::StrCat(i), 10'000);
  EXPECT_LE(held(), 100'000);
  EXPECT_FALSE(IsKept("one", "0"));
  EXPECT_FALSE(IsKept("one", "1"));
  EXPECT_TRUE(IsKept("one", "2"));  // it is a third of all
  EXPECT_FALSE(IsKept("two", "0"));
  EXPECT_TRUE(IsKept("two", "8"));
}

TEST_F(SharedRequestsTest, WhatRunsIsHeldTooUntilItIsTooMuch) {
  Draw("one", "kept", 30'000);
  const Seat first = Enter("two", "x");
  first.source->Put(StartedEvent{"cpu"}, clock_.Now());
  first.source->Put(Picture(0, 50'000), clock_.Now());
  const Seat joined = Enter("two", "x");
  EXPECT_EQ(joined.role, Role::kJoined);
  first.source->Put(Picture(1, 50'000), clock_.Now());
  const absl::Status refused = TryEnter("two", "x").status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("results.keep_bytes"));
  first.source->Put(CompletedEvent{}, clock_.Now());
  for (const Seat& seat : {first, joined})
    EXPECT_THAT(Read(seat), testing::IsSupersetOf({"image 0", "image 1", "completed"}));
  EXPECT_FALSE(IsKept("two", "x"));
  EXPECT_TRUE(IsKept("one", "kept"));
}

TEST_F(SharedRequestsTest, TheLatestDeadlineCounts) {
  const absl::Time now = clock_.Now();
  const auto enter = [&](absl::Duration timeout) { return TryEnter("", "x", "a", now + timeout).value(); };
  const Seat first = enter(absl::Seconds(10));
  EXPECT_EQ(shared_->DeadlineOf(first), now + absl::Seconds(10));
  enter(absl::Seconds(20));  // before the scheduler has it
  EXPECT_EQ(shared_->DeadlineOf(first), now + absl::Seconds(20));
  shared_->Submitted(first);
  enter(absl::Seconds(5));
  enter(absl::Seconds(30));
  EXPECT_THAT(extended(), ElementsAre(now + absl::Seconds(20), now + absl::Seconds(20), now + absl::Seconds(30)));
}

TEST_F(SharedRequestsTest, OnlyTheLastWhoLeavesCancels) {
  const Seat first = Enter("", "x"), second = Enter("", "x");
  shared_->Leave(first, absl::CancelledError("one"));
  shared_->Leave(first, absl::CancelledError("one again"));
  EXPECT_THAT(cancelled(), IsEmpty());
  first.source->Put(StartedEvent{"cpu"}, clock_.Now());
  EXPECT_THAT(Read(second), ElementsAre("started cpu"));
  shared_->Leave(second, absl::CancelledError("two"));
  EXPECT_THAT(cancelled(), ElementsAre("two"));
  const Seat third = Enter("", "x");
  EXPECT_EQ(third.role, Role::kFirst);
  // Of the one that was left nothing comes any more.
  first.source->Put(CompletedEvent{}, clock_.Now());
  shared_->Leave(first, absl::CancelledError("one"));
  EXPECT_THAT(Read(third), IsEmpty());
  EXPECT_THAT(cancelled(), ElementsAre("two"));
}

TEST_F(SharedRequestsTest, WhoLeavesWhatHasEndedCancelsNothing) {
  Draw("", "x", 10);
  const Seat served = Enter("", "x");
  shared_->Leave(served, absl::CancelledError("one"));
  EXPECT_TRUE(IsKept("", "x"));
  const Seat failing = Enter("", "y");
  failing.source->Put(FailedEvent{absl::InternalError("broken")}, clock_.Now());
  shared_->Leave(failing, absl::CancelledError("one"));
  EXPECT_THAT(cancelled(), IsEmpty());
}

TEST_F(SharedRequestsTest, ARequestThatIsNotTakenFailsForAll) {
  const Seat first = Enter("", "x"), second = Enter("", "x");
  shared_->Fail(first, absl::ResourceExhaustedError("the queue is full"));
  EXPECT_THAT(Read(second), ElementsAre("the queue is full"));
  EXPECT_TRUE(first.source->closed());
  EXPECT_EQ(Enter("", "x").role, Role::kFirst);
  EXPECT_THAT(cancelled(), IsEmpty());
}

TEST_F(SharedRequestsTest, CancelEndsWhatWaitsOrRunsAndNothingElse) {
  EXPECT_EQ(shared_->Cancel("", "x", absl::CancelledError("stop")).code(), absl::StatusCode::kNotFound);
  const Seat first = Enter("one", "x"), second = Enter("one", "x");
  EXPECT_EQ(shared_->Cancel("two", "x", absl::CancelledError("stop")).code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(shared_->Cancel("one", "x", absl::CancelledError("stop")).ok());
  for (const Seat& seat : {first, second}) {
    EXPECT_THAT(Read(seat), ElementsAre("stop"));
    shared_->Leave(seat, absl::CancelledError("gone"));
  }
  EXPECT_THAT(cancelled(), ElementsAre("stop"));
  Draw("one", "x", 10);
  EXPECT_EQ(shared_->Cancel("one", "x", absl::CancelledError("stop")).code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(IsKept("one", "x"));
}

TEST_F(SharedRequestsTest, SourcesMayOutliveIt) {
  const Seat first = Enter("", "x"), second = Enter("", "y");
  shared_->Stop();
  first.source->Put(StartedEvent{"cpu"}, clock_.Now());
  shared_.reset();
  second.source->Put(CompletedEvent{}, clock_.Now());
  EXPECT_THAT(Read(first), IsEmpty());
  shared_ = SharedRequests::Start({}, {&clock_, nullptr, nullptr, nullptr});
}

// Requests that are drawn, fail, are joined and left at any moment: each reader gets all of it in its order, or an
// error, and what runs is cancelled exactly when nobody reads it.
TEST_F(SharedRequestsTest, AnyInterleavingGivesAllOrAnError) {
  constexpr int kThreads = 6, kRounds = 400, kImages = 3;
  std::atomic<int> wholes = 0, failures = 0, left = 0;
  const auto produce = [this](const Seat& seat, bool fails) {
    seat.source->Put(QueuedEvent{}, clock_.Now());
    seat.source->Put(StartedEvent{"cpu"}, clock_.Now());
    for (int image = 0; image < kImages; ++image) {
      seat.source->Put(Step(image, 1), clock_.Now());
      if (fails && image == 1) seat.source->Put(FailedEvent{absl::InternalError("broken")}, clock_.Now());
      seat.source->Put(Picture(image, 3000), clock_.Now());
    }
    seat.source->Put(CompletedEvent{}, clock_.Now());
  };
  const auto call = [&](std::mt19937* random) {
    const std::string id = absl::StrCat((*random)() % 4);
    const absl::StatusOr<Seat> seat = TryEnter(absl::StrCat((*random)() % 2), id);
    if (!seat.ok()) return;  // too much to be held
    std::thread producer;
    if (seat->role == Role::kFirst && (*random)() % 16 == 0) {
      shared_->Fail(*seat, absl::UnavailableError("not taken"));
      return;
    }
    const bool fails = (*random)() % 4 == 0;
    if (seat->role == Role::kFirst) producer = std::thread([&, fails] { produce(*seat, fails); });
    {
      EventReader reader(seat->channel);
      if ((*random)() % 3 == 0) {
        for (size_t events = (*random)() % 4; events > 0; --events) {
          if (IsLastEvent(reader.Next())) break;
        }
        ++left;
      } else {
        const std::vector<RequestEvent> events = reader.Rest();
        const bool completed = std::holds_alternative<CompletedEvent>(events.back());
        EXPECT_TRUE(std::holds_alternative<QueuedEvent>(events.front()) || !completed);
        if (completed) {
          EXPECT_EQ(EventsOf<ImageEvent>(events).size(), size_t{kImages});
        }
        ++(completed ? wholes : failures);
      }
    }
    shared_->Leave(*seat, absl::CancelledError("gone"));
    if (producer.joinable()) producer.join();
    if ((*random)() % 32 == 0) clock_.Advance(kKeep);
  };
  std::vector<std::thread> threads;
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      std::mt19937 random(thread);
      for (int round = 0; round < kRounds; ++round) call(&random);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(wholes, 0);
  EXPECT_GT(failures, 0);
  EXPECT_GT(left, 0);
  EXPECT_LE(held(), 100'000);
  clock_.Advance(kKeep);
  AwaitHeld(0);
}

}  // namespace
}  // namespace fresco
