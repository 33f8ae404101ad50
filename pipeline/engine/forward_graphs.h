// Mmdit::Forward by graphs: one for each shape that comes again.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "pipeline/base/mutex.h"
#include "pipeline/engine/device_graph.h"
#include "pipeline/engine/graph_cache.h"
#include "pipeline/models/mmdit.h"
#include "pipeline/precision/saturation.h"

namespace fresco {

// Forward is called by one thread at a time, Drop by any.
class ForwardGraphs {
 public:
  struct Options {
    std::unique_ptr<GraphMaker> maker;
    GraphLimits limits;
    std::shared_ptr<SaturationCount> saturation;       // that the model's linears count in; null: nobody
    std::function<void(const std::string& why)> warn;  // GraphCache's
  };
  // Graphs of at most `bytes` on the transformer's device, which warn on stderr; null on a CPU, in a build without
  // graphs, and for less than one byte. May throw libtorch's exceptions.
  static std::shared_ptr<ForwardGraphs> OnGpu(const Mmdit& transformer, int64_t bytes,
                                              std::shared_ptr<SaturationCount> saturation);
  // `transformer` outlives it.
  ForwardGraphs(const Mmdit& transformer, Options options);
  ~ForwardGraphs();

  // As Mmdit::Forward, whose results these are; enqueued as one where there is a graph of the shapes. While something
  // looks into the forward (a profiler of the calling thread) it is not.
  std::vector<at::Tensor> Forward(const std::vector<at::Tensor>& latents, const at::Tensor& text,
                                  const Mmdit::Modulations& modulations) FRESCO_EXCLUDES(mutex_);

  // Lets go of all graphs and of their memory, for who needs it: whether there were any. They are made again when their
  // shapes come again.
  bool Drop() FRESCO_EXCLUDES(mutex_);

  int64_t bytes() const FRESCO_EXCLUDES(mutex_);  // that graphs keep, as Mmdit::ForwardBytes predicts them

 private:
  struct Recorded;
  std::unique_ptr<Recorded> Record(const std::vector<at::Tensor>& latents, const at::Tensor& text,
                                   const Mmdit::Modulations& modulations);
  int64_t BytesOf(const std::vector<at::Tensor>& latents, const at::Tensor& text) const;

  const Mmdit& transformer_;
  const std::shared_ptr<SaturationCount> saturation_;
  const std::unique_ptr<GraphMaker> maker_;
  mutable Mutex mutex_;
  GraphCache<Recorded> cache_ FRESCO_GUARDED_BY(mutex_);
};

}  // namespace fresco
