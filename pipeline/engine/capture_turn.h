// Whose turn it is: whoever records a graph, or does what no GPU can do while one of its streams is recorded.
// Torch-free.
#pragma once

#include "pipeline/base/mutex.h"

namespace fresco {

// Held while a graph is recorded, and by whoever waits for a device as a whole or has its allocator give back what it
// has cached: CUDA, and libtorch's allocator, fail both that and the recording, whichever threads they are on. What
// threads otherwise do on a device goes on beside a recording. One for all devices, and never destroyed; taken last,
// but for locks within libtorch and within a model.
Mutex& CaptureTurn();

}  // namespace fresco
