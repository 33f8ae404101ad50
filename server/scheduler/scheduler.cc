#include "server/scheduler/scheduler.h"

#include <map>
#include <thread>
#include <utility>

#include "pipeline/base/mutex.h"
#include "server/scheduler/dispatcher.h"
#include "server/scheduler/guarded_observer.h"
#include "server/scheduler/picture_writer.h"
#include "server/scheduler/worker.h"

namespace fresco {

std::string_view PriorityName(RequestPriority priority) {
  return kPriorityClassNames[static_cast<int>(priority)];
}

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
    MutexLock lock(&mutex_);
    for (auto& [name, device] : devices_) {
      if (device.watch->AwaitLeave()) {
        device.thread.join();
      } else {
        device.thread.detach();  // it holds its worker, and touches nothing else once it comes back
      }
    }
    writer_.Stop();
    timer_.join();
  }

  void AddModel(const std::string& device, LoadTask task) { dispatcher_.AddLoad(WorkerFor(device), std::move(task)); }

  Dispatcher* dispatcher() { return &dispatcher_; }

 private:
  struct Device {
    int index = 0;
    std::shared_ptr<DeviceWatch> watch;
    std::shared_ptr<DeviceWorker> worker;
    std::thread thread;
  };

  int WorkerFor(const std::string& name) {
    MutexLock lock(&mutex_);
    Device& device = devices_[name];
    if (device.worker == nullptr) {
      device.watch = std::make_shared<DeviceWatch>(options_.watchdog);
      device.index = dispatcher_.AddWorker(name, device.watch);
      device.worker = std::make_shared<DeviceWorker>(device.index, name, &options_, clock_, &observer_, &dispatcher_,
                                                     &writer_, device.watch);
      device.thread = std::thread([worker = device.worker] { worker->Run(); });
    }
    return device.index;
  }

  const SchedulerOptions options_;
  Clock* const clock_;
  GuardedObserver observer_;
  Dispatcher dispatcher_;
  PictureWriter writer_;
  std::thread timer_;
  Mutex mutex_;
  std::map<std::string, Device> devices_ FRESCO_GUARDED_BY(mutex_);
};

Scheduler::Scheduler(const SchedulerOptions& options, Clock* clock, SchedulerObserver* observer)
    : impl_(std::make_unique<Impl>(options, clock, observer)) {}

Scheduler::~Scheduler() = default;

void Scheduler::AddModel(const std::string& model, const std::string& device, EngineLoader loader,
                         LoadedCallback loaded) {
  impl_->AddModel(device, {model, std::move(loader), std::move(loaded)});
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
