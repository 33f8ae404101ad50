#include "pipeline/precision/group_norm.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/group_norm.h>
#include <ATen/ops/silu.h>
#include <c10/util/Exception.h>

#include "pipeline/kernels/cuda_library.h"
#include "pipeline/kernels/group_norm_job.h"
#include "pipeline/kernels/row_jobs.h"
#include "pipeline/precision/cuda_kernels.h"

namespace fresco {
namespace {

constexpr int64_t kAffine = 3;  // GroupNormJob::affine's rows

int64_t ScratchFloats(int64_t pixels, int64_t channels) {
  return (2 * kernels::GroupNormRuns(pixels, channels) + kAffine) * channels;
}

at::Tensor ByKernel(const at::Tensor& x, const GroupNormWeights& weights, bool silu) {
  const at::Tensor in = x.contiguous(at::MemoryFormat::ChannelsLast);
  const at::Tensor weight = weights.weight.contiguous(), bias = weights.bias.contiguous();
  at::Tensor out = at::empty(in.sizes(), in.options(), at::MemoryFormat::ChannelsLast);
  const int64_t pixels = in.size(2) * in.size(3), channels = in.size(1);
  const at::Tensor scratch = at::empty({ScratchFloats(pixels, channels)}, in.options().dtype(at::kFloat));
  kernels::GroupNormJob job;
  job.pixels = pixels;
  job.runs = kernels::GroupNormRuns(pixels, channels);
  job.channels = static_cast<int32_t>(channels);
  job.groups = static_cast<int32_t>(weights.groups);
  job.x = in.const_data_ptr();
  job.weight = weight.const_data_ptr();
  job.bias = bias.const_data_ptr();
  job.eps = static_cast<float>(weights.eps);
  job.silu = silu;
  job.means = scratch.mutable_data_ptr<float>();
  job.squares = job.means + job.runs * channels;
  job.affine = job.squares + job.runs * channels;
  job.out = out.data_ptr();
  LaunchBeside(in, "fresco::group_norm", [&](const CudaLibrary& library, void* stream) {
    return library.GroupNorm(ElementOf(in.scalar_type()), job, stream);
  });
  return out;
}

bool HasKernel(const at::Tensor& x) {
  return x.is_cuda() && IsHalfWide(x.scalar_type()) && x.size(1) % kernels::kVector == 0 && CudaKernelsStatus().ok();
}

}  // namespace

int64_t GroupNormScratchBytes(int64_t pixels, int64_t channels) {
  return ScratchFloats(pixels, channels) * static_cast<int64_t>(sizeof(float));
}

at::Tensor GroupNorm(const at::Tensor& x, const GroupNormWeights& weights, bool silu) {
  if (HasKernel(x)) {
    TORCH_CHECK(x.dim() == 4 && x.size(0) == 1, "a group norm takes one image at a time, not ", x.sizes());
    return ByKernel(x, weights, silu);
  }
  at::Tensor normed = at::group_norm(x, weights.groups, weights.weight, weights.bias, weights.eps);
  return silu ? at::silu_(normed) : normed;
}

}  // namespace fresco
