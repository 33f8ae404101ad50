// SIGTERM and SIGINT as something to wait for; and none that ends the process for a write that fails.
#pragma once

#include <functional>
#include <thread>

namespace fresco {

// Make it before any other thread: it blocks both signals in the calling thread, and all threads started later inherit
// that.
class Signals {
 public:
  // `on_signal` is called with the signal's number and how many there have been (from 1), on a thread of its own.
  explicit Signals(std::function<void(int signal, int count)> on_signal);
  ~Signals();
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;

 private:
  void Run();

  const std::function<void(int, int)> on_signal_;
  int signals_ = -1;  // a signalfd
  int stop_ = -1;     // an eventfd: end the thread
  std::thread thread_;
};

}  // namespace fresco
