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

at::Tensor ByKernel(const Unbiased& x, const GroupNormWeights& weights, bool silu) {
  const at::Tensor in = x.sums.contiguous(at::MemoryFormat::ChannelsLast);
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
  if (x.bias.defined()) job.x_bias = x.bias.const_data_ptr();
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

}  // namespace

bool HasImageKernels(const at::Tensor& x, int64_t channels) {
  return x.is_cuda() && IsHalfWide(x.scalar_type()) && channels % kernels::kVector == 0 && CudaKernelsStatus().ok();
}

int64_t GroupNormScratchBytes(int64_t pixels, int64_t channels) {
  return ScratchFloats(pixels, channels) * static_cast<int64_t>(sizeof(float));
}

at::Tensor GroupNorm(const Unbiased& x, const GroupNormWeights& weights, bool silu) {
  if (HasImageKernels(x.sums, x.sums.size(1))) {
    TORCH_CHECK(x.sums.dim() == 4 && x.sums.size(0) == 1, "a group norm takes one image, not ", x.sums.sizes());
    return ByKernel(x, weights, silu);
  }
  TORCH_CHECK(!x.bias.defined(), "a bias that no kernel adds");
  at::Tensor normed = at::group_norm(x.sums, weights.groups, weights.weight, weights.bias, weights.eps);
  return silu ? at::silu_(normed) : normed;
}

at::Tensor AddImage(const Unbiased& x, const at::Tensor& y) {
  if (!x.bias.defined()) return x.sums.add_(y);
  TORCH_CHECK(x.sums.is_contiguous(at::MemoryFormat::ChannelsLast) && x.sums.sizes() == y.sizes(),
              "sums that are not channels-last, or of another size than what is added");
  const at::Tensor added = y.contiguous(at::MemoryFormat::ChannelsLast);
  kernels::AddImagesJob job;
  job.pixels = x.sums.size(2) * x.sums.size(3);
  job.channels = static_cast<int32_t>(x.sums.size(1));
  job.x = job.out = x.sums.data_ptr();
  job.x_bias = x.bias.const_data_ptr();
  job.y = added.const_data_ptr();
  LaunchBeside(x.sums, "fresco::add_images", [&](const CudaLibrary& library, void* stream) {
    return library.AddImages(ElementOf(x.sums.scalar_type()), job, stream);
  });
  return x.sums;
}

}  // namespace fresco
