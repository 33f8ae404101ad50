#include "pipeline/models/staged_copy.h"

#include <ATen/ops/empty.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <vector>

namespace fresco {

StagedCopy::StagedCopy(const at::Device& device, int64_t piece_bytes) : device_(device), piece_bytes_(piece_bytes) {}

// A row that is larger than a piece makes a larger one.
StagedCopy::Piece& StagedCopy::NextPiece(int64_t bytes) {
  Piece& piece = pieces_[next_];
  next_ = (next_ + 1) % pieces_.size();
  if (piece.copied.has_value()) piece.copied->synchronize();
  if (!piece.memory.defined() || piece.memory.numel() < bytes) {
    const auto options = at::TensorOptions(at::kByte).pinned_memory(device_.is_cuda());
    piece.memory = at::Tensor();
    piece.memory = at::empty({bytes}, options);
  }
  return piece;
}

void StagedCopy::Write(const at::Tensor& to, const Fill& fill, int64_t row_bytes) {
  if (to.numel() == 0) return;
  TORCH_CHECK(to.is_contiguous(), "pieces are copied to tensors that are contiguous");
  const int64_t own_bytes = static_cast<int64_t>(to.nbytes()) / to.size(0);
  const int64_t at_once = std::max<int64_t>(1, piece_bytes_ / std::max(own_bytes, row_bytes));
  for (int64_t first = 0; first < to.size(0); first += at_once) {
    const int64_t rows = std::min(at_once, to.size(0) - first);
    Piece& piece = NextPiece(std::min(at_once, to.size(0)) * own_bytes);
    std::vector<int64_t> shape = to.sizes().vec();
    shape[0] = rows;
    const at::Tensor made = piece.memory.narrow(0, 0, rows * own_bytes).view(to.scalar_type()).view(shape);
    fill(first, made);
    to.narrow(0, first, rows).copy_(made, /*non_blocking=*/true);
    if (!device_.is_cuda()) continue;
    if (!piece.copied.has_value()) piece.copied.emplace(device_.type());
    piece.copied->record(c10::impl::VirtualGuardImpl(device_.type()).getStream(device_));
  }
}

void StagedCopy::Write(const at::Tensor& to, const at::Tensor& from) {
  const at::Tensor elements = from.reshape({-1});
  Write(to.view({-1}),
        [&](int64_t first, const at::Tensor& piece) { piece.copy_(elements.narrow(0, first, piece.size(0))); });
}

}  // namespace fresco
