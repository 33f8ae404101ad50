// The worker's stages beside the steps: images enter and leave the device. What is done of it at a boundary, the
// dispatcher has decided (policy/stage_plan.h).
#include <algorithm>
#include <cstddef>
#include <set>
#include <utility>

#include "pipeline/engine/parameters_text.h"
#include "server/scheduler/engine_calls.h"
#include "server/scheduler/worker.h"

namespace fresco {
namespace {

std::vector<const ImageSpec*> SpecsOf(absl::Span<ActiveImage* const> images) {
  std::vector<const ImageSpec*> specs;
  for (const ActiveImage* image : images) specs.push_back(&image->request->request().images[image->index]);
  return specs;
}

// Of each text, where all have as many; 0 where they do not, which tells nothing of either.
int TextTokens(const std::vector<ActiveImage*>& images) {
  const int tokens = images.front()->load.text_tokens;
  const bool equal =
      std::all_of(images.begin(), images.end(), [&](const auto* image) { return image->load.text_tokens == tokens; });
  return equal ? tokens : 0;
}

}  // namespace

// Until the device is lost. Those that are new are of one group, as they make the same step, and so of one engine.
void DeviceWorker::Start(std::vector<StartOrder> orders) {
  std::vector<ActiveImage*> fresh;
  for (StartOrder& order : orders) {
    if (lost_) return;
    if (order.resumed != nullptr) {
      Resume(std::move(order));
    } else if (ActiveImage* image = Enter(order); image != nullptr) {
      fresh.push_back(image);
    }
  }
  if (!lost_ && !fresh.empty()) Prepare(fresh);
}

// Null: it should end already, or has failed.
ActiveImage* DeviceWorker::Enter(const StartOrder& order) {
  std::unique_ptr<ActiveImage>& image = active_[order.id];
  image = std::make_unique<ActiveImage>();
  image->id = order.id;
  image->request = order.request;
  image->index = order.image_index;
  image->engine = order.engine;
  if (!order.request->ShouldEnd(clock_->Now(), options_.slow_reader_limit)) {
    const auto load = CallLoadOf(*EngineOf(*image), order.request->request().images[order.image_index]);
    image->load = load.value_or(ImageLoad());
    if (load.ok()) return image.get();
    Fail(image.get(), load.status());
  }
  LetGo(order.id);
  return nullptr;
}

void DeviceWorker::Prepare(const std::vector<ActiveImage*>& images) {
  Engine* const engine = EngineOf(*images.front());
  const std::string& model = ModelOf(*images.front());
  const int texts = CallTextsToEncode(*engine, SpecsOf(images));
  const absl::Time begin = clock_->Now();
  PreparedJobs jobs = PrepareTogether(images);
  if (lost_) {
    // To free them is a call of the device.
    for (size_t i = 0; i < images.size(); ++i) images[i]->job = jobs[i].ok() ? *std::move(jobs[i]) : nullptr;
    return;
  }
  const absl::Duration duration = clock_->Now() - begin;
  const bool all_ok = std::all_of(jobs.begin(), jobs.end(), [](const auto& job) { return job.ok(); });
  if (const int tokens = TextTokens(images); all_ok && texts > 0 && tokens > 0) {
    dispatcher_->TextsDone(model, tokens, texts, duration);
  }
  std::set<const RequestState*> requests;
  for (size_t i = 0; i < images.size(); ++i) {
    if (!jobs[i].ok()) {
      Fail(images[i], Explain(*images[i], jobs[i].status(), 0, 0));
      LetGo(images[i]->id);
      continue;
    }
    images[i]->job = *std::move(jobs[i]);
    // A request's images have had the time together.
    const bool counted = !requests.insert(images[i]->request.get()).second;
    images[i]->request->AddPrepare(counted ? absl::ZeroDuration() : duration, images[i]->job->warnings());
    observer_->OnStage(model, "prepare", duration);
  }
}

// Where the call comes to nothing, as an image throws or memory is short, each is prepared by itself, so that it fails
// alone. What is an image's own fault stays so.
PreparedJobs DeviceWorker::PrepareTogether(const std::vector<ActiveImage*>& images) {
  PreparedJobs jobs = CallPrepareOf(images);
  const bool nothing = std::all_of(jobs.begin(), jobs.end(), [](const auto& job) {
    return absl::IsInternal(job.status()) || absl::IsResourceExhausted(job.status());
  });
  if (lost_ || !nothing || images.size() < 2) return jobs;
  for (size_t i = 0; i < images.size() && !lost_; ++i) {
    jobs[i] = std::move(CallPrepareOf(absl::MakeConstSpan(images).subspan(i, 1)).front());
  }
  return jobs;
}

PreparedJobs DeviceWorker::CallPrepareOf(absl::Span<ActiveImage* const> images) {
  int64_t tokens = 0;
  for (const ActiveImage* image : images) tokens += image->load.tokens;
  const std::vector<const ImageSpec*> specs = SpecsOf(images);
  return Watched(DeviceCall::kPrepare, tokens, {},
                 [&] { return CallPrepare(EngineOf(*images.front()), specs, TextCache::kUse); });
}

void DeviceWorker::Resume(StartOrder order) {
  const JobId id = order.id;
  ActiveImage* const image = (active_[id] = std::move(order.resumed)).get();
  image->engine = order.engine;
  // Of this device, which may be of another type than the last.
  image->load = CallLoadOf(*EngineOf(*image), image->request->request().images[image->index]).value_or(image->load);
  const absl::Status status = Watched(DeviceCall::kMove, image->load.state_bytes, {},
                                      [&] { return CallResume(EngineOf(*image), image->job.get()); });
  if (lost_ || status.ok()) return;
  Fail(image, Explain(*image, status, 0, 0));
  LetGo(id);
}

void DeviceWorker::Decode(JobId id) {
  const auto found = active_.find(id);
  if (found == active_.end()) return;
  ActiveImage* const image = found->second.get();
  if (image->request->ending()) {
    LetGo(id);
    return;
  }
  const std::string& model = ModelOf(*image);
  observer_->OnStage(model, "denoise", image->denoise);
  const absl::Time begin = clock_->Now();
  auto picture = Watched(DeviceCall::kFinish, image->load.tokens, {},
                         [&] { return CallFinish(EngineOf(*image), image->job.get()); });
  if (lost_) return;
  const absl::Duration duration = clock_->Now() - begin;
  if (!picture.ok()) {
    Fail(image, Explain(*image, picture.status(), 0, 0));
    LetGo(id);
    return;
  }
  dispatcher_->Remove(id);
  ImageProvenance provenance = ProvenanceOf(*image);
  image->job.reset();
  observer_->OnStage(model, "decode", duration);
  dispatcher_->DecodeDone(model, image->load.picture_tokens, duration);
  image->request->AddDecode(duration);
  RecordPeakMemory(EngineOf(*image));
  // The writer takes over the hold on the request.
  writer_->WriteImage({std::move(image->request), image->index, index_, std::move(provenance), *std::move(picture)});
  LetGo(id);
}

ImageProvenance DeviceWorker::ProvenanceOf(const ActiveImage& image) const {
  const ModelInfo& info = EngineOf(image)->info();
  ImageProvenance provenance;
  provenance.model = ModelOf(image);
  provenance.weights_digest = info.weights_digest;
  provenance.calibration_digest = info.calibration_digest;
  provenance.precision = info.precision;
  provenance.device = device_;
  provenance.software = options_.software;
  provenance.sampler = kSampler;
  provenance.spec = image.job->spec();
  provenance.batch_size_min = image.batch_sizes.min;
  provenance.batch_size_max = image.batch_sizes.max;
  return provenance;
}

}  // namespace fresco
