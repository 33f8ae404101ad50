#include "server/scheduler/engine_return.h"

#include <utility>

namespace fresco {

std::shared_ptr<Engine> EngineReturn::Share(std::unique_ptr<Engine> engine) {
  return {engine.release(), [back = shared_from_this()](Engine* last) { back->Return(std::unique_ptr<Engine>(last)); }};
}

void EngineReturn::Close(Take rest) {
  MutexLock lock(&mutex_);
  take_ = std::move(rest);
}

void EngineReturn::Return(std::unique_ptr<Engine> engine) {
  MutexLock lock(&mutex_);
  if (take_ != nullptr) take_(std::move(engine));
}

}  // namespace fresco
