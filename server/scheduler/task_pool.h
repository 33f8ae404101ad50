// A few threads that run small tasks, first come, first served.
#pragma once

#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "pipeline/base/mutex.h"

namespace fresco {

// Thread-safe.
class TaskPool {
 public:
  explicit TaskPool(int threads);
  ~TaskPool();  // as Stop

  void Add(std::function<void()> task);
  // Runs what was added and joins. Nothing is added afterwards.
  void Stop();

 private:
  void Run();

  Mutex mutex_;
  CondVar changed_;
  std::deque<std::function<void()>> tasks_ FRESCO_GUARDED_BY(mutex_);
  bool stopping_ FRESCO_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace fresco
