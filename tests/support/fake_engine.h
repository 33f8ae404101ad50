// An engine that draws nothing but a plain colour, whose time, failures and pauses a test decides, and that writes down
// what it was asked to do.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "pipeline/base/mutex.h"
#include "pipeline/engine/engine.h"
#include "tests/support/fake_clock.h"
#include "tests/support/gate.h"

namespace fresco {

// One call of Step.
struct FakeStep {
  struct Entry {
    std::string prompt;
    uint64_t seed = 0;
    int step = 0;  // before this call
  };
  std::vector<Entry> images;
  int live_jobs = 0;  // of the engine, in this step or not
};

// One call of Prepare or PrepareAll.
struct FakePreparation {
  std::vector<std::string> images;  // their prompts, in order
  std::vector<std::string> texts;   // that had to be encoded: prompts and, with guidance, negative prompts
};

// What happens to the images whose prompt names it; the script belongs to the test, is shared with the engine, and may
// be changed at any time. Thread-safe.
class FakeScript {
 public:
  // kBatchKey, kLoadOf: Throw alone. kPeak: TakePeakBytes, of no prompt ("").
  enum class Stage { kPrepare, kStep, kPreview, kFinish, kPark, kResume, kSnapshot, kBatchKey, kLoadOf, kPeak };

  // Images of that prompt fail in that stage (for kStep: in the step that begins with `step` steps done).
  void Fail(const std::string& prompt, Stage stage, absl::Status status, int step = 0);
  // The same with an exception, which is the whole batch's.
  void Throw(const std::string& prompt, Stage stage, int step = 0);
  // A Step of more images than that is RESOURCE_EXHAUSTED for all of them.
  void SetMemoryLimit(int images);
  // Images of that prompt count as so many there.
  void SetWeight(const std::string& prompt, int images);
  // What the device says that it has.
  void SetDeviceMemory(const DeviceMemory& memory);
  // A step and a decode do not fit beside each other: whichever begins while the other is under way is
  // RESOURCE_EXHAUSTED.
  void SetNoRoomBeside() { no_room_beside_ = true; }

  // A step goes on after its call, as on a GPU: the next one waits for it. To be said before the first request.
  void SetStepsAhead() { steps_ahead_ = true; }

  // Images of different sizes can be in one Step. To be said before the first request.
  void SetMixesSizes() { mixes_sizes_ = true; }

  // How long things take on the clock. `prepare`: of each call.
  void SetDurations(absl::Duration prepare, absl::Duration step, absl::Duration finish);
  // More: of a preparation for each text that is not in the cache, of a step for each row.
  void SetDurationsOfEach(absl::Duration text, absl::Duration row);
  void SetPreviewDuration(absl::Duration preview);

  // What a decode takes of the device's memory while it lasts.
  void SetDecodeBytes(int64_t bytes) { decode_bytes_ = bytes; }

  // From now on nothing is written down: for a server that runs for long, whose memory is looked at.
  void StopRecording() { recording_ = false; }

  // Stats say so from now on.
  void Saturate(const EngineStats::SaturatedLayer& layer);

  Gate* prepare_gate() { return &prepare_gate_; }
  Gate* step_gate() { return &step_gate_; }  // before anything of a step happens
  Gate* finish_gate() { return &finish_gate_; }

  std::vector<FakeStep> steps() const;
  std::vector<FakePreparation> preparations() const;
  // "prepare a b", "step a0 b0", "finish a": what the engines did, in order.
  std::vector<std::string> calls() const;
  int live_jobs() const { return live_jobs_; }  // without snapshots that were not resumed
  int previews() const { return previews_; }
  int parks() const { return parks_; }
  int resumes() const { return resumes_; }

 private:
  friend class FakeEngine;
  friend class FakeJob;
  struct Failure {
    absl::Status status;
    bool throws = false;
  };
  // Throws where it is to.
  absl::Status Check(const std::string& prompt, Stage stage, int step) const;
  void Record(absl::Span<ImageJob* const> batch);
  void Record(FakePreparation preparation);
  int WeightOf(absl::Span<ImageJob* const> batch) const FRESCO_REQUIRES(mutex_);
  void RecordCall(std::string call);
  void AddSaturation(EngineStats* stats) const;

