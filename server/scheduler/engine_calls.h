// Calls into an engine that come back with a status whatever happens inside: an exception (guarded.h), and INTERNAL for
// an answer that breaks the engine's contract.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "pipeline/engine/engine.h"
#include "server/scheduler/scheduler.h"

namespace fresco {

absl::StatusOr<std::unique_ptr<Engine>> CallLoader(const Scheduler::EngineLoader& loader);
absl::Status CallWarmUp(Engine* engine);
// One result per spec, in order.
using PreparedJobs = std::vector<absl::StatusOr<std::unique_ptr<ImageJob>>>;
PreparedJobs CallPrepare(Engine* engine, absl::Span<const ImageSpec* const> specs, TextCache cache);
// One status per job, in order.
std::vector<absl::Status> CallStep(Engine* engine, absl::Span<ImageJob* const> batch);
// Engine's; nothing instead of an exception.
std::vector<StepTime> CallTakeStepTimes(Engine* engine, bool wait);
absl::StatusOr<Image> CallPreview(Engine* engine, const ImageJob& job, int max_side);
absl::StatusOr<Image> CallFinish(Engine* engine, ImageJob* job);
absl::StatusOr<Image> CallFinishBeside(Engine* engine, ImageJob* job);
absl::Status CallPark(Engine* engine, ImageJob* job);
absl::Status CallResume(Engine* engine, ImageJob* job);
absl::StatusOr<std::unique_ptr<ImageJob>> CallSnapshot(Engine* engine, ImageJob* job);
absl::StatusOr<std::string> CallBatchKey(const Engine& engine, const ImageSpec& spec);
absl::StatusOr<ImageLoad> CallLoadOf(const Engine& engine, const ImageSpec& spec);
// Only counted: zeros instead of an exception.
std::vector<int> CallTextsToEncode(const Engine& engine, absl::Span<const ImageSpec* const> specs);
// `refusal`, and what the engine says of the memory that the image takes.
absl::Status CallExplainMemory(const Engine& engine, const ImageSpec& spec, const absl::Status& refusal);
absl::Duration CallLoadTime(const Engine& engine);  // Engine::LoadSeconds
int64_t CallTakePeakBytes(Engine* engine);
EngineStats CallStats(const Engine& engine);
DeviceMemory CallMemoryOfDevice(Engine* engine);

// ABORTED: the device's context is lost (engine.h). OK: no status says so.
inline absl::Status LossOf(const absl::Status& status) {
  return absl::IsAborted(status) ? status : absl::OkStatus();
}
template <typename T>
absl::Status LossOf(const absl::StatusOr<T>& result) {
  return LossOf(result.status());
}
template <typename Result>
absl::Status LossOf(const std::vector<Result>& results) {
  absl::Status loss;
  for (const Result& result : results) loss.Update(LossOf(result));
  return loss;
}

// Whether anything of it is what was asked for.
inline bool AnyOf(const absl::Status& status) {
  return status.ok();
}
template <typename T>
bool AnyOf(const absl::StatusOr<T>& result) {
  return result.ok();
}
template <typename Result>
bool AnyOf(const std::vector<Result>& results) {
  return std::any_of(results.begin(), results.end(), [](const Result& result) { return result.ok(); });
}

}  // namespace fresco
