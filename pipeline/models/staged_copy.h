// Fills tensors on a device with what is made on the host, piece by piece.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>

#include <array>
#include <cstdint>
#include <functional>
#include <optional>

namespace fresco {

// Two pieces of host memory, pinned for a GPU: while one is on its way the next one is made in the other, so that
// nothing larger than a piece is ever there on the host a second time. Not thread-safe. Throws libtorch's exceptions.
class StagedCopy {
 public:
  static constexpr int64_t kPieceBytes = int64_t{16} << 20;

  // The host's memory is taken at the first copy. `piece_bytes`: of each of the two.
  explicit StagedCopy(const at::Device& device, int64_t piece_bytes = kPieceBytes);

  // Writes rows [first, first + piece.size(0)) to `piece`: on the host, of the type of the tensor to fill, contiguous.
  using Fill = std::function<void(int64_t first, const at::Tensor& piece)>;

  // Fills `to` [rows, …], contiguous, on the device. Rows at once are as many as fit a piece, at `row_bytes` each where
  // that is more than a row of `to` takes (what it takes to make one), and at least one. Copies are enqueued on the
  // device's current stream of the calling thread, which reads `to` afterwards as it would after any other.
  void Write(const at::Tensor& to, const Fill& fill, int64_t row_bytes = 0);

  // Copies a tensor of the host, of any type and shape, into one of as many elements.
  void Write(const at::Tensor& to, const at::Tensor& from);

 private:
  struct Piece {
    at::Tensor memory;                 // kByte
    std::optional<c10::Event> copied;  // once it has been on its way to a GPU
  };
  Piece& NextPiece(int64_t bytes);

  const at::Device device_;
  const int64_t piece_bytes_;
  std::array<Piece, 2> pieces_;
  size_t next_ = 0;
};

}  // namespace fresco