  Gate prepare_gate_;
  Gate step_gate_;
  Gate finish_gate_;
  std::atomic<bool> recording_ = true;
  std::atomic<bool> no_room_beside_ = false;
  std::atomic<bool> mixes_sizes_ = false;
  std::atomic<bool> steps_ahead_ = false;
  std::atomic<int> steps_under_way_ = 0, decodes_under_way_ = 0;
  std::atomic<int64_t> decode_bytes_ = 0;
  std::atomic<int> live_jobs_ = 0;
  std::atomic<int> previews_ = 0;
  std::atomic<int> parks_ = 0;
  std::atomic<int> resumes_ = 0;
  mutable Mutex mutex_;
  std::map<std::tuple<std::string, Stage, int>, Failure> failures_ FRESCO_GUARDED_BY(mutex_);
  std::vector<FakeStep> steps_ FRESCO_GUARDED_BY(mutex_);
  std::vector<FakePreparation> preparations_ FRESCO_GUARDED_BY(mutex_);
  std::vector<std::string> calls_ FRESCO_GUARDED_BY(mutex_);
  int memory_limit_ FRESCO_GUARDED_BY(mutex_) = 1 << 30;
  std::map<std::string, int> weights_ FRESCO_GUARDED_BY(mutex_);  // by prompt; those not named: 1
  DeviceMemory device_memory_ FRESCO_GUARDED_BY(mutex_) = {int64_t{1} << 40, int64_t{1} << 39};
  std::vector<EngineStats::SaturatedLayer> saturated_ FRESCO_GUARDED_BY(mutex_);
  absl::Duration prepare_ FRESCO_GUARDED_BY(mutex_);
  absl::Duration step_ FRESCO_GUARDED_BY(mutex_);
  absl::Duration finish_ FRESCO_GUARDED_BY(mutex_);
  absl::Duration text_ FRESCO_GUARDED_BY(mutex_);
  absl::Duration row_ FRESCO_GUARDED_BY(mutex_);
  absl::Duration preview_ FRESCO_GUARDED_BY(mutex_);
};

// The colour of a finished picture of this spec: what the engine draws follows from it alone.
std::vector<uint8_t> FakeColour(const ImageSpec& spec);

// Batch key: the size, or nothing (SetMixesSizes); a Step of several keys throws. A token is 16 x 16 pixels. Steps
// advance `clock` (null: take no time). A prompt of more than 77 bytes gets a warning.
class FakeEngine final : public Engine {
 public:
  FakeEngine(ModelInfo info, std::shared_ptr<FakeScript> script, FakeClock* clock);

  const ModelInfo& info() const override { return info_; }
  EngineStats stats() const override;
  // 1000 and 1000 for each image of the largest step since the last call, or what a decode had if that is more.
  int64_t TakePeakBytes() override;
  DeviceMemory MemoryOfDevice() override;
  absl::Status Validate(const ImageSpec& spec) const override;
  std::string BatchKey(const ImageSpec& spec) const override;
  ImageLoad LoadOf(const ImageSpec& spec) const override;
  std::vector<int> TextsToEncode(absl::Span<const ImageSpec* const> specs) const override;
  absl::StatusOr<std::unique_ptr<ImageJob>> Prepare(const ImageSpec& spec) override;
  std::vector<absl::StatusOr<std::unique_ptr<ImageJob>>> PrepareAll(absl::Span<const ImageSpec* const> specs,
                                                                    TextCache cache) override;
  std::vector<absl::Status> Step(absl::Span<ImageJob* const> batch) override;
  std::optional<uint64_t> LastStep() const override {
    return script_->steps_ahead_ ? std::optional(ahead_.made) : std::nullopt;
  }
  std::vector<StepTime> TakeStepTimes(bool wait) override;
  absl::StatusOr<Image> Preview(const ImageJob& job, int max_side) override;
  absl::StatusOr<Image> Finish(ImageJob& job) override;
  absl::Status Park(ImageJob& job) override;
  absl::StatusOr<std::unique_ptr<ImageJob>> Snapshot(ImageJob& job) override;
  absl::Status Resume(ImageJob& job) override;

 private:
  std::string KeyOf(const ImageSpec& spec) const;
  absl::Duration Duration(absl::Duration FakeScript::*duration, absl::Duration FakeScript::*of_each, int count) const;
  void Spend(absl::Duration FakeScript::*duration, absl::Duration FakeScript::*of_each = nullptr, int count = 0) const;
  void Spend(absl::Duration duration) const;
  void AwaitLast();
  // Those that are not in the cache, each once.
  std::vector<std::string> Missing(absl::Span<const ImageSpec* const> specs) const;
  absl::StatusOr<std::unique_ptr<ImageJob>> NewJob(const ImageSpec& spec) const;

  const ModelInfo info_;
  const std::shared_ptr<FakeScript> script_;
  FakeClock* const clock_;
  // Of the compute thread: steps that go on after their calls.
  struct {
    uint64_t made = 0;
    std::optional<absl::Duration> last;  // that of the last one, until somebody has waited for it
    std::vector<StepTime> times;
  } ahead_;
  std::atomic<int64_t> largest_batch_ = 0, decode_peak_ = 0;  // since TakePeakBytes
  mutable Mutex mutex_;
  std::set<std::string> cache_ FRESCO_GUARDED_BY(mutex_);  // texts, of a byte a letter; it forgets none
};

// Small and quick: "fake" on "cpu", 16 pixels, 4 steps.
ModelInfo FakeModelInfo(const std::string& name = "fake", const std::string& device = "cpu");

}  // namespace fresco
