#include "server/scheduler/out_of_memory.h"

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "pipeline/engine/memory_shortage.h"
#include "server/scheduler/engine_calls.h"

namespace fresco {
namespace {

// What an engine cannot know: which images of others are there. It has counted what they hold.
absl::Status AddBeside(const absl::Status& status, const MemoryReport& report) {
  if (report.other_images == 0) return status;
  absl::Status added(status.code(), absl::StrCat(absl::string_view(status.message()), ". ", DescribeBeside(report)));
  status.ForEachPayload([&](absl::string_view url, const absl::Cord& payload) { added.SetPayload(url, payload); });
  return added;
}

}  // namespace

absl::Status ExplainOutOfMemory(const absl::Status& status, MemoryReport report, Engine* engine, DeviceCaller* caller) {
  if (!absl::IsResourceExhausted(status)) return status;
  if (!FindShortage(status).empty()) return AddBeside(status, report);
  const auto ask = [&] { return absl::StatusOr<DeviceMemory>(CallMemoryOfDevice(engine)); };
  const DeviceMemory memory = caller->Make(DeviceCall::kAsk, 0, {}, ask).value_or(DeviceMemory());
  report.total_bytes = memory.total_bytes;
  report.free_bytes = memory.free_bytes;
  return absl::Status(status.code(), absl::StrCat(absl::string_view(status.message()), ": ", Describe(report)));
}

}  // namespace fresco
