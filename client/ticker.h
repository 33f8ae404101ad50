// Something that is done every now and then.
#pragma once

#include <functional>
#include <thread>

#include "absl/time/time.h"
#include "pipeline/base/clock.h"
#include "pipeline/base/mutex.h"

namespace fresco {

// Calls `tick` every `interval`, on a thread of its own, from the constructor on until the destructor returns.
class Ticker {
 public:
  // `clock` outlives it.
  Ticker(absl::Duration interval, Clock* clock, std::function<void()> tick);
  ~Ticker();
  Ticker(const Ticker&) = delete;
  Ticker& operator=(const Ticker&) = delete;

 private:
  void Run();
  bool WaitForTick();  // false: it is over

  const absl::Duration interval_;
  Clock* const clock_;
  const std::function<void()> tick_;
  Mutex mutex_;
  CondVar changed_;
  bool stopped_ FRESCO_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace fresco
