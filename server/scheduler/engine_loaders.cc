#include "server/scheduler/engine_loaders.h"

#include <utility>
#include <vector>

namespace fresco {

void EngineLoaders::Add(const std::string& device, Load load) {
  std::thread ended;
  bool cancelled = false;
  {
    MutexLock lock(&mutex_);
    cancelled = stopping_;
    if (!cancelled) {
      Lane* const lane = &lanes_[device];
      lane->loads.push_back(std::move(load));
      if (!lane->running) {
        lane->running = true;
        ended = std::exchange(lane->thread, std::thread([this, lane] { Run(lane); }));
      }
    }
  }
  if (cancelled) load(true, [] {});
  if (ended.joinable()) ended.join();
}

void EngineLoaders::Run(Lane* lane) {
  while (true) {
    Load load;
    {
      MutexLock lock(&mutex_);
      if (lane->loads.empty()) {
        lane->running = false;
        return;
      }
      load = std::move(lane->loads.front());
      lane->loads.pop_front();
    }
    ++begun_;
    load(false, [this] { ++ended_; });
  }
}

void EngineLoaders::Stop() {
  std::vector<Load> cancelled;
  std::vector<std::thread> threads;
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
    for (auto& [device, lane] : lanes_) {
      for (Load& load : lane.loads) cancelled.push_back(std::move(load));
      lane.loads.clear();
      if (lane.thread.joinable()) threads.push_back(std::exchange(lane.thread, {}));
    }
  }
  for (const Load& load : cancelled) load(true, [] {});
  for (std::thread& thread : threads) thread.join();
}

}  // namespace fresco
