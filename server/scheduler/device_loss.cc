// The dispatcher's part when a device is lost: its images go on elsewhere, from their last step, or fail.
#include "server/scheduler/device_loss.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/scheduler/dispatcher.h"
#include "server/scheduler/guarded.h"
#include "server/scheduler/retry.h"

namespace fresco {
namespace {

// An image that has cost so many devices and one more is taken for the cause.
constexpr int kMaxMoves = 2;
// The process, or another one, is to have the model by then.
constexpr absl::Duration kRetryAfterLoss = absl::Seconds(10);

}  // namespace

absl::Status NoDeviceLeft(const std::string& model, const std::string& device, const std::string& reason) {
  return WithRetryAfter(absl::UnavailableError(absl::StrCat("the device ", device, " is lost (", reason,
                                                            "), and no other has the model '", model, "'")),
                        kRetryAfterLoss);
}

void Dispatcher::Keep(std::unique_ptr<ActiveImage> image) {
  std::unique_ptr<ActiveImage> old;  // goes outside the lock
  MutexLock lock(&mutex_);
  const auto found = images_.find(image->id);
  if (found == images_.end()) return;
  old = std::exchange(found->second.kept, std::move(image));
}

void Dispatcher::LoseDevice(int worker) {
  Followups followups;
  {
    MutexLock lock(&mutex_);
    TakeOverIfLost(worker, clock_->Now(), &followups);
  }
  Follow(std::move(followups));
}

void Dispatcher::Wake() {
  MutexLock lock(&mutex_);
  changed_.NotifyAll();
}

void Dispatcher::Leave(int worker) {
  MutexLock lock(&mutex_);
  workers_.at(worker).left = true;
  changed_.NotifyAll();
}

bool Dispatcher::AllGone() const {
  return std::all_of(workers_.begin(), workers_.end(), [](const Worker& worker) {
    // In this order: a decoder that leaves as it has found the device lost has said so before.
    if (!worker.watch->gone(DeviceThread::kDecode)) return false;
    return !worker.lost.empty() || (worker.left && worker.watch->loss().empty());
  });
}

SchedulingCore::StepForecast Dispatcher::Forecast(int worker, const std::vector<JobId>& images) const {
  MutexLock lock(&mutex_);
  return core_->Forecast(worker, images);
}

// A call that begins after `now` is not hung before floor has passed, so that looking so often finds each in time
// though nobody says when one begins.
absl::Time Dispatcher::NextWatch(absl::Time now) const {
  absl::Time next = workers_.empty() ? absl::InfiniteFuture() : now + options_.watchdog.floor;
  for (const Worker& worker : workers_) next = std::min(next, worker.watch->hung_at());
  return next;
}

void Dispatcher::FindHung(absl::Time now, Followups* followups) {
  for (size_t i = 0; i < workers_.size(); ++i) {
    while (const auto hung = workers_[i].watch->GiveUpIfHung(now)) {
      if (hung == DeviceThread::kCompute) TakeOverIfLost(static_cast<int>(i), now, followups);
      changed_.NotifyAll();
    }
    // What a decoder finds, that it hangs or has lost the context, the compute thread acts on at its next boundary (or
    // when it hangs too): until then what it has is its own. One that has left does so no more.
    if (workers_[i].left) TakeOverIfLost(static_cast<int>(i), now, followups);
  }
}

// Whether it is.
bool Dispatcher::TakeOverIfLost(int worker, absl::Time now, Followups* followups) {
  if (workers_.at(worker).watch->loss().empty()) return false;
  if (workers_[worker].lost.empty()) TakeOver(worker, now, followups);
  return true;
}

void Dispatcher::TakeOver(int lost, absl::Time now, Followups* followups) {
  Worker& worker = workers_.at(lost);
  const std::string reason = worker.watch->loss();
  worker.lost = reason;
  if (worker.decoder != nullptr) worker.decoder->Close();
  worker.batch_size = 0;
  TakeModels(&worker, followups);
  followups->losses.push_back({worker.device, worker.had, reason});
  const DeviceLoss& loss = followups->losses.back();
  std::vector<JobId> images;
  for (const auto& [id, image] : images_) {
    if (image.worker == lost) images.push_back(id);
  }
  std::sort(images.begin(), images.end());
  for (JobId id : images) Displace(id, loss, now, followups);
  core_->RemoveDevice(lost);
  BeginStrandedAnew(now, &followups->dropped);
  EndUnservable(now, followups);
  LeavePositionsToTimer();
}

// No engine of it is destroyed but with its thread: to free what it has is a call of the device.
void Dispatcher::TakeModels(Worker* worker, Followups* followups) {
  const absl::Status lost = LossOf(*worker);
  for (LoadedEngine& loaded : worker->engines) {
    if (loaded.engine == nullptr) continue;
    worker->had.push_back(std::move(loaded.model));
    followups->views.push_back(std::move(loaded.engine));
  }
  worker->engines.clear();
  for (LoadTask& task : worker->loads) {
    if (task.engine.ok()) worker->watch->Keep(*std::move(task.engine));
    followups->unloadable.emplace_back(std::move(task.loaded), lost);
  }
  worker->loads.clear();
  for (std::unique_ptr<Engine>& engine : worker->returned) worker->watch->Keep(std::move(engine));
  worker->returned.clear();
  for (Leaving& leaving : worker->leaving) followups->unremoved.emplace_back(std::move(leaving.removed), lost);
  leaving_ -= static_cast<int>(worker->leaving.size());
  worker->leaving.clear();
  const Handed handed = std::exchange(worker->handed, {});
  for (const auto& loaded : handed.loads) followups->unloadable.emplace_back(loaded, lost);
  for (const auto& removed : handed.removals) {
    if (removed != nullptr) followups->unremoved.emplace_back(removed, lost);
  }
}

absl::Status Dispatcher::LossOf(const Worker& worker) const {
  if (worker.lost.empty()) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("the device ", worker.device, " is lost (", worker.lost, ")"));
}

