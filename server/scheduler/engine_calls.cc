#include "server/scheduler/engine_calls.h"

#include <cstddef>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "server/scheduler/guarded.h"

namespace fresco {
namespace {

constexpr std::string_view kEngine = "the engine";

PreparedJobs AllFailed(size_t count, const absl::Status& status) {
  PreparedJobs jobs;
  for (size_t i = 0; i < count; ++i) jobs.emplace_back(status);
  return jobs;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> CallLoader(const Scheduler::EngineLoader& loader) {
  auto engine = Guarded("the loader", [&] { return loader(); });
  if (engine.ok() && *engine == nullptr) return absl::InternalError("the loader returned no engine");
  return engine;
}

absl::Status CallWarmUp(Engine* engine) {
  return Guarded(kEngine, [&] { return engine->WarmUp(); });
}

PreparedJobs CallPrepare(Engine* engine, absl::Span<const ImageSpec* const> specs, TextCache cache) {
  PreparedJobs jobs;
  const absl::Status thrown = GuardedVoid(kEngine, [&] { jobs = engine->PrepareAll(specs, cache); });
  if (!thrown.ok()) return AllFailed(specs.size(), thrown);
  if (jobs.size() != specs.size()) {
    const absl::Status wrong = absl::InternalError(
        absl::StrCat("the engine answered with ", jobs.size(), " jobs for ", specs.size(), " images"));
    return AllFailed(specs.size(), wrong);
  }
  for (auto& job : jobs) {
    if (job.ok() && *job == nullptr) job = absl::InternalError("the engine returned no job");
  }
  return jobs;
}

std::vector<absl::Status> CallStep(Engine* engine, absl::Span<ImageJob* const> batch) {
  std::vector<int> before;
  for (const ImageJob* job : batch) before.push_back(job->step());
  std::vector<absl::Status> statuses;
  const absl::Status thrown = GuardedVoid(kEngine, [&] { statuses = engine->Step(batch); });
  if (!thrown.ok()) return std::vector<absl::Status>(batch.size(), thrown);
  if (statuses.size() != batch.size()) {
    const absl::Status wrong = absl::InternalError(
        absl::StrCat("the engine answered with ", statuses.size(), " statuses for ", batch.size(), " images"));
    return std::vector<absl::Status>(batch.size(), wrong);
  }
  for (size_t i = 0; i < batch.size(); ++i) {
    // Who counts steps would lose count.
    if (statuses[i].ok() && batch[i]->step() != before[i] + 1)
      statuses[i] = absl::InternalError("the engine did not advance the image by a step");
  }
  return statuses;
}

std::vector<StepTime> CallTakeStepTimes(Engine* engine, bool wait) {
  std::vector<StepTime> times;
  GuardedVoid(kEngine, [&] { times = engine->TakeStepTimes(wait); }).IgnoreError();
  return times;
}

absl::StatusOr<Image> CallPreview(Engine* engine, const ImageJob& job, int max_side) {
  return Guarded(kEngine, [&] { return engine->Preview(job, max_side); });
}

absl::StatusOr<Image> CallFinish(Engine* engine, ImageJob* job) {
  return Guarded(kEngine, [&] { return engine->Finish(*job); });
}

absl::StatusOr<Image> CallFinishBeside(Engine* engine, ImageJob* job) {
  return Guarded(kEngine, [&] { return engine->FinishBeside(*job); });
}

absl::Status CallPark(Engine* engine, ImageJob* job) {
  return Guarded(kEngine, [&] { return engine->Park(*job); });
}

absl::Status CallResume(Engine* engine, ImageJob* job) {
  return Guarded(kEngine, [&] { return engine->Resume(*job); });
}

absl::StatusOr<std::unique_ptr<ImageJob>> CallSnapshot(Engine* engine, ImageJob* job) {
  auto copy = Guarded(kEngine, [&] { return engine->Snapshot(*job); });
  if (copy.ok() && (*copy == nullptr || (*copy)->step() != job->step())) {
    return absl::InternalError("the engine returned no copy of the job");
  }
  return copy;
}

absl::StatusOr<std::string> CallBatchKey(const Engine& engine, const ImageSpec& spec) {
  return GuardedValue(kEngine, [&] { return engine.BatchKey(spec); });
}

absl::StatusOr<ImageLoad> CallLoadOf(const Engine& engine, const ImageSpec& spec) {
  return GuardedValue(kEngine, [&] { return engine.LoadOf(spec); });
}

std::vector<int> CallTextsToEncode(const Engine& engine, absl::Span<const ImageSpec* const> specs) {
  std::vector<int> texts =
      GuardedValue(kEngine, [&] { return engine.TextsToEncode(specs); }).value_or(std::vector<int>());
  texts.resize(specs.size());
  return texts;
}

absl::Status CallExplainMemory(const Engine& engine, const ImageSpec& spec, const absl::Status& refusal) {
  absl::Status said;
  const absl::Status thrown = GuardedVoid(kEngine, [&] { said = engine.ExplainMemory(spec); });
  return said.ok() || !thrown.ok() ? refusal : Annotate(said, ToStd(refusal.message()));
}

absl::Duration CallLoadTime(const Engine& engine) {
  return absl::Seconds(GuardedValue(kEngine, [&] { return engine.LoadSeconds(); }).value_or(0));
}

int64_t CallTakePeakBytes(Engine* engine) {
  return GuardedValue(kEngine, [&] { return engine->TakePeakBytes(); }).value_or(0);
}

DeviceMemory CallMemoryOfDevice(Engine* engine) {
  return GuardedValue(kEngine, [&] { return engine->MemoryOfDevice(); }).value_or(DeviceMemory());
}

EngineStats CallStats(const Engine& engine) {
  return GuardedValue(kEngine, [&] { return engine.stats(); }).value_or(EngineStats());
}

}  // namespace fresco
