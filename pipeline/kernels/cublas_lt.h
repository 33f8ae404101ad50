// Products of codes by an algorithm of cuBLASLt's that its caller chooses. libtorch takes the first that the library's
// heuristics name, which need not be the fastest, and has no way to ask for another. Torch-free.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "pipeline/base/mutex.h"
#include "pipeline/kernels/cublas_lt_api.h"

namespace fresco {

// result[m][n] = (sum over k of x[m][k] * weight[n][k]) * x_scale[m] * weight_scale[n] + bias[n], rows one after the
// other, pointers to device memory; matrices begin at multiples of CublasLt::kAlignment.
struct CodesProductJob {
  enum class Codes {
    kE4M3,  // sums in fp32, by Hopper's fast accumulation; the result in `type`
    kInt8,  // the sums alone, int32_t: no scales, no bias
  };
  Codes codes = Codes::kE4M3;
  int64_t rows = 0, in = 0, out = 0;
  enum class Result { kBFloat16, kFloat16 } type = Result::kBFloat16;  // of kE4M3, and its bias
  const void* x = nullptr;                                             // [rows, in]
  const void* weight = nullptr;                                        // [out, in]
  const float* x_scale = nullptr;                                      // [rows]
  const float* weight_scale = nullptr;                                 // [out]
  const void* bias = nullptr;                                          // [out], or null
  void* result = nullptr;                                              // [rows, out]
};

// Of one version of cuBLASLt and one kind of GPU.
struct CublasLtAlgorithm {
  std::array<uint64_t, 8> words = {};

  std::string ToHex() const;
  static std::optional<CublasLtAlgorithm> FromHex(std::string_view hex);
  bool operator==(const CublasLtAlgorithm&) const = default;
};

// Thread-safe; for the one device that is current where it is called.
class CublasLt {
 public:
  // What an algorithm may use beside its operands: what NVIDIA recommends for Hopper.
  static constexpr int64_t kWorkspaceBytes = 32 << 20;
  static constexpr int64_t kAlignment = 64;  // bytes: what any of libtorch's allocators gives

  // FAILED_PRECONDITION with the linker's words where it cannot be loaded or is too old. libtorch's CUDA half, which
  // brings it, must be loaded before.
  static absl::StatusOr<std::shared_ptr<const CublasLt>> Load(const std::string& path = "libcublasLt.so.13");
  explicit CublasLt(const cublas_lt::Api& api) : api_(api) {}
  ~CublasLt();
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  int64_t version() const { return static_cast<int64_t>(api_.get_version()); }

  // Those that take the job, at most `most`, by the library's own estimate the fastest first. Empty where the GPU has
  // none. INTERNAL with the function's name and cuBLAS's code.
  absl::StatusOr<std::vector<CublasLtAlgorithm>> AlgorithmsFor(const CodesProductJob& job, int most) const;

  // Enqueues the product on `stream`. `workspace`: kWorkspaceBytes that nobody else uses until it is done. INTERNAL
  // likewise, also for an algorithm that does not take the job.
  absl::Status Multiply(const CodesProductJob& job, const CublasLtAlgorithm& algorithm, void* workspace,
                        void* stream) const;

 private:
  absl::StatusOr<cublas_lt::Handle> HandleOfDevice() const;

  const cublas_lt::Api api_;
  mutable Mutex mutex_;
  mutable cublas_lt::Handle handle_ FRESCO_GUARDED_BY(mutex_) = nullptr;  // made at its first use
};

}  // namespace fresco
