#include "server/scheduler/decode_queue.h"

#include <utility>

namespace fresco {

void DecodeQueue::Add(DecodeTask task) {
  MutexLock lock(&mutex_);
  tasks_.push_back(std::move(task));
  changed_.NotifyAll();
}

std::optional<DecodeTask> DecodeQueue::Next() {
  MutexLock lock(&mutex_);
  while (tasks_.empty() && !closed_) changed_.Wait(&mutex_);
  if (tasks_.empty()) return std::nullopt;
  DecodeTask task = std::move(tasks_.front());
  tasks_.pop_front();
  return task;
}

void DecodeQueue::Close() {
  MutexLock lock(&mutex_);
  closed_ = true;
  changed_.NotifyAll();
}

}  // namespace fresco
