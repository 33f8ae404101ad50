// The scheduler's small parts: ordered calls, retry times, a request's output.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "pipeline/base/status.h"
#include "server/scheduler/ordered_calls.h"
#include "server/scheduler/request_output.h"
#include "server/scheduler/retry.h"
#include "server/scheduler/task_pool.h"
#include "tests/support/event_reader.h"
#include "tests/support/fake_clock.h"

namespace fresco {
namespace {

using ::testing::ElementsAre;

TEST(RetryTest, CrossesAsPayload) {
  const absl::Status status = WithRetryAfter(absl::ResourceExhaustedError("full"), absl::Milliseconds(2500));
  EXPECT_EQ(RetryAfter(status), absl::Milliseconds(2500));
  EXPECT_EQ(RetryAfter(Annotate(status, "queue")), absl::Milliseconds(2500));
  EXPECT_EQ(RetryAfter(absl::ResourceExhaustedError("full")), std::nullopt);
  EXPECT_EQ(RetryAfter(absl::OkStatus()), std::nullopt);
}

TEST(OrderedCallsTest, CallsAddedInsideACallComeAfterIt) {
  OrderedCalls calls;
  std::string order;
  calls.Add([&] {
    calls.Add([&] { order += "c"; });
    calls.Run();  // this thread is at it already
    order += "a";
  });
  calls.Add([&] { order += "b"; });
  calls.Run();
  EXPECT_EQ(order, "abc");
}

TEST(OrderedCallsTest, WhatOneThrowsStopsNoOther) {
  OrderedCalls calls;
  bool made = false;
  calls.Add([] { throw std::runtime_error("an observer's"); });
  calls.Add([&] { made = true; });
  calls.Run();
  EXPECT_TRUE(made);
}

TEST(OrderedCallsTest, OneAtATimeFromManyThreads) {
  OrderedCalls calls;
  std::atomic<int> inside = 0;
  int made = 0;  // unguarded on purpose: calls are ordered
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) {
        calls.Add([&] {
          EXPECT_EQ(++inside, 1);
          ++made;
          --inside;
        });
        calls.Run();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  calls.Run();
  EXPECT_EQ(made, 1600);
}

TEST(TaskPoolTest, StopRunsWhatWasAdded) {
  std::atomic<int> done = 0;
  TaskPool pool(3);
  for (int i = 0; i < 100; ++i) pool.Add([&] { ++done; });
  pool.Stop();
  EXPECT_EQ(done, 100);
}

class RequestOutputTest : public ::testing::Test {
 protected:
  static ProgressEvent Progress(int image, int step) {
    ProgressEvent event;
    event.image_index = image;
    event.step = step;
    return event;
  }
  static ImageEvent Picture(int image) {
    ImageEvent event;
    event.image_index = image;
    return event;
  }
  static EncodedImage Preview(const std::string& bytes) { return {bytes, "image/jpeg", 1, 1}; }

  // "0.1", "0.2+p" (with preview p), "image 0", "end", "called".
  std::vector<std::string> Texts() {
    output_.Deliver();
    while (auto event = channel_->Next()) {
      if (auto* progress = std::get_if<ProgressEvent>(&*event)) {
        texts_.push_back(absl::StrCat(progress->image_index, ".", progress->step, progress->preview ? "+" : "",
                                      progress->preview ? progress->preview->bytes.str() : ""));
      } else if (auto* image = std::get_if<ImageEvent>(&*event)) {
        texts_.push_back(absl::StrCat("image ", image->image_index));
      } else {
        texts_.push_back("end");
      }
    }
    return std::exchange(texts_, {});
  }

  FakeClock clock_;
  std::shared_ptr<EventChannel> channel_ = std::make_shared<EventChannel>(1 << 20);
  RequestOutput output_{channel_, &clock_};
  std::vector<std::string> texts_;
};

TEST_F(RequestOutputTest, AnImageWaitsForItsPreviewAndOthersDoNot) {
  output_.AddForImage(0, Progress(0, 1));
  output_.Hold(Progress(0, 2));
  output_.AddForImage(0, Progress(0, 3));
  output_.AddForImage(1, Progress(1, 3));
  EXPECT_THAT(Texts(), ElementsAre("0.1", "1.3"));
  output_.AddForImage(0, Picture(0));
  EXPECT_THAT(Texts(), ElementsAre());
  EXPECT_EQ(output_.held(0), 1);
  output_.Fill(0, 2, Preview("p"));
  EXPECT_THAT(Texts(), ElementsAre("0.2+p", "0.3", "image 0"));
  EXPECT_EQ(output_.held(0), 0);
}

TEST_F(RequestOutputTest, PreviewsThatComeOutOfOrderGoOutInOrder) {
  output_.Hold(Progress(0, 1));
  output_.Hold(Progress(0, 2));
  output_.AddForImage(0, Progress(0, 3));
  output_.Fill(0, 2, Preview("second"));
  EXPECT_THAT(Texts(), ElementsAre());
  output_.Fill(0, 1, std::nullopt);
  EXPECT_THAT(Texts(), ElementsAre("0.1", "0.2+second", "0.3"));
}

TEST_F(RequestOutputTest, TheEndLetsEverythingGo) {
  bool called = false;
  output_.Hold(Progress(0, 1));
  output_.AddForImage(0, Picture(0));
  output_.End(CompletedEvent{}, [&] { called = true; });
  output_.Fill(0, 1, Preview("too late"));
  output_.AddForImage(0, Progress(0, 2));
  EXPECT_THAT(Texts(), ElementsAre("0.1", "image 0", "end"));
  EXPECT_TRUE(called);
}

}  // namespace
}  // namespace fresco
