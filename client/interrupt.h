// Ctrl-C.
#pragma once

#include <functional>
#include <thread>

namespace fresco {

// Keeps SIGINT and SIGTERM for an InterruptWatcher. Call it before any other thread is started, which inherits it.
void BlockInterrupts();

// Calls `on_interrupt` at the first SIGINT or SIGTERM, on a thread of its own; the second ends the process at once,
// with 128 plus its number.
class InterruptWatcher {
 public:
  explicit InterruptWatcher(std::function<void()> on_interrupt);
  ~InterruptWatcher();
  InterruptWatcher(const InterruptWatcher&) = delete;
  InterruptWatcher& operator=(const InterruptWatcher&) = delete;

 private:
  void Watch();

  const std::function<void()> on_interrupt_;
  int signals_ = -1;  // a signalfd
  int stop_ = -1;     // an eventfd
  std::thread thread_;
};

}  // namespace fresco
