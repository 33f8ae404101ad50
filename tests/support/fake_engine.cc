#include "tests/support/fake_engine.h"

#include <algorithm>
#include <cstddef>
#include <stdexcept>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace fresco {
namespace {

constexpr int64_t kStateBytes = 10;  // of an image

// Counts a call while it lasts.
class UnderWay {
 public:
  explicit UnderWay(std::atomic<int>* calls) : calls_(*calls) { ++calls_; }
  ~UnderWay() { --calls_; }

 private:
  std::atomic<int>& calls_;
};

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

void FakeScript::SetWeight(const std::string& prompt, int images) {
  MutexLock lock(&mutex_);
  weights_[prompt] = images;
}

int FakeScript::WeightOf(absl::Span<ImageJob* const> batch) const {
  int weight = 0;
  for (const ImageJob* job : batch) {
    const auto found = weights_.find(job->spec().prompt);
    weight += found == weights_.end() ? 1 : found->second;
  }
  return weight;
}

void FakeScript::SetDeviceMemory(const DeviceMemory& memory) {
  MutexLock lock(&mutex_);
  device_memory_ = memory;
}

void FakeScript::SetDurations(absl::Duration prepare, absl::Duration step, absl::Duration finish) {
  MutexLock lock(&mutex_);
  prepare_ = prepare;
  step_ = step;
  finish_ = finish;
}

void FakeScript::SetDurationsOfEach(absl::Duration text, absl::Duration row) {
  MutexLock lock(&mutex_);
  text_ = text;
  row_ = row;
}

void FakeScript::SetPreviewDuration(absl::Duration preview) {
  MutexLock lock(&mutex_);
  preview_ = preview;
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
  const absl::Status& scripted = found->second.status;
  absl::Status status(scripted.code(), scripted.message());
  scripted.ForEachPayload([&](absl::string_view url, const absl::Cord& payload) { status.SetPayload(url, payload); });
  return status;
}

void FakeScript::Record(absl::Span<ImageJob* const> batch) {
  if (!recording_) return;
  FakeStep step;
  for (const ImageJob* job : batch) step.images.push_back({job->spec().prompt, job->spec().seed, job->step()});
  step.live_jobs = live_jobs_;
  std::string call = "step";
  for (const FakeStep::Entry& image : step.images) absl::StrAppend(&call, " ", image.prompt, image.step);
  RecordCall(std::move(call));
  MutexLock lock(&mutex_);
  steps_.push_back(std::move(step));
}

void FakeScript::Record(FakePreparation preparation) {
  if (!recording_) return;
  RecordCall(absl::StrCat("prepare ", absl::StrJoin(preparation.images, " ")));
  MutexLock lock(&mutex_);
  preparations_.push_back(std::move(preparation));
}

void FakeScript::RecordCall(std::string call) {
  if (!recording_) return;
  MutexLock lock(&mutex_);
  calls_.push_back(std::move(call));
}

std::vector<FakePreparation> FakeScript::preparations() const {
  MutexLock lock(&mutex_);
  return preparations_;
}

std::vector<std::string> FakeScript::calls() const {
  MutexLock lock(&mutex_);
  return calls_;
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
  stats.step_graph_bytes = 300;
  stats.decode_graph_bytes = 20;
  stats.held = {{{info_.name, "transformer", MemoryKind::kWeights}, 1000, 1000, 1000}};
  script_->AddSaturation(&stats);
  MutexLock lock(&mutex_);
  for (const std::string& text : cache_) stats.prompt_cache_bytes += static_cast<int64_t>(text.size());
  return stats;
}

int64_t FakeEngine::TakePeakBytes() {
  script_->Check("", FakeScript::Stage::kPeak, 0).IgnoreError();
  return std::max(1000 * (1 + largest_batch_.exchange(0)), decode_peak_.exchange(0));
}

DeviceMemory FakeEngine::MemoryOfDevice() {
  MutexLock lock(&script_->mutex_);
  return script_->device_memory_;
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
  return KeyOf(spec);
}

std::string FakeEngine::KeyOf(const ImageSpec& spec) const {
  return script_->mixes_sizes_ ? std::string() : absl::StrCat(spec.width, "x", spec.height);
}

ImageLoad FakeEngine::LoadOf(const ImageSpec& spec) const {
  script_->Check(spec.prompt, FakeScript::Stage::kLoadOf, 0).IgnoreError();
  const int tokens = spec.width * spec.height / 256;
  const bool alone = spec.deterministic && !info_.batch_invariant;
  return {tokens, spec.guidance_scale > 1 ? 2 : 1, kStateBytes, spec.max_sequence_length, tokens, alone};
}

std::vector<std::string> FakeEngine::Missing(absl::Span<const ImageSpec* const> specs) const {
  std::vector<std::string> missing;
  const auto need = [&](const std::string& text) {
    MutexLock lock(&mutex_);
    if (!cache_.contains(text) && std::count(missing.begin(), missing.end(), text) == 0) missing.push_back(text);
  };
  for (const ImageSpec* spec : specs) {
    need(spec->prompt);
    if (spec->guidance_scale > 1) need(spec->negative_prompt);
  }
  return missing;
}

std::vector<int> FakeEngine::TextsToEncode(absl::Span<const ImageSpec* const> specs) const {
  std::vector<int> texts;
  for (size_t i = 0, before = 0; i < specs.size(); ++i) {
    const size_t missing = Missing(specs.first(i + 1)).size();
    texts.push_back(static_cast<int>(missing - std::exchange(before, missing)));
  }
  return texts;
}

absl::StatusOr<std::unique_ptr<ImageJob>> FakeEngine::Prepare(const ImageSpec& spec) {
  const ImageSpec* const only = &spec;
  return std::move(PrepareAll({&only, 1}, TextCache::kUse).front());
}

std::vector<absl::StatusOr<std::unique_ptr<ImageJob>>> FakeEngine::PrepareAll(absl::Span<const ImageSpec* const> specs,
                                                                              TextCache cache) {
  FakePreparation preparation;
  for (const ImageSpec* spec : specs) preparation.images.push_back(spec->prompt);
  preparation.texts = Missing(specs);
  script_->Record(preparation);
  script_->prepare_gate()->Pass();
  Spend(&FakeScript::prepare_, &FakeScript::text_, static_cast<int>(preparation.texts.size()));
  if (cache == TextCache::kUse) {
    MutexLock lock(&mutex_);
    cache_.insert(preparation.texts.begin(), preparation.texts.end());
  }
  std::vector<absl::StatusOr<std::unique_ptr<ImageJob>>> jobs;
  for (const ImageSpec* spec : specs) jobs.push_back(NewJob(*spec));
  return jobs;
}

absl::StatusOr<std::unique_ptr<ImageJob>> FakeEngine::NewJob(const ImageSpec& spec) const {
  const absl::Status status = script_->Check(spec.prompt, FakeScript::Stage::kPrepare, 0);
  if (!status.ok()) return status;
  return std::make_unique<FakeJob>(spec, script_);
}

std::vector<absl::Status> FakeEngine::Step(absl::Span<ImageJob* const> batch) {
  script_->Record(batch);
  const UnderWay under_way(&script_->steps_under_way_);
  const bool crowded = script_->no_room_beside_ && script_->decodes_under_way_ > 0;
  largest_batch_ = std::max<int64_t>(largest_batch_.load(), static_cast<int64_t>(batch.size()));
  script_->step_gate()->Pass();
  int rows = 0;
  for (const ImageJob* job : batch) rows += LoadOf(job->spec()).rows;
  if (script_->steps_ahead_) {
    AwaitLast();
    ++ahead_.made;
    ahead_.last = Duration(&FakeScript::step_, &FakeScript::row_, rows);
  } else {
    Spend(&FakeScript::step_, &FakeScript::row_, rows);
  }
  {
    MutexLock lock(&script_->mutex_);
    if (crowded || script_->WeightOf(batch) > script_->memory_limit_) {
      return std::vector<absl::Status>(batch.size(), absl::ResourceExhaustedError("no memory for so many"));
    }
  }
  std::vector<absl::Status> statuses;
  for (ImageJob* job : batch) {
    CheckOnDevice(*job);
    if (KeyOf(job->spec()) != KeyOf(batch.front()->spec())) throw std::logic_error("a step of two batch keys");
    statuses.push_back(script_->Check(job->spec().prompt, FakeScript::Stage::kStep, job->step()));
  }
  for (size_t i = 0; i < batch.size(); ++i) {
    if (statuses[i].ok()) static_cast<FakeJob*>(batch[i])->Advance();
  }
  return statuses;
}

void FakeEngine::AwaitLast() {
  const std::optional<absl::Duration> last = std::exchange(ahead_.last, std::nullopt);
  if (!last.has_value()) return;
  Spend(*last);
  ahead_.times.push_back({ahead_.made, absl::ToDoubleSeconds(*last)});
}

std::vector<StepTime> FakeEngine::TakeStepTimes(bool wait) {
  if (wait) AwaitLast();
  return std::exchange(ahead_.times, {});
}

absl::StatusOr<Image> FakeEngine::Preview(const ImageJob& job, int max_side) {
  ++script_->previews_;
  Spend(&FakeScript::preview_);
  CheckOnDevice(job);
  const absl::Status status = script_->Check(job.spec().prompt, FakeScript::Stage::kPreview, 0);
  if (!status.ok()) return status;
  const int side = std::min({max_side, job.spec().width, job.spec().height});
  return Image{side, side,
               std::vector<uint8_t>(static_cast<size_t>(side) * side * 3, static_cast<uint8_t>(job.step()))};
}

absl::StatusOr<Image> FakeEngine::Finish(ImageJob& job) {
  script_->RecordCall(absl::StrCat("finish ", job.spec().prompt));
  const UnderWay under_way(&script_->decodes_under_way_);
  const bool crowded = script_->no_room_beside_ && script_->steps_under_way_ > 0;
  script_->finish_gate()->Pass();
  decode_peak_ = stats().allocated_bytes + script_->decode_bytes_;
  Spend(&FakeScript::finish_);
  CheckOnDevice(job);
  if (crowded) return absl::ResourceExhaustedError("no memory beside a step");
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

absl::Duration FakeEngine::Duration(absl::Duration FakeScript::*duration, absl::Duration FakeScript::*of_each,
                                    int count) const {
  MutexLock lock(&script_->mutex_);
  return (*script_).*duration + (of_each == nullptr ? absl::ZeroDuration() : count * ((*script_).*of_each));
}

void FakeEngine::Spend(absl::Duration FakeScript::*duration, absl::Duration FakeScript::*of_each, int count) const {
  Spend(Duration(duration, of_each, count));
}

void FakeEngine::Spend(absl::Duration spent) const {
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
  info.calibration_digest = "sha256:1111";
  info.default_width = 16;
  info.default_height = 16;
  info.default_steps = 4;
  info.default_guidance_scale = 4.5f;
  info.max_size = 2048;
  info.components = {{"transformer", "fp32", 1000}};
  return info;
}

}  // namespace fresco
