// Calls made in the order in which they were added, one at a time, and without a lock held: for telling others what
// happened in the order in which it happened, when it happened under a lock. What a call throws is dropped.
#pragma once

#include <deque>
#include <functional>

#include "pipeline/base/mutex.h"

namespace fresco {

// Thread-safe.
class OrderedCalls {
 public:
  // Cheap; may be called with a lock held. Whoever adds calls Run() once it holds none.
  void Add(std::function<void()> call);

  // Makes all calls that were added, or leaves them to the thread that is at it.
  void Run();

 private:
  Mutex mutex_;
  std::deque<std::function<void()>> calls_ FRESCO_GUARDED_BY(mutex_);
  bool running_ FRESCO_GUARDED_BY(mutex_) = false;
};

}  // namespace fresco
