// The way back of a device's engines: many look at an engine (who validates a request, who weighs it, who reads its
// statistics), and whoever is the last to do so hands it to the thread that computes on its device, to be destroyed
// there.
#pragma once

#include <functional>
#include <memory>

#include "pipeline/base/mutex.h"
#include "pipeline/engine/engine.h"

namespace fresco {

// Thread-safe.
class EngineReturn : public std::enable_shared_from_this<EngineReturn> {
 public:
  using Take = std::function<void(std::unique_ptr<Engine>)>;

  // `take` gets each engine once the last pointer to it has gone, on the thread that let go of that: it must not wait.
  explicit EngineReturn(Take take) : take_(std::move(take)) {}

  std::shared_ptr<Engine> Share(std::unique_ptr<Engine> engine);

  // From now on engines go to `rest`, or are destroyed where they are let go of where that is empty. When it returns,
  // the constructor's `take` is not running.
  void Close(Take rest);

 private:
  void Return(std::unique_ptr<Engine> engine);

  Mutex mutex_;
  Take take_ FRESCO_GUARDED_BY(mutex_);  // empty: closed, without another
};

}  // namespace fresco
