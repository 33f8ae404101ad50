#include "pipeline/models/autoencoder_tiling.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <vector>

namespace fresco {
namespace {

constexpr int64_t kRows = 2, kColumns = 3;  // dimensions

at::Tensor Last(const at::Tensor& x, int64_t dim, int64_t n) {
  const int64_t size = x.size(dim);
  return x.narrow(dim, size - std::min(n, size), std::min(n, size));
}

// The first rows or columns of `tile` fade from the last of `before`, at most `extent`. In fp32, rounded once.
void BlendSeam(const at::Tensor& before, int64_t dim, int64_t extent, const at::Tensor& tile) {
  extent = std::min({extent, before.size(dim), tile.size(dim)});
  std::vector<int64_t> shape(4, 1);
  shape[dim] = extent;
  const at::Tensor share = at::arange(extent, tile.options().dtype(at::kDouble)).div_(extent).view(shape);
  const at::Tensor seam = tile.narrow(dim, 0, extent);
  seam.copy_(Last(before, dim, extent).to(at::kFloat) * (1 - share).to(at::kFloat) +
             seam.to(at::kFloat) * share.to(at::kFloat));
}

// A seam's own memory, so that the tile that it is of can go.
at::Tensor Seam(const at::Tensor& tile, int64_t dim, int64_t extent) {
  return Last(tile, dim, extent).clone();
}

at::Tensor EmptyResult(const at::Tensor& x, const TileSizes& sizes, const at::Tensor& tile) {
  const auto scaled = [&](int64_t side) { return side * sizes.output / sizes.input; };
  return at::empty({1, tile.size(1), scaled(x.size(kRows)), scaled(x.size(kColumns))}, tile.options(),
                   at::MemoryFormat::ChannelsLast);
}

}  // namespace

at::Tensor RunTiled(const at::Tensor& x, const TileSizes& sizes,
                    const std::function<at::Tensor(const at::Tensor&)>& run) {
  const int64_t stride = sizes.input - sizes.input / 4, blend = sizes.output / 4, kept = sizes.output - blend;
  const auto part = [&](const at::Tensor& whole, int64_t dim, int64_t index) {
    return whole.narrow(dim, index * stride, std::min(sizes.input, whole.size(dim) - index * stride));
  };
  const int64_t rows = (x.size(kRows) + stride - 1) / stride, columns = (x.size(kColumns) + stride - 1) / stride;
  at::Tensor result;
  std::vector<at::Tensor> above(columns);  // the lower seams of the row before
  for (int64_t i = 0; i < rows; ++i) {
    at::Tensor left;
    for (int64_t j = 0; j < columns; ++j) {
      const at::Tensor tile = run(part(part(x, kRows, i), kColumns, j).contiguous(at::MemoryFormat::ChannelsLast));
      if (i > 0) BlendSeam(above[j], kRows, blend, tile);
      if (j > 0) BlendSeam(left, kColumns, blend, tile);
      above[j] = Seam(tile, kRows, blend);
      left = Seam(tile, kColumns, blend);
      if (!result.defined()) result = EmptyResult(x, sizes, tile);
      const int64_t height = std::min(kept, tile.size(kRows)), width = std::min(kept, tile.size(kColumns));
      result.narrow(kRows, i * kept, height)
          .narrow(kColumns, j * kept, width)
          .copy_(tile.narrow(kRows, 0, height).narrow(kColumns, 0, width));
    }
  }
  return result;
}

}  // namespace fresco