void Dispatcher::Displace(JobId id, const DeviceLoss& loss, absl::Time now, Followups* followups) {
  Image& image = images_.at(id);
  const RequestPtr request = image.request;
  const std::string& model = request->request().model;
  if (!HasEngine(model)) {
    request->AskToEnd(NoDeviceLeft(model, loss.device, loss.reason));
  } else if (++image.moves > kMaxMoves) {
    request->AskToEnd(absl::InternalError(absl::StrCat("image ", image.index, ": ", image.moves,
                                                       " devices were lost while they drew it; no other is tried")));
  }
  if (request->ending()) {
    core_->Remove(id);
    if (image.kept != nullptr) followups->dropped.push_back(std::move(image.kept));
    images_.erase(id);
    followups->released.push_back(request);
    return;
  }
  if (image.kept != nullptr && IsStranded(image)) followups->dropped.push_back(std::move(image.kept));
  if (image.kept == nullptr) image.type = -1;  // begun anew
  const int steps_done = image.kept != nullptr ? image.kept->job->step() : 0;
  core_->Displace(id, request->request().images[image.index].steps - steps_done, now);
  image.worker = -1;
  image.waits = true;
  image.parked = std::move(image.kept);
  if (image.parked != nullptr) image.parked->request = request;
  QueueEntry(request).images.push_back(id);
  notices_.Add([this, model, device = loss.device] { observer_->OnImageMoved(model, device); });
}

// What waits for a model that no device has any more.
void Dispatcher::EndUnservable(absl::Time now, Followups* followups) {
  for (const auto& [sequence, entry] : queue_) {
    const std::string& model = entry.request->request().model;
    // A device that the model is leaving does what has begun.
    if (DevicesOf(model) > 0 || (entry.request->started() && HasEngine(model))) continue;
    const DeviceLoss& loss = followups->losses.back();
    entry.request->AskToEnd(NoDeviceLeft(model, loss.device, loss.reason));
  }
  DropAllEnding(now, followups);
}

void Dispatcher::Tell(const DeviceLoss& loss) {
  observer_->OnDeviceLost(loss.device, loss.reason);
  if (options_.on_device_lost == nullptr) return;
  GuardedVoid("the callback", [&] { options_.on_device_lost(loss); }).IgnoreError();
}

}  // namespace fresco
