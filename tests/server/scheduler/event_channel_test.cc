#include "server/scheduler/event_channel.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

#include "tests/support/event_reader.h"
#include "tests/support/gate.h"

namespace fresco {
namespace {

const absl::Time kNow = absl::FromUnixSeconds(1000);

ProgressEvent Progress(int image, int step, int preview_bytes = 0) {
  ProgressEvent event;
  event.image_index = image;
  event.step = step;
  if (preview_bytes > 0) event.preview = EncodedImage{std::string(preview_bytes, 'p'), "image/jpeg", 1, 1};
  return event;
}

ImageEvent Picture(int image, int bytes) {
  ImageEvent event;
  event.image_index = image;
  event.image.bytes = std::string(bytes, 'i');
  return event;
}

std::vector<RequestEvent> ReadAll(EventChannel* channel) {
  std::vector<RequestEvent> events;
  while (auto event = channel->Next()) events.push_back(*std::move(event));
  return events;
}

TEST(EventChannelTest, KeepsTheOrder) {
  EventChannel channel(1 << 20);
  channel.Put(QueuedEvent{3, absl::Seconds(5)}, kNow);
  channel.Put(StartedEvent{"cpu"}, kNow);
  channel.Put(Progress(0, 1, 100), kNow);
  channel.Put(Progress(0, 2), kNow);
  channel.Put(Picture(0, 100), kNow);
  channel.Put(CompletedEvent{}, kNow);
  const std::vector<RequestEvent> events = ReadAll(&channel);
  ASSERT_EQ(events.size(), 6u);
  EXPECT_EQ(std::get<QueuedEvent>(events[0]).position, 3);
  EXPECT_EQ(std::get<StartedEvent>(events[1]).device, "cpu");
  EXPECT_EQ(std::get<ProgressEvent>(events[2]).preview->bytes.size(), 100u);
  EXPECT_EQ(std::get<ProgressEvent>(events[3]).step, 2);
  EXPECT_EQ(std::get<ImageEvent>(events[4]).image.bytes.size(), 100u);
  EXPECT_TRUE(std::holds_alternative<CompletedEvent>(events[5]));
  EXPECT_FALSE(channel.full_since());
}

TEST(EventChannelTest, OnlyTheLastQueuePositionCounts) {
  EventChannel channel(1 << 20);
  channel.Put(QueuedEvent{3, {}}, kNow);
  channel.Put(QueuedEvent{2, {}}, kNow);
  channel.Put(StartedEvent{"cpu"}, kNow);
  const std::vector<RequestEvent> events = ReadAll(&channel);
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(std::get<QueuedEvent>(events[0]).position, 2);
}

TEST(EventChannelTest, NothingFollowsTheEnd) {
  EventChannel channel(1 << 20);
  channel.Put(FailedEvent{absl::InternalError("x")}, kNow);
  channel.Put(Progress(0, 1), kNow);
  channel.Put(CompletedEvent{}, kNow);
  EXPECT_EQ(ReadAll(&channel).size(), 1u);
}

TEST(EventChannelTest, FullDropsPreviewsAndMergesProgressButKeepsPictures) {
  EventChannel channel(10'000);
  channel.Put(Picture(0, 20'000), kNow);
  channel.Put(Progress(1, 1, 500), kNow);
  channel.Put(Progress(2, 1, 500), kNow);
  channel.Put(Progress(1, 2, 500), kNow);
  channel.Put(Picture(1, 20'000), kNow);
  channel.Put(Progress(2, 2), kNow);
  channel.Put(CompletedEvent{}, kNow);
  const std::vector<RequestEvent> events = ReadAll(&channel);
  ASSERT_EQ(events.size(), 5u);
  EXPECT_EQ(std::get<ImageEvent>(events[0]).image_index, 0);
  EXPECT_EQ(std::get<ProgressEvent>(events[1]).image_index, 1);
  EXPECT_EQ(std::get<ProgressEvent>(events[1]).step, 2);
  EXPECT_FALSE(std::get<ProgressEvent>(events[1]).preview);
  EXPECT_EQ(std::get<ProgressEvent>(events[2]).image_index, 2);
  EXPECT_EQ(std::get<ProgressEvent>(events[2]).step, 2);
  EXPECT_EQ(std::get<ImageEvent>(events[3]).image_index, 1);
  EXPECT_TRUE(std::holds_alternative<CompletedEvent>(events[4]));
}

TEST(EventChannelTest, TellsSinceWhenItIsFull) {
  EventChannel channel(1'000);
  channel.Put(Progress(0, 1), kNow);
  EXPECT_FALSE(channel.full_since());
  channel.Put(Progress(0, 2, 5'000), kNow + absl::Seconds(1));
  channel.Put(Progress(0, 3, 5'000), kNow + absl::Seconds(9));
  EXPECT_EQ(channel.full_since(), kNow + absl::Seconds(1));
  // Whoever reads is not stalled, though there is more than fits.
  ASSERT_TRUE(channel.Next());
  EXPECT_FALSE(channel.full_since());
  channel.Put(Progress(0, 4, 5'000), kNow + absl::Seconds(20));
  EXPECT_EQ(channel.full_since(), kNow + absl::Seconds(20));
}

TEST(EventChannelTest, CloseDropsEverything) {
  EventChannel channel(1 << 20);
  channel.Put(Progress(0, 1), kNow);
  channel.Close();
  channel.Put(Progress(0, 2), kNow);
  EXPECT_TRUE(channel.closed());
  EXPECT_FALSE(channel.Next());
}

TEST(EventChannelTest, CallsBackWhenAnEventComesToAnEmptyChannel) {
  EventChannel channel(1 << 20);
  int calls = 0;
  channel.Put(StartedEvent{}, kNow);
  channel.SetReadyCallback([&] { ++calls; });
  EXPECT_EQ(calls, 1);  // at once: something was there
  channel.Put(Progress(0, 1), kNow);
  EXPECT_EQ(calls, 1);  // not empty
  ReadAll(&channel);
  channel.Put(Progress(0, 2), kNow);
  EXPECT_EQ(calls, 2);
  channel.SetReadyCallback({});
  ReadAll(&channel);
  channel.Put(Progress(0, 3), kNow);
  EXPECT_EQ(calls, 2);
}

TEST(EventChannelTest, TheCallbackMayReadAndReplaceItself) {
  EventChannel channel(1 << 20);
  int read = 0;
  channel.SetReadyCallback([&] {
    read += static_cast<int>(ReadAll(&channel).size());
    channel.SetReadyCallback({});
  });
  channel.Put(Progress(0, 1), kNow);
  channel.Put(Progress(0, 2), kNow);
  EXPECT_EQ(read, 1);
}

TEST(EventChannelTest, TakingTheCallbackAwayWaitsForOneThatRuns) {
  EventChannel channel(1 << 20);
  Gate inside;
  inside.Close();
  bool callback_over = false;  // unguarded on purpose: SetReadyCallback's return orders it
  channel.SetReadyCallback([&] {
    inside.Pass();
    callback_over = true;
  });
  std::thread writer([&] { channel.Put(Progress(0, 1), kNow); });
  inside.AwaitBlocked();
  std::thread opener([&] { inside.Open(); });
  channel.SetReadyCallback({});
  EXPECT_TRUE(callback_over);
  writer.join();
  opener.join();
}

TEST(EventChannelTest, AWriterAndAReaderOnThreadsOfTheirOwn) {
  auto channel = std::make_shared<EventChannel>(1 << 20);
  std::thread writer([&] {
    for (int step = 1; step <= 500; ++step) channel->Put(Progress(0, step), kNow);
    channel->Put(CompletedEvent{}, kNow);
  });
  const std::vector<ProgressEvent> progress = EventsOf<ProgressEvent>(EventReader(channel).Rest());
  writer.join();
  ASSERT_EQ(progress.size(), 500u);
  for (int i = 0; i < 500; ++i) EXPECT_EQ(progress[i].step, i + 1);
}

}  // namespace
}  // namespace fresco
