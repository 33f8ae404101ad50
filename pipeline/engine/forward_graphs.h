// Mmdit::Forward by graphs: one for each shape that comes again.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "pipeline/engine/graph_calls.h"
#include "pipeline/models/mmdit.h"
#include "pipeline/precision/saturation.h"

namespace fresco {

// Thread-safe, as GraphCalls.
class ForwardGraphs {
 public:
  using Options = GraphCalls::Options;
  // The source's, of at most `bytes` on the transformer's device and before what others have enqueued there; null where
  // there are none. `budget`: Options'. May throw libtorch's exceptions.
  static std::shared_ptr<ForwardGraphs> From(const GraphCalls::Source& source, const Mmdit& transformer, int64_t bytes,
                                             std::shared_ptr<SaturationCount> saturation,
                                             std::shared_ptr<MemoryBudget> budget = nullptr);
  // GraphCalls::OnGpu's.
  static std::shared_ptr<ForwardGraphs> OnGpu(const Mmdit& transformer, int64_t bytes,
                                              std::shared_ptr<SaturationCount> saturation,
                                              std::shared_ptr<MemoryBudget> budget = nullptr) {
    return From(&GraphCalls::OnGpu, transformer, bytes, std::move(saturation), std::move(budget));
  }
  // `transformer` outlives it.
  ForwardGraphs(const Mmdit& transformer, Options options) : transformer_(transformer), calls_(std::move(options)) {}

  // As Mmdit::Forward, whose results these are; enqueued as one where there is a graph of the shapes. Within a budget
  // it claims its room: for the forward or to record it, none to enqueue what is recorded.
  std::vector<at::Tensor> Forward(const std::vector<at::Tensor>& latents, const at::Tensor& text,
                                  const Mmdit::Modulations& modulations);

  // GraphCalls'.
  bool Drop() { return calls_.Drop(); }
  int64_t bytes() const { return calls_.bytes(); }

 private:
  int64_t ForwardBytes(const std::vector<at::Tensor>& latents, const at::Tensor& text) const;
  int64_t GraphBytes(const std::vector<at::Tensor>& latents, const at::Tensor& text) const;

  const Mmdit& transformer_;
  GraphCalls calls_;
};

}  // namespace fresco
