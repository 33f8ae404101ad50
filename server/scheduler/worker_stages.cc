// The worker's stages beside the steps: images enter and leave the device. What is done of it at a boundary, the
// dispatcher has decided (policy/stage_plan.h).
#include <algorithm>
#include <cstddef>
#include <numeric>
#include <set>
#include <utility>

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

// From the one at `first` on, to those whose they are: to free them is a call of the device, which is lost. There are
// none where it was lost before the call was made.
void AbandonJobs(const std::vector<ActiveImage*>& images, PreparedJobs* jobs, size_t first) {
  for (size_t i = first; i < jobs->size(); ++i) {
    if ((*jobs)[i].ok()) images[i]->job = *std::move((*jobs)[i]);
  }
}

}  // namespace

// Until the device is lost. Those that are new make the same step, and so are of one model and engine.
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
  const std::vector<int> added = CallTextsToEncode(*engine, SpecsOf(images));
  const int texts = std::accumulate(added.begin(), added.end(), 0);
  const absl::Duration loads_before = CallLoadTime(*engine);
  const absl::Time begin = clock_->Now();
  PreparedJobs jobs = PrepareTogether(images);
  if (lost_) {
    AbandonJobs(images, &jobs, 0);
    return;
  }
  const absl::Duration duration = clock_->Now() - begin;
  const bool all_ok = std::all_of(jobs.begin(), jobs.end(), [](const auto& job) { return job.ok(); });
  if (const int tokens = TextTokens(images); all_ok && texts > 0 && tokens > 0) {
    // What it took to load an encoder says nothing of the texts: the next ones may find it there.
    const absl::Duration loading = CallLoadTime(*engine) - loads_before;
    dispatcher_->TextsDone(index_, model, tokens, texts, std::max(absl::ZeroDuration(), duration - loading));
  }
  std::set<const RequestState*> requests;
  for (size_t i = 0; i < images.size(); ++i) {
    if (!jobs[i].ok()) {
      const absl::Status status = Explain(*images[i], jobs[i].status(), 0, 0);
      if (lost_) {
        AbandonJobs(images, &jobs, i);
        return;
      }
      Fail(images[i], status);
      LetGo(images[i]->id);
      continue;
    }
    images[i]->job = *std::move(jobs[i]);
    // A request's images have had the time together.
    const bool counted = !requests.insert(images[i]->request.get()).second;
    images[i]->request->AddDeviceTime(duration / static_cast<double>(images.size()));
    images[i]->request->AddPrepare(counted ? absl::ZeroDuration() : duration, added[i], images[i]->job->warnings());
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
    PreparedJobs one = CallPrepareOf(absl::MakeConstSpan(images).subspan(i, 1));
    if (!one.empty()) jobs[i] = std::move(one.front());  // else the device was lost before
  }
  return jobs;
}

PreparedJobs DeviceWorker::CallPrepareOf(absl::Span<ActiveImage* const> images) {
  const std::vector<const ImageSpec*> specs = SpecsOf(images);
  // What takes the time is texts; those that are in the cache take none.
  const std::vector<int> texts = CallTextsToEncode(*EngineOf(*images.front()), specs);
  int64_t tokens = 0;
  for (size_t i = 0; i < images.size(); ++i) tokens += int64_t{texts[i]} * images[i]->load.text_tokens;
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
  const absl::Status explained = Explain(*image, status, 0, 0);
  if (lost_) return;
  Fail(image, explained);
  LetGo(id);
}

void DeviceWorker::Decode(JobId id) {
  const auto found = active_.find(id);
  if (found == active_.end()) return;
  DecodeTask task = TaskOf(std::move(active_.extract(found).mapped()));
  if (decoder_queue_ != nullptr) {
    decoder_queue_->Add(std::move(task));
    return;
  }
  if (decoder_.Decode(&task, &caller_)) {
    for (auto& [other, image] : active_) {
      if (image->request != nullptr) image->request->AddPeakMemory(task.peak_bytes);
    }
    return;
  }
  NoteLoss();
  abandoned_.push_back(std::move(task));
}

DecodeTask DeviceWorker::TaskOf(std::unique_ptr<ActiveImage> image) const {
  DecodeTask task;
  task.engine = engines_[image->engine].engine;
  task.model = ModelOf(*image);
  task.report = ReportOf(*image);
  task.image = std::move(image);
  return task;
}

}  // namespace fresco
