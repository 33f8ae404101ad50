// Autoencoder::Decode by graphs: one for each size of a sample, or of a tile, that comes again.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <utility>

#include "pipeline/engine/graph_calls.h"
#include "pipeline/models/autoencoder.h"
#include "pipeline/precision/saturation.h"

namespace fresco {

// Thread-safe, as GraphCalls: previews on one thread and finished pictures on another.
class DecodeGraphs {
 public:
  using Options = GraphCalls::Options;
  // The source's, of at most `bytes` on the autoencoder's device and no sooner than what others have enqueued there;
  // null where there are none. May throw libtorch's exceptions.
  static std::shared_ptr<DecodeGraphs> From(const GraphCalls::Source& source, const Autoencoder& vae, int64_t bytes,
                                            std::shared_ptr<SaturationCount> saturation);
  // GraphCalls::OnGpu's.
  static std::shared_ptr<DecodeGraphs> OnGpu(const Autoencoder& vae, int64_t bytes,
                                             std::shared_ptr<SaturationCount> saturation) {
    return From(&GraphCalls::OnGpu, vae, bytes, std::move(saturation));
  }
  // `vae` outlives it.
  DecodeGraphs(const Autoencoder& vae, Options options) : vae_(vae), calls_(std::move(options)) {}

  // As Autoencoder::Decode, whose result this is; each sample or tile is enqueued as one where there is a graph of its
  // size.
  at::Tensor Decode(const at::Tensor& z);

  // Whether samples and tiles of so many pixels have graphs. Larger ones keep a GPU busy for so long that it never
  // waits for who tells it what comes next, and a graph of one would hold more than a gigabyte (docs/PERFORMANCE.md).
  static bool Pays(int64_t height, int64_t width) { return height * width <= kMostPixels; }

  // GraphCalls'.
  bool Drop() { return calls_.Drop(); }
  int64_t bytes() const { return calls_.bytes(); }

 private:
  static constexpr int64_t kMostPixels = 512 * 512;

  at::Tensor DecodeWhole(const at::Tensor& x);

  const Autoencoder& vae_;
  GraphCalls calls_;
};

}  // namespace fresco
