// Records what libtorch computes, by its own profiler (Kineto), and what the device could do. Torch-free.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>

#include "absl/status/statusor.h"
#include "pipeline/base/clock.h"
#include "pipeline/engine/recording.h"

namespace fresco {

// Kineto says on standard error what it misses, a GPU above all. Call it in main(), before there are threads: it sets
// an environment variable, unless that is set (KINETO_LOG_LEVEL).
void QuietProfiler();

// A recorder of a device's work, "cpu" or "cuda:N". Its scopes are those of the thread that calls it; a GPU's kernels
// are those that this thread launches. Threads that share in a product (OpenMP's) are not seen: their time is the
// layer's, whose thread waits for them. Begin and End take milliseconds, and End as long as it takes to write the
// trace, for which it uses a folder in the system's folder for temporary files. `clock` outlives it.
absl::StatusOr<std::unique_ptr<Recorder>> MakeRecorder(const std::string& device, RecordedDetail detail,
                                                       const Clock* clock);

// Operations a second at which the device multiplies what layers of each dtype are (LayerTime::dtype), measured here
// and now: the fastest of some products of large squares, in the type that such layers are multiplied in (FP8 on a CPU:
// fp32). Takes about 0.2 s for each type. Errors: what libtorch reports.
absl::StatusOr<std::map<std::string, double>> MeasurePeaks(const std::string& device,
                                                           const std::set<std::string>& dtypes);

// Bytes a second that the device's memory moves, those read and those written: the fastest of some copies of a tensor
// that no cache holds, measured here and now. Takes about 0.3 s, and twice 256 MiB of the device, or an eighth of what
// is free where that is less. Errors: what libtorch reports.
absl::StatusOr<double> MeasureBandwidth(const std::string& device);

}  // namespace fresco
