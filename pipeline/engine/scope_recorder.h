// Records a thread's scopes (precision/layer_scope.h) and nothing else.
#pragma once

#include <memory>

#include "pipeline/base/clock.h"
#include "pipeline/engine/recording.h"

namespace fresco {

// RecordedDetail::kLayers of a CPU: a fraction of a microsecond for each scope, where Kineto takes several, which a
// step of small layers would be longer by. `clock` outlives it.
std::unique_ptr<Recorder> MakeScopeRecorder(const Clock* clock);

}  // namespace fresco
