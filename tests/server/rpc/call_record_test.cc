#include "server/rpc/call_record.h"

#include <map>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace fresco {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::Key;
using ::testing::Not;
using ::testing::Pair;

const absl::Time kReceived = absl::FromUnixSeconds(1000);

absl::Time At(double seconds) {
  return kReceived + absl::Seconds(seconds);
}

std::map<std::string, LogValue> Described(CallRecord* record, absl::Time now) {
  LogFields fields;
  record->Describe(now, &fields);
  std::map<std::string, LogValue> by_name;
  for (const auto& [name, value] : fields) EXPECT_TRUE(by_name.emplace(name, value).second) << name << " twice";
  return by_name;
}

template <typename T>
auto Field(const std::string& name, T value) {
  return Contains(Pair(name, LogValue(value)));
}

ImageEvent ImageOn(const std::string& device, size_t bytes) {
  ImageEvent event;
  event.image.bytes = std::string(bytes, 'x');
  event.provenance.device = device;
  return event;
}

CompletedEvent Costs() {
  CompletedEvent costs;
  costs.timings.queue = absl::Seconds(1);
  costs.timings.prepare = absl::Milliseconds(20);
  costs.timings.denoise = absl::Seconds(3);
  costs.timings.decode = absl::Milliseconds(40);
  costs.timings.encode = absl::Milliseconds(50);
  costs.batch_size_min = 1;
  costs.batch_size_max = 3;
  costs.batch_size_mean = 2.5;
  costs.peak_memory_bytes = 77;
  costs.texts_encoded = 2;
  return costs;
}

TEST(CallRecordTest, ARequestThatIsDrawnHasEveryStage) {
  CallRecord record(kReceived);
  record.Take(QueuedEvent{}, At(0));
  record.WriteStarted(At(0.5));
  record.WriteDone(At(0.75));
  record.Take(StartedEvent{"cuda:0"}, At(1));
  for (const int step : {1, 2, 3}) record.Take(ProgressEvent{0, step, 3}, At(1 + step));
  record.Take(ProgressEvent{1, 2, 3}, At(4));
  record.Take(ImageOn("cuda:0", 100), At(5));
  record.WriteStarted(At(5));
  record.WriteDone(At(7));
  record.Take(ImageOn("cuda:1", 200), At(7));
  record.Take(Costs(), At(7));
  record.WriteStarted(At(7));
  EXPECT_THAT(
      Described(&record, At(8)),
      AllOf(AllOf(Field("device", std::string("cuda:0,cuda:1")), Field("queue_s", 1.0), Field("prepare_s", 0.02),
                  Field("denoise_s", 3.0), Field("decode_s", 0.04), Field("encode_s", 0.05)),
            AllOf(Field("texts_encoded", int64_t{2}), Field("prompt_cache_hit", false), Field("batch_min", int64_t{1}),
                  Field("batch_mean", 2.5), Field("batch_max", int64_t{3}), Field("peak_memory_bytes", int64_t{77})),
            AllOf(Field("steps_done", int64_t{5}), Field("images_done", int64_t{2}), Field("image_bytes", int64_t{300}),
                  Field("first_image_s", 5.0), Field("first_byte_s", 0.75), Field("write_s", 3.25),
                  Field("total_s", 8.0))));
}

TEST(CallRecordTest, TextsThatWereInTheCacheAreAHit) {
  CallRecord record(kReceived);
  CompletedEvent costs = Costs();
  costs.texts_encoded = 0;
  record.Take(costs, At(1));
  EXPECT_THAT(Described(&record, At(1)), Field("prompt_cache_hit", true));
}

TEST(CallRecordTest, OneThatFailsOnTheWayHasWhatItHasCost) {
  CallRecord record(kReceived);
  record.Take(StartedEvent{"cpu"}, At(1));
  record.Take(FailedEvent{absl::InternalError("no"), Costs()}, At(2));
  EXPECT_THAT(Described(&record, At(2)), AllOf(Field("queue_s", 1.0), Field("denoise_s", 3.0),
                                               Field("images_done", int64_t{0}), Not(Contains(Key("first_image_s")))));
}

TEST(CallRecordTest, OfACallerWhoLeavesItsWaitAndItsStepsAreKnown) {
  CallRecord record(kReceived);
  record.Take(StartedEvent{"cpu"}, At(2));
  record.Take(ProgressEvent{0, 4, 8}, At(3));
  EXPECT_THAT(Described(&record, At(4)), AllOf(Field("queue_s", 2.0), Field("steps_done", int64_t{4}),
                                               Field("total_s", 4.0), Not(Contains(Key("denoise_s")))));
}

TEST(CallRecordTest, OneThatIsRefusedHasNoStages) {
  CallRecord record(kReceived);
  record.Take(FailedEvent{absl::UnavailableError("no")}, At(1));
  const auto fields = Described(&record, At(1));
  EXPECT_EQ(fields.size(), 2u);
  EXPECT_THAT(fields, AllOf(Field("write_s", 0.0), Field("total_s", 1.0)));
}

}  // namespace
}  // namespace fresco
