#include "tests/support/fake_engine.h"

#include <algorithm>
#include <cstddef>
#include <stdexcept>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"

namespace fresco {
namespace {

constexpr int64_t kStateBytes = 10;  // of an image

}  // namespace

class FakeJob final : public ImageJob {
 public:
  FakeJob(ImageSpec spec, std::shared_ptr<FakeScript> script) : ImageJob(std::move(spec)), script_(std::move(script)) {
    ++script_->live_jobs_;
    if (spec_.prompt.size() > 77) {
      warnings_.push_back({Warning::Kind::kPromptTruncated, "prompt", "the prompt is cut at 77 bytes"});
    }
  }
  // A snapshot.
  FakeJob(const FakeJob& other) : ImageJob(other), script_(other.script_), parked_(true), counted_(false) {}
  ~FakeJob() override {
    if (counted_) --script_->live_jobs_;
  }
  void Advance() { ++step_; }
  bool parked() const { return parked_; }
  void set_parked(bool parked) {
    parked_ = parked;
    if (!std::exchange(counted_, true)) ++script_->live_jobs_;
  }

 private:
  const std::shared_ptr<FakeScript> script_;
  bool parked_ = false;
  bool counted_ = true;
};

// Nothing is done with a parked job but to resume it.
void CheckOnDevice(const ImageJob& job) {
  if (static_cast<const FakeJob&>(job).parked()) throw std::logic_error("the job is parked");
}

void FakeScript::Fail(const std::string& prompt, Stage stage, absl::Status status, int step) {
  MutexLock lock(&mutex_);
  failures_[{prompt, stage, step}] = {std::move(status), false};
}

void FakeScript::Throw(const std::string& prompt, Stage stage, int step) {
  MutexLock lock(&mutex_);
  failures_[{prompt, stage, step}] = {absl::OkStatus(), true};
}

void FakeScript::SetMemoryLimit(int images) {
  MutexLock lock(&mutex_);
  memory_limit_ = images;
}

void FakeScript::SetDurations(absl::Duration prepare, absl::Duration step, absl::Duration finish) {
  MutexLock lock(&mutex_);
  prepare_ = prepare;
  step_ = step;
  finish_ = finish;
}

void FakeScript::Saturate(const EngineStats::SaturatedLayer& layer) {
  MutexLock lock(&mutex_);
  saturated_.push_back(layer);
}

void FakeScript::AddSaturation(EngineStats* stats) const {
  MutexLock lock(&mutex_);
  stats->saturated_layers = saturated_;
  for (const EngineStats::SaturatedLayer& layer : saturated_) {
    stats->saturated_activations += layer.saturated;
    stats->guarded_activations += layer.guarded;
    stats->quantized_activations += layer.elements;
  }
}

std::vector<FakeStep> FakeScript::steps() const {
  MutexLock lock(&mutex_);
  return steps_;
}

absl::Status FakeScript::Check(const std::string& prompt, Stage stage, int step) const {
  MutexLock lock(&mutex_);
  const auto found = failures_.find({prompt, stage, step});
  if (found == failures_.end()) return absl::OkStatus();
  if (found->second.throws) throw std::runtime_error(absl::StrCat("scripted exception for ", prompt));
  return absl::Status(found->second.status.code(), found->second.status.message());
}

void FakeScript::Record(absl::Span<ImageJob* const> batch) {
  FakeStep step;
  for (const ImageJob* job : batch) step.images.push_back({job->spec().prompt, job->spec().seed, job->step()});
  step.live_jobs = live_jobs_;
  MutexLock lock(&mutex_);
  steps_.push_back(std::move(step));
}

std::vector<uint8_t> FakeColour(const ImageSpec& spec) {
  return {static_cast<uint8_t>(spec.seed), static_cast<uint8_t>(spec.steps),
          static_cast<uint8_t>(spec.guidance_scale * 10)};
}

FakeEngine::FakeEngine(ModelInfo info, std::shared_ptr<FakeScript> script, FakeClock* clock)
    : info_(std::move(info)), script_(std::move(script)), clock_(clock) {}

EngineStats FakeEngine::stats() const {
  EngineStats stats;
  stats.weight_bytes = 1000;
  stats.allocated_bytes = 1000 + kStateBytes * script_->live_jobs();
  stats.peak_bytes = 5000;
  script_->AddSaturation(&stats);
  return stats;
}

int64_t FakeEngine::TakePeakBytes() {
  script_->Check("", FakeScript::Stage::kPeak, 0).IgnoreError();
  return 1000 * (1 + std::exchange(largest_batch_, 0));
}

absl::Status FakeEngine::Validate(const ImageSpec& spec) const {
  if (spec.width % info_.size_multiple != 0 || spec.width <= 0 || spec.width > info_.max_size) {
    return absl::InvalidArgumentError(
        absl::StrCat("width: ", spec.width, " is not a multiple of ", info_.size_multiple, " up to ", info_.max_size));
  }
  if (spec.height % info_.size_multiple != 0 || spec.height <= 0 || spec.height > info_.max_size) {
    return absl::InvalidArgumentError(absl::StrCat("height: ", spec.height, " is not a multiple of ",
                                                   info_.size_multiple, " up to ", info_.max_size));
  }
  return absl::OkStatus();
}

std::string FakeEngine::BatchKey(const ImageSpec& spec) const {
  script_->Check(spec.prompt, FakeScript::Stage::kBatchKey, 0).IgnoreError();
  return absl::StrCat(spec.width, "x", spec.height);
}

ImageLoad FakeEngine::LoadOf(const ImageSpec& spec) const {
  script_->Check(spec.prompt, FakeScript::Stage::kLoadOf, 0).IgnoreError();
  return {spec.width * spec.height / 256, spec.guidance_scale > 1 ? 2 : 1, kStateBytes,
          spec.deterministic && !info_.batch_invariant};
}

absl::StatusOr<std::unique_ptr<ImageJob>> FakeEngine::Prepare(const ImageSpec& spec) {
  script_->prepare_gate()->Pass();
  Spend(&FakeScript::prepare_);
  const absl::Status status = script_->Check(spec.prompt, FakeScript::Stage::kPrepare, 0);
  if (!status.ok()) return status;
  return std::make_unique<FakeJob>(spec, script_);
}

std::vector<absl::Status> FakeEngine::Step(absl::Span<ImageJob* const> batch) {
  script_->Record(batch);
  largest_batch_ = std::max<int64_t>(largest_batch_, static_cast<int64_t>(batch.size()));
  script_->step_gate()->Pass();
  Spend(&FakeScript::step_);
  {
    MutexLock lock(&script_->mutex_);
    if (static_cast<int>(batch.size()) > script_->memory_limit_) {
      return std::vector<absl::Status>(batch.size(), absl::ResourceExhaustedError("no memory for so many"));
    }
  }
  std::vector<absl::Status> statuses;
  for (ImageJob* job : batch) {
    CheckOnDevice(*job);
    statuses.push_back(script_->Check(job->spec().prompt, FakeScript::Stage::kStep, job->step()));
  }
  for (size_t i = 0; i < batch.size(); ++i) {
    if (statuses[i].ok()) static_cast<FakeJob*>(batch[i])->Advance();
  }
  return statuses;
}

absl::StatusOr<Image> FakeEngine::Preview(const ImageJob& job, int max_side) {
  ++script_->previews_;
  CheckOnDevice(job);
  const absl::Status status = script_->Check(job.spec().prompt, FakeScript::Stage::kPreview, 0);
  if (!status.ok()) return status;
  const int side = std::min({max_side, job.spec().width, job.spec().height});
  return Image{side, side,
               std::vector<uint8_t>(static_cast<size_t>(side) * side * 3, static_cast<uint8_t>(job.step()))};
}

absl::StatusOr<Image> FakeEngine::Finish(ImageJob& job) {
  Spend(&FakeScript::finish_);
  CheckOnDevice(job);
  const absl::Status status = script_->Check(job.spec().prompt, FakeScript::Stage::kFinish, 0);
  if (!status.ok()) return status;
  const ImageSpec& spec = job.spec();
  Image image{spec.width, spec.height, {}};
  const std::vector<uint8_t> colour = FakeColour(spec);
  for (int i = 0; i < spec.width * spec.height; ++i) image.rgb.insert(image.rgb.end(), colour.begin(), colour.end());
  return image;
}

absl::Status FakeEngine::Park(ImageJob& job) {
  ++script_->parks_;
  CheckOnDevice(job);
  const absl::Status status = script_->Check(job.spec().prompt, FakeScript::Stage::kPark, 0);
  if (status.ok()) static_cast<FakeJob&>(job).set_parked(true);
  return status;
}

absl::StatusOr<std::unique_ptr<ImageJob>> FakeEngine::Snapshot(ImageJob& job) {
  CheckOnDevice(job);
  const absl::Status status = script_->Check(job.spec().prompt, FakeScript::Stage::kSnapshot, 0);
  if (!status.ok()) return status;
  return std::make_unique<FakeJob>(static_cast<const FakeJob&>(job));
}

absl::Status FakeEngine::Resume(ImageJob& job) {
  ++script_->resumes_;
  const absl::Status status = script_->Check(job.spec().prompt, FakeScript::Stage::kResume, 0);
  if (status.ok()) static_cast<FakeJob&>(job).set_parked(false);
  return status;
}

void FakeEngine::Spend(absl::Duration FakeScript::*duration) const {
  absl::Duration spent;
  {
    MutexLock lock(&script_->mutex_);
    spent = (*script_).*duration;
  }
  if (clock_ != nullptr && spent > absl::ZeroDuration()) clock_->Advance(spent);
}

ModelInfo FakeModelInfo(const std::string& name, const std::string& device) {
  ModelInfo info;
  info.name = name;
  info.architecture = "fake";
  info.device = device;
  info.precision = "fp32";
  info.precision_asked = "auto";
  info.weights_digest = "sha256:0000";
  info.default_width = 16;
  info.default_height = 16;
  info.default_steps = 4;
  info.default_guidance_scale = 4.5f;
  info.max_size = 2048;
  info.components = {{"transformer", "fp32", 1000}};
  return info;
}

}  // namespace fresco
