// An engine that passes every call on to another, for tests that change one of them.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "pipeline/engine/engine.h"

namespace fresco {

class ForwardingEngine : public Engine {
 public:
  explicit ForwardingEngine(std::unique_ptr<Engine> engine) : engine_(std::move(engine)) {}

  const ModelInfo& info() const override { return engine_->info(); }
  EngineStats stats() const override { return engine_->stats(); }
  absl::Status WarmUp() override { return engine_->WarmUp(); }
  int64_t TakePeakBytes() override { return engine_->TakePeakBytes(); }
  DeviceMemory MemoryOfDevice() override { return engine_->MemoryOfDevice(); }
  absl::Status Validate(const ImageSpec& spec) const override { return engine_->Validate(spec); }
  std::string BatchKey(const ImageSpec& spec) const override { return engine_->BatchKey(spec); }
  ImageLoad LoadOf(const ImageSpec& spec) const override { return engine_->LoadOf(spec); }
  std::vector<int> TextsToEncode(absl::Span<const ImageSpec* const> specs) const override {
    return engine_->TextsToEncode(specs);
  }
  absl::StatusOr<std::unique_ptr<ImageJob>> Prepare(const ImageSpec& spec) override { return engine_->Prepare(spec); }
  std::vector<absl::StatusOr<std::unique_ptr<ImageJob>>> PrepareAll(absl::Span<const ImageSpec* const> specs,
                                                                    TextCache cache) override {
    return engine_->PrepareAll(specs, cache);
  }
  std::vector<absl::Status> Step(absl::Span<ImageJob* const> batch) override { return engine_->Step(batch); }
  std::optional<uint64_t> LastStep() const override { return engine_->LastStep(); }
  std::vector<StepTime> TakeStepTimes(bool wait) override { return engine_->TakeStepTimes(wait); }
  absl::StatusOr<Image> Preview(const ImageJob& job, int max_side) override { return engine_->Preview(job, max_side); }
  absl::StatusOr<Image> Finish(ImageJob& job) override { return engine_->Finish(job); }
  absl::StatusOr<Image> FinishBeside(ImageJob& job) override { return engine_->FinishBeside(job); }
  absl::Status Park(ImageJob& job) override { return engine_->Park(job); }
  absl::StatusOr<std::unique_ptr<ImageJob>> Snapshot(ImageJob& job) override { return engine_->Snapshot(job); }
  absl::Status Resume(ImageJob& job) override { return engine_->Resume(job); }

 protected:
  // For a destructor that has something to say once it is gone.
  void Destroy() { engine_.reset(); }

 private:
  std::unique_ptr<Engine> engine_;
};

}  // namespace fresco
