// What the worker tells of a step: progress and, where it has time for them, previews.
#include <algorithm>
#include <utility>

#include "server/scheduler/engine_calls.h"
#include "server/scheduler/worker.h"

namespace fresco {
namespace {

// Progress events of one image that wait for their previews at a time; further previews are left out, since they hold
// pixels.
constexpr int kMaxHeldPreviews = 32;

struct Progress {
  ActiveImage* image = nullptr;
  ProgressEvent event;
};

ProgressEvent EventOf(const ActiveImage& image, absl::Duration remaining) {
  ProgressEvent event;
  event.image_index = image.index;
  event.step = image.job->step();
  event.total_steps = image.job->spec().steps;
  event.remaining = remaining;
  return event;
}

}  // namespace

// Those without a preview first: they need not wait for the others'. Previews are bounded where they hold up more than
// the request that asked for them; what there is no time for waits for a later step, those first that have waited
// longest.
void DeviceWorker::ReportProgress(const Batch& batch, const std::vector<absl::Duration>& remaining, bool others) {
  std::vector<Progress> with_preview;
  bool bounded = others;
  for (size_t i = 0; i < batch.size(); ++i) {
    bounded = bounded || batch[i]->request != batch.front()->request;
    if (batch[i]->job == nullptr || batch[i]->request->ending()) continue;
    if (WantsPreview(batch[i])) {
      with_preview.push_back({batch[i], EventOf(*batch[i], remaining[i])});
    } else {
      SendProgress(*batch[i], EventOf(*batch[i], remaining[i]));
    }
  }
  std::stable_sort(with_preview.begin(), with_preview.end(),
                   [](const auto& a, const auto& b) { return a.image->preview_due < b.image->preview_due; });
  for (Progress& progress : with_preview) {
    if (lost_) return;
    const bool has_time = !bounded || previews_.Allows();
    if (has_time && SendPreview(progress.image, progress.event)) continue;
    SendProgress(*progress.image, std::move(progress.event));
  }
}

void DeviceWorker::SendProgress(const ActiveImage& image, ProgressEvent event) {
  image.request->output()->AddForImage(image.index, std::move(event));
  image.request->output()->Deliver();
}

bool DeviceWorker::WantsPreview(ActiveImage* image) {
  const int every = image->request->request().preview_every;
  const bool due = every > 0 && image->job->step() % every == 0;
  if (due && image->preview_due < 0) image->preview_due = steps_;
  // One that is late for a picture that is done is of no use, and a reader that is behind would not get it anyway.
  const bool useless = image->job->done() && !due;
  if (useless || image->request->channel()->full_since() ||
      image->request->output()->held(image->index) >= kMaxHeldPreviews) {
    image->preview_due = -1;
  }
  return image->preview_due >= 0;
}

// False: there is none, and the progress goes without.
bool DeviceWorker::SendPreview(ActiveImage* image, const ProgressEvent& event) {
  image->preview_due = -1;
  const absl::Time begin = clock_->Now();
  const int max_side = image->request->request().preview_max_side;
  auto preview = Watched(DeviceCall::kPreview, int64_t{max_side} * max_side, {},
                         [&] { return CallPreview(EngineOf(*image), *image->job, max_side); });
  if (lost_) return true;
  previews_.Spend(clock_->Now() - begin);
  if (absl::IsResourceExhausted(preview.status())) return false;
  if (!preview.ok()) {
    Fail(image, preview.status());
    return true;
  }
  observer_->OnStage(ModelOf(*image), "preview", clock_->Now() - begin);
  writer_->WritePreview(image->request, event, *std::move(preview));
  return true;
}

}  // namespace fresco
