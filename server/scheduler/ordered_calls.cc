#include "server/scheduler/ordered_calls.h"

#include <utility>

#include "server/scheduler/guarded.h"

namespace fresco {

void OrderedCalls::Add(std::function<void()> call) {
  MutexLock lock(&mutex_);
  calls_.push_back(std::move(call));
}

void OrderedCalls::Run() {
  {
    MutexLock lock(&mutex_);
    if (running_) return;
    running_ = true;
  }
  while (true) {
    std::function<void()> call;
    {
      MutexLock lock(&mutex_);
      if (calls_.empty()) {
        running_ = false;
        return;
      }
      call = std::move(calls_.front());
      calls_.pop_front();
    }
    GuardedVoid("the call", call).IgnoreError();
  }
}

}  // namespace fresco
