// What ran in a call of an engine, as a profiler has seen it. Torch-free.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "pipeline/base/scope_log.h"

namespace fresco {

// A kernel or a copy on a GPU, and when the thread asked for it.
struct RecordedKernel {
  int64_t launch_ns = 0;
  int64_t begin_ns = 0, end_ns = 0;
};

enum class RecordedDetail {
  kLayers,      // no more than what AddUpLayers needs: on a CPU it costs a step next to nothing
  kOperations,  // for the trace, what libtorch does within layers
};

struct Recording {
  bool on_device = false;  // the work is a GPU's: its times are the kernels', and the scopes only say whose they are
  std::vector<RecordedScope> scopes;    // of one thread: any two lie in each other or apart
  std::vector<RecordedKernel> kernels;  // empty on a CPU
  std::string trace;  // in Chrome's format, which chrome://tracing and Perfetto open; empty with kLayers
};

// Records what the calling thread computes between Begin and End, both called on it. At most one in a process may be
// between them: what it stands on is the process's.
class Recorder {
 public:
  virtual ~Recorder() = default;
  virtual absl::Status Begin() = 0;
  // Nothing is recorded any more, also where this is an error.
  virtual absl::StatusOr<Recording> End() = 0;
};

// Where recorders come from, as profiler.h has them; a server that draws nothing has none. Thread-safe.
struct ProfilerSource {
  std::function<absl::StatusOr<std::unique_ptr<Recorder>>(const std::string& device, RecordedDetail)> recorder;
  // Operations a second of each dtype that the device multiplies.
  std::function<absl::StatusOr<std::map<std::string, double>>(const std::string& device,
                                                              const std::set<std::string>& dtypes)>
      peaks;
  // Bytes a second that its memory moves, those read and those written.
  std::function<absl::StatusOr<double>(const std::string& device)> bandwidth;
};

}  // namespace fresco
