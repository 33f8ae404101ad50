#include "server/scheduler/scheduler.h"

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "pipeline/base/mutex.h"
#include "pipeline/base/status.h"
#include "server/scheduler/dispatcher.h"
#include "server/scheduler/engine_calls.h"
#include "server/scheduler/engine_loaders.h"
#include "server/scheduler/guarded.h"
#include "server/scheduler/guarded_observer.h"
#include "server/scheduler/picture_writer.h"
#include "server/scheduler/worker.h"

namespace fresco {

std::string_view PriorityName(RequestPriority priority) {
  return kPriorityClassNames[static_cast<int>(priority)];
}

namespace {

// Of two who tell, the first is heard.
template <typename Callback>
Callback Once(Callback callback) {
  return [told = std::make_shared<std::atomic<bool>>(false), callback = std::move(callback)](const auto& result) {
    if (!told->exchange(true)) callback(result);
  };
}

}  // namespace

// Owns the threads; what they do is elsewhere.
class Scheduler::Impl {
 public:
  Impl(const SchedulerOptions& options, Clock* clock, SchedulerObserver* observer)
      : options_(options),
        clock_(clock),
        observer_(observer),
        dispatcher_(&options_, clock_, &observer_),
        writer_(&options_, clock_, &observer_, &dispatcher_),
        timer_([this] { dispatcher_.RunTimer(); }) {}

  ~Impl() {
    dispatcher_.Stop();
    loaders_.Stop();
    for (Device& device : TakeDevices()) {
      End(&device.thread, DeviceThread::kCompute, device.watch.get());
      End(&device.decoder, DeviceThread::kDecode, device.watch.get());
    }
    writer_.Stop();
    timer_.join();
  }

  void AddModel(const std::string& model, const std::string& device, const EngineLoader& loader,
                const LoadedCallback& callback) {
    const LoadedCallback loaded = Once<LoadedCallback>(callback);
    loaders_.Add(device, [this, worker = WorkerFor(device), model, loader, loaded](bool cancelled,
                                                                                   const std::function<void()>& ended) {
      const absl::Status status = cancelled ? absl::CancelledError("the scheduler is shutting down")
                                            : LoadFor(worker, model, loader, ended, loaded);
      if (!status.ok()) GuardedVoid("the callback", [&] { loaded(status); }).IgnoreError();
    });
  }

  absl::Status RemoveModel(const std::string& model, const std::string& device, Removal when, RemovedCallback removed) {
    int worker = -1;
    {
      MutexLock lock(&mutex_);
      const auto found = devices_.find(device);
      if (found != devices_.end()) worker = found->second.index;
    }
    if (worker < 0) {
      return absl::NotFoundError(absl::StrCat("the model '", model, "' is not loaded on ", device));
    }
    return dispatcher_.RemoveModel(worker, model, when, Once<RemovedCallback>(std::move(removed)));
  }

  Dispatcher* dispatcher() { return &dispatcher_; }

 private:
  // On the loader's thread; the device's gets what it has loaded, and answers for it from then on (OK).
  absl::Status LoadFor(int worker, const std::string& model, const EngineLoader& loader,
                       const std::function<void()>& ended, const LoadedCallback& loaded) {
    const absl::Status usable = dispatcher_.CheckDevice(worker);
    absl::StatusOr<std::unique_ptr<Engine>> engine = absl::UnknownError("not loaded");
    if (usable.ok()) {
      const int64_t load = dispatcher_.BeginLoad(worker, model);
      engine = CallLoader(loader);
      dispatcher_.EndLoad(load);
    }
    ended();
    FRESCO_RETURN_IF_ERROR(usable);
    return dispatcher_.AddLoad(worker, {model, std::move(engine), loaded});
  }

  struct Device {
    int index = 0;
    std::shared_ptr<DeviceWatch> watch;
    std::shared_ptr<DeviceWorker> worker;
    std::thread thread, decoder;
  };

  static void End(std::thread* thread, DeviceThread which, DeviceWatch* watch) {
    if (!thread->joinable()) return;
    if (watch->AwaitLeave(which)) {
      thread->join();
    } else {
      thread->detach();  // it holds its worker, and touches nothing else once it comes back
    }
  }

  // Without the lock they are joined: what they tell others may come back here.
  std::vector<Device> TakeDevices() {
    MutexLock lock(&mutex_);
    std::vector<Device> devices;
    for (auto& [name, device] : devices_) {
      devices.push_back(
          {device.index, device.watch, device.worker, std::move(device.thread), std::move(device.decoder)});
    }
    return devices;
  }

  int WorkerFor(const std::string& name) {
    MutexLock lock(&mutex_);
    Device& device = devices_[name];
    if (device.worker == nullptr) {
      const bool beside = DecodesBesideSteps(options_.decoding, name);
      const auto decodes = beside ? std::make_shared<DecodeQueue>() : nullptr;
      device.watch = std::make_shared<DeviceWatch>(options_.watchdog, beside);
      device.index = dispatcher_.AddWorker(name, device.watch, decodes);
      const WorkerContext context = {device.index, name,         &options_, clock_,
                                     &observer_,   &dispatcher_, &writer_,  &loaders_};
      device.worker = std::make_shared<DeviceWorker>(context, device.watch, decodes);
      device.thread = std::thread([worker = device.worker] { worker->Run(); });
      if (beside) device.decoder = std::thread([worker = device.worker] { worker->RunDecoder(); });
    }
    return device.index;
  }

  const SchedulerOptions options_;
  Clock* const clock_;
  GuardedObserver observer_;
  Dispatcher dispatcher_;
  PictureWriter writer_;
  EngineLoaders loaders_;
  std::thread timer_;
  Mutex mutex_;
  std::map<std::string, Device> devices_ FRESCO_GUARDED_BY(mutex_);
};

Scheduler::Scheduler(const SchedulerOptions& options, Clock* clock, SchedulerObserver* observer)
    : impl_(std::make_unique<Impl>(options, clock, observer)) {}

Scheduler::~Scheduler() = default;

void Scheduler::AddModel(const std::string& model, const std::string& device, EngineLoader loader,
                         LoadedCallback loaded) {
  impl_->AddModel(model, device, loader, loaded);
}

absl::Status Scheduler::RemoveModel(const std::string& model, const std::string& device, Removal when,
                                    RemovedCallback removed) {
  return impl_->RemoveModel(model, device, when, std::move(removed));
}

absl::StatusOr<std::shared_ptr<EventChannel>> Scheduler::Submit(GenerationRequest request) {
  return impl_->dispatcher()->Submit(std::move(request));
}

absl::Status Scheduler::Cancel(const std::string& tenant, const std::string& id, const absl::Status& reason) {
  return impl_->dispatcher()->Cancel(tenant, id, reason);
}

absl::Status Scheduler::Cancel(const EventChannel& channel, const absl::Status& reason) {
  return impl_->dispatcher()->Cancel(channel, reason);
}

absl::Status Scheduler::ExtendDeadline(const EventChannel& channel, absl::Time deadline) {
  return impl_->dispatcher()->ExtendDeadline(channel, deadline);
}

bool Scheduler::Drain(absl::Time deadline) {
  return impl_->dispatcher()->Drain(deadline);
}

void Scheduler::Stop() {
  impl_->dispatcher()->Stop();
}

SchedulerSnapshot Scheduler::Snapshot() const {
  return impl_->dispatcher()->Snapshot();
}

CostModel Scheduler::Costs() const {
  return impl_->dispatcher()->Costs();
}

}  // namespace fresco
