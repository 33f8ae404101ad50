// Threads that load engines beside those that compute: one for each device that has something to load, one load after
// another. A thread ends with its last load, since libtorch's threads for it (a team for each thread that computes) end
// with it.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <thread>

#include "pipeline/base/mutex.h"

namespace fresco {

// Thread-safe.
class EngineLoaders {
 public:
  // `cancelled`: the load is not to be done any more, only to be answered. Otherwise it calls `ended` once what it
  // loads is loaded, before others learn of it: what they measure then is not beside a load.
  using Load = std::function<void(bool cancelled, const std::function<void()>& ended)>;

  ~EngineLoaders() { Stop(); }

  void Add(const std::string& device, Load load);

  // Cancels those that have not begun, and returns when the others are done; what comes later is cancelled at once.
  void Stop();

  // How many loads have begun and ended, to tell whether one took memory while something else was measured.
  struct Mark {
    int64_t begun = 0, ended = 0;
    bool operator==(const Mark&) const = default;
    bool quiet() const { return begun == ended; }
  };
  Mark mark() const { return {begun_.load(), ended_.load()}; }

 private:
  struct Lane {
    std::deque<Load> loads;
    bool running = false;  // its thread will look at `loads` again
    std::thread thread;
  };

  void Run(Lane* lane);

  std::atomic<int64_t> begun_ = 0, ended_ = 0;
  Mutex mutex_;
  std::map<std::string, Lane> lanes_ FRESCO_GUARDED_BY(mutex_);
  bool stopping_ FRESCO_GUARDED_BY(mutex_) = false;
};

}  // namespace fresco
