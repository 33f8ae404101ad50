// What the benchmarks that drive the scheduler share.
#pragma once

#include <chrono>
#include <optional>
#include <variant>

#include "bench/bench_model.h"
#include "pipeline/base/mutex.h"
#include "server/scheduler/scheduler.h"

namespace fresco {

inline double SecondsSince(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// Reads a request's events to its end. One that fails ends the benchmark.
inline CompletedEvent AwaitEnd(EventChannel* channel) {
  Mutex mutex;
  CondVar changed;
  bool ready = false;
  channel->SetReadyCallback([&] {
    MutexLock lock(&mutex);
    ready = true;
    changed.NotifyAll();
  });
  while (true) {
    std::optional<RequestEvent> event = channel->Next();
    if (!event) {
      MutexLock lock(&mutex);
      while (!ready) changed.Wait(&mutex);
      ready = false;
      continue;
    }
    if (const auto* failed = std::get_if<FailedEvent>(&*event)) Die(failed->status);
    if (const auto* completed = std::get_if<CompletedEvent>(&*event)) {
      channel->SetReadyCallback({});
      return *completed;
    }
  }
}

}  // namespace fresco
