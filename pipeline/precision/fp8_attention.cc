#include "pipeline/precision/fp8_attention.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

#include "pipeline/kernels/attention8_jobs.h"
#include "pipeline/kernels/cpu/attention8.h"
#include "pipeline/kernels/cuda_library.h"
#include "pipeline/kernels/element_types.h"
#include "pipeline/kernels/row_jobs.h"
#include "pipeline/precision/cuda_kernels.h"
#include "pipeline/precision/layer_scope.h"

namespace fresco {
namespace {

static_assert(kFp8HeadDim == kernels::kAttention8Dim);
constexpr double kScale = 0.125;  // 1 / sqrt(64)

// Codes and scales, in one piece of memory.
class CodesOfHeads {
 public:
  explicit CodesOfHeads(const at::Tensor& q) : heads_(q.size(0) * q.size(1)), tokens_(q.size(2)) {
    memory_ = at::empty({Fp8AttentionBytes(q.size(0), q.size(1), tokens_)}, q.options().dtype(at::kByte));
    auto* next = memory_.mutable_data_ptr<uint8_t>();
    const auto take = [&](int64_t bytes) {
      uint8_t* const taken = next;
      next += Padded(bytes);
      return taken;
    };
    const Sizes sizes(heads_, tokens_);
    codes_.q = take(sizes.q);
    codes_.k = take(sizes.k);
    codes_.v = take(sizes.k);
    codes_.q_scales = reinterpret_cast<float*>(take(sizes.q_scales));
    codes_.heads = reinterpret_cast<kernels::HeadScales*>(take(sizes.heads));
    tiles_ = reinterpret_cast<kernels::TileStatistics*>(take(sizes.tiles));
  }

  const kernels::HeadCodes& codes() const { return codes_; }
  kernels::TileStatistics* tiles() const { return tiles_; }

  static int64_t Bytes(int64_t heads, int64_t tokens) {
    const Sizes sizes(heads, tokens);
    return Padded(sizes.q) + 2 * Padded(sizes.k) + Padded(sizes.q_scales) + Padded(sizes.heads) + Padded(sizes.tiles);
  }

 private:
  struct Sizes {
    Sizes(int64_t heads, int64_t tokens)
        : q(heads * tokens * kFp8HeadDim),
          k(heads * kernels::FilledTokens(tokens) * kFp8HeadDim),
          q_scales(heads * tokens * int64_t{sizeof(float)}),
          heads(heads * int64_t{sizeof(kernels::HeadScales)}),
          tiles(heads * kernels::TilesOf(tokens) * int64_t{sizeof(kernels::TileStatistics)}) {}
    const int64_t q, k, q_scales, heads, tiles;
  };

  static int64_t Padded(int64_t bytes) {
    constexpr int64_t kAlignment = 64;
    return (bytes + kAlignment - 1) / kAlignment * kAlignment;
  }

  const int64_t heads_, tokens_;
  at::Tensor memory_;
  kernels::HeadCodes codes_;
  kernels::TileStatistics* tiles_ = nullptr;
};

// A view where the kernels take x's layout, else a copy.
at::Tensor RowsInPieces(const at::Tensor& x) {
  constexpr uintptr_t kAlignment = 16;  // bytes
  bool fits = x.stride(3) == 1 && reinterpret_cast<uintptr_t>(x.const_data_ptr()) % kAlignment == 0;
  for (const int64_t stride : x.strides().slice(0, 3)) fits = fits && stride % kernels::kVector == 0;
  return fits ? x : x.contiguous();
}

kernels::HeadRows RowsOf(const at::Tensor& x) {
  return {x.const_data_ptr(), x.stride(0), x.stride(1), x.stride(2)};
}

void ComputeOnGpu(const at::Tensor& q, const kernels::EncodeHeadsJob& encode, const kernels::Attention8Job& attend) {
  const CudaElement type = ElementOf(q.scalar_type());
  LaunchBeside(q, "fresco::encode_heads",
               [&](const CudaLibrary& library, void* stream) { return library.EncodeHeads(type, encode, stream); });
  LaunchBeside(q, "fresco::attention8",
               [&](const CudaLibrary& library, void* stream) { return library.Attention8(type, attend, stream); });
}

template <typename Type>
void ComputeOnCpu(const kernels::EncodeHeadsJob& encode, const kernels::Attention8Job& attend) {
  const KernelScope scope("fresco::attention8");
  at::parallel_for(0, encode.samples * encode.heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t head = begin; head < end; ++head) {
      kernels::EncodeHeadOnCpu<Type>(encode, head);
      kernels::AttendHeadOnCpu<Type>(attend, head);
    }
  });
}

at::Tensor Compute(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const CodesOfHeads codes(q);
  const auto heads = static_cast<int32_t>(q.size(1));
  at::Tensor result = at::empty({q.size(0), q.size(2), q.size(1) * kFp8HeadDim}, q.options());
  const kernels::EncodeHeadsJob encode{q.size(0), q.size(2), heads,         RowsOf(q),
                                       RowsOf(k), RowsOf(v), codes.codes(), codes.tiles()};
  const kernels::Attention8Job attend{
      q.size(0), q.size(2), heads, static_cast<float>(kScale), codes.codes(), result.mutable_data_ptr()};
  if (!q.is_cpu()) {
    ComputeOnGpu(q, encode, attend);
  } else if (q.scalar_type() == at::kFloat) {
    ComputeOnCpu<kernels::Float32>(encode, attend);
  } else if (q.scalar_type() == at::kHalf) {
    ComputeOnCpu<kernels::Float16>(encode, attend);
  } else {
    ComputeOnCpu<kernels::BFloat16>(encode, attend);
  }
  return result;
}

}  // namespace

bool HasFp8Attention(const at::Device& device, at::ScalarType type) {
  return device.is_cpu() || (device.is_cuda() && IsHalfWide(type) && CudaKernelsStatus().ok());
}

at::Tensor Fp8Attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  TORCH_CHECK(q.size(3) == kFp8HeadDim && q.sizes() == k.sizes() && q.sizes() == v.sizes(), "FP8 attention of ",
              q.sizes());
  return Compute(RowsInPieces(q), RowsInPieces(k), RowsInPieces(v));
}

int64_t Fp8AttentionBytes(int64_t samples, int64_t heads, int64_t tokens) {
  return CodesOfHeads::Bytes(samples * heads, tokens);
}

}  // namespace fresco
