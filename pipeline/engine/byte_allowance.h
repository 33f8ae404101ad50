// Bytes that many may take of together, as long as there are some. Torch-free.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

namespace fresco {

// Thread-safe. What is taken goes back when its lease does, which may outlive whoever took it.
class ByteAllowance : public std::enable_shared_from_this<ByteAllowance> {
 public:
  class Lease {
   public:
    Lease(std::shared_ptr<ByteAllowance> from, int64_t bytes) : from_(std::move(from)), bytes_(bytes) {}
    Lease(Lease&&) = default;
    Lease& operator=(Lease&&) = delete;
    ~Lease() {
      if (from_ != nullptr) from_->taken_ -= bytes_;
    }

   private:
    std::shared_ptr<ByteAllowance> from_;
    int64_t bytes_;
  };

  static std::shared_ptr<ByteAllowance> Of(int64_t bytes) {
    return std::shared_ptr<ByteAllowance>(new ByteAllowance(bytes));
  }

  // Nothing where there are not as many left.
  std::optional<Lease> Take(int64_t bytes) {
    if (taken_.fetch_add(bytes) + bytes > bytes_) {
      taken_ -= bytes;
      return std::nullopt;
    }
    return Lease(shared_from_this(), bytes);
  }

  int64_t bytes() const { return bytes_; }

 private:
  explicit ByteAllowance(int64_t bytes) : bytes_(bytes) {}

  const int64_t bytes_;
  std::atomic<int64_t> taken_ = 0;
};

// Of a device's memory, or of the budget that it has: what modulations that are computed ahead may take.
inline int64_t ModulationAllowance(int64_t memory_bytes) {
  return memory_bytes / 32;
}

// What graphs may keep (graph_calls.h), those of steps and those of decoding together: a part of what all weights
// leave.
inline int64_t GraphAllowance(int64_t memory_bytes, int64_t weight_bytes) {
  return memory_bytes > weight_bytes ? (memory_bytes - weight_bytes) / 4 : 0;
}

// Those of decoding, of what all may keep. A part of their own: each would let go of the other's, whose next use would
// bring them back.
inline int64_t DecodeGraphAllowance(int64_t graph_bytes) {
  return graph_bytes / 4;
}

}  // namespace fresco
