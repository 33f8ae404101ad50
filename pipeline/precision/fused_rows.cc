#include "pipeline/precision/fused_rows.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/addcmul.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/reciprocal.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>

#include <atomic>
#include <bit>
#include <span>
#include <utility>

#include "pipeline/kernels/cpu/row_kernels.h"
#include "pipeline/kernels/cuda_library.h"
#include "pipeline/kernels/e4m3.h"
#include "pipeline/kernels/row_jobs.h"
#include "pipeline/precision/cuda_kernels.h"
#include "pipeline/precision/row_codes.h"

namespace fresco {
namespace {

constexpr int64_t kGrain = 16;        // rows that a thread takes at least
constexpr int64_t kMaxHeadDim = 256;  // a vector for each thread of a warp

// Calls launch(library, stream) on the device of `x`.
template <typename Launch>
void OnStreamOf(const at::Tensor& x, const Launch& launch) {
  LaunchBeside(x, "fresco::row_kernel", launch);
}

// Codes of x's shape, not yet computed.
QuantizedRows EmptyRows(const at::Tensor& x, const RowQuantization& quantization) {
  const auto options = at::TensorOptions(x.device());
  QuantizedRows rows;
  rows.codes = at::empty(x.sizes(), options.dtype(CodeType(quantization.scheme)));
  rows.scale = at::empty({x.size(0) * x.size(1)}, options.dtype(at::kFloat));
  if (quantization.count_saturated)
    rows.saturated = quantization.counter.defined() ? quantization.counter : at::zeros({1}, options.dtype(at::kLong));
  rows.dtype = x.scalar_type();
  return rows;
}

// ---- on a GPU -------------------------------------------------------------------------------------------------------

kernels::RowShape ShapeOf(const at::Tensor& x, const PackedRows* packed = nullptr) {
  kernels::RowShape shape{x.size(0) * x.size(1), x.size(1), static_cast<int32_t>(x.size(2))};
  if (packed == nullptr) return shape;
  TORCH_CHECK(packed->sample_of_row.numel() == shape.rows, "packed samples of ", packed->sample_of_row.numel(),
              " tokens, not ", shape.rows);
  shape.sample_of_row = packed->sample_of_row.const_data_ptr<int32_t>();
  return shape;
}

kernels::RowOutput OutputTo(const QuantizedRows& rows, const RowQuantization& quantization) {
  kernels::RowOutput out;
  out.format = IsFp8(quantization.scheme) ? kernels::RowFormat::kE4M3 : kernels::RowFormat::kInt8;
  out.values = rows.codes.data_ptr();
  out.scales = rows.scale.mutable_data_ptr<float>();
  if (quantization.multiplier.defined()) out.multiplier = quantization.multiplier.const_data_ptr<float>();
  out.fixed_scale = quantization.fixed_scale.value_or(0);
  out.guard = quantization.guard;
  static_assert(sizeof(unsigned long long) == sizeof(int64_t));
  if (rows.saturated.defined()) out.saturated = static_cast<unsigned long long*>(rows.saturated.data_ptr());
  return out;
}

// A view where each sample's tokens adjoin and samples are a whole number of tokens apart, else a copy.
at::Tensor RowsOf(const at::Tensor& x) {
  const int64_t width = x.size(2);
  const bool adjoin = x.stride(2) == 1 && x.stride(1) == width && x.stride(0) % width == 0 && x.stride(0) > 0;
  return adjoin ? x : x.contiguous();
}

QuantizedRows RowsOnGpu(const at::Tensor& x, bool gelu, const RowQuantization& quantization) {
  const at::Tensor in = RowsOf(x);
  QuantizedRows rows = EmptyRows(in, quantization);
  const kernels::RowJob job{ShapeOf(in), in.const_data_ptr(), in.stride(0) / in.size(2), gelu,
                            OutputTo(rows, quantization)};
  OnStreamOf(in, [&](const CudaLibrary& library, void* stream) {
    return library.Rows(ElementOf(in.scalar_type()), job, stream);
  });
  return rows;
}

// A part of each sample's modulations, [B, 1, D]: a slice of wider rows.
kernels::SampleVectors VectorsOf(const at::Tensor& x) {
  TORCH_CHECK(x.stride(2) == 1 && x.stride(0) % kernels::kVector == 0, "modulations that are not rows of vectors");
  return {x.const_data_ptr(), x.stride(0)};
}

void NormModulateOnGpu(Residual* x, const ScaleShift& modulation, const kernels::RowOutput& out) {
  const at::Tensor in = x->x.contiguous(), branch = x->branch.defined() ? x->branch.contiguous() : at::Tensor();
  kernels::NormModulateJob job;
  job.shape = ShapeOf(in, x->packed);
  job.x = in.const_data_ptr();
  if (branch.defined()) {
    x->x = at::empty_like(in);
    job.branch = branch.const_data_ptr();
    job.gate = VectorsOf(x->gate);
    job.sum = x->x.data_ptr();
  }
  job.scale = VectorsOf(modulation.scale);
  job.shift = VectorsOf(modulation.shift);
  job.eps = static_cast<float>(modulation.eps);
  job.out = out;
  OnStreamOf(in, [&](const CudaLibrary& library, void* stream) {
    return library.NormModulate(ElementOf(in.scalar_type()), job, stream);
  });
  x->gate = x->branch = at::Tensor();
}

at::Tensor GateResidualOnGpu(const Residual& x) {
  const at::Tensor in = x.x.contiguous(), added = x.branch.contiguous();
  at::Tensor sum = at::empty_like(in);
  const kernels::GateResidualJob job{ShapeOf(in, x.packed), in.const_data_ptr(), added.const_data_ptr(),
                                     VectorsOf(x.gate), sum.data_ptr()};
  OnStreamOf(in, [&](const CudaLibrary& library, void* stream) {
    return library.GateResidual(ElementOf(in.scalar_type()), job, stream);
  });
  return sum;
}

// ---- elsewhere ------------------------------------------------------------------------------------------------------

// Calls compute(i, first, count) for each sample, the tokens that it has of all, and joins what it returns.
template <typename Compute>
at::Tensor ForEachSample(const PackedRows& packed, const Compute& compute) {
  std::vector<at::Tensor> results;
  int64_t first = 0;
  for (const int64_t count : packed.lengths) {
    results.push_back(compute(static_cast<int64_t>(results.size()), first, count));
    first += count;
  }
  return at::cat(results, 1);
}

at::Tensor GateResidualElsewhere(const Residual& x) {
  if (x.packed == nullptr) return at::addcmul(x.x, x.gate, x.branch);
  return ForEachSample(*x.packed, [&](int64_t i, int64_t first, int64_t count) {
    return at::addcmul(x.x.narrow(1, first, count), x.gate.narrow(0, i, 1), x.branch.narrow(1, first, count));
  });
}

at::Tensor NormModulateElsewhere(const Residual& x, const ScaleShift& modulation) {
  if (x.packed == nullptr) {
    const at::Tensor normed = at::layer_norm(x.x, {x.x.size(-1)}, {}, {}, modulation.eps);
    return at::addcmul(modulation.shift, normed, modulation.scale + 1);
  }
  return ForEachSample(*x.packed, [&](int64_t i, int64_t first, int64_t count) {
    return NormModulateElsewhere({x.x.narrow(1, first, count), {}, {}},
                                 {modulation.scale.narrow(0, i, 1), modulation.shift.narrow(0, i, 1), modulation.eps});
  });
}

// Element: float, or the bits of bfloat16.
template <typename Element>
void QuantizeOnCpu(const at::Tensor& x, const RowQuantization& quantization, const QuantizedRows& rows) {
  const int64_t width = x.size(2);
  const auto* elements = static_cast<const Element*>(x.const_data_ptr());
  auto* const codes = static_cast<uint8_t*>(rows.codes.data_ptr());
  auto* const scale = rows.scale.mutable_data_ptr<float>();
  std::atomic<int64_t> saturated = 0;
  at::parallel_for(0, rows.scale.numel(), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const std::span<const Element> token(elements + row * width, static_cast<size_t>(width));
      const TokenScale own = ScaleOfToken(token, quantization.scheme, quantization.fixed_scale, quantization.guard);
      scale[row] = own.scale;
      if (own.beyond != 0 && !quantization.guard) saturated += own.beyond;
      const float inverse = kernels::InverseScale(own.scale);
      if (IsFp8(quantization.scheme)) {
        kernels::QuantizeE4M3(token, inverse, codes + row * width);
      } else {
        kernels::QuantizeInt8(token, inverse, reinterpret_cast<int8_t*>(codes) + row * width);
      }
    }
  });
  if (rows.saturated.defined()) rows.saturated.add_(saturated.load());
}

// As the kernels, in libtorch's own operations.
void QuantizeByTensors(const at::Tensor& x, const RowQuantization& quantization, QuantizedRows* rows) {
  const at::Tensor wide = x.to(at::kFloat);
  at::Tensor scale = ScalesByTensors(wide, quantization.scheme);
  if (quantization.fixed_scale) {
    const double limit = LargestCode(quantization.scheme);
    const at::Tensor largest = wide.abs().amax({2}, /*keepdim=*/true);
    const at::Tensor fixed = at::full({}, *quantization.fixed_scale, scale.options());
    const at::Tensor within = quantization.guard ? largest <= fixed * limit : at::isfinite(largest);
    scale = at::where(within, fixed, scale);
    const bool counts = rows->saturated.defined() && !quantization.guard;
    if (counts) rows->saturated.add_((wide.abs() > scale * limit).sum());  // none of rows whose scale is NaN
  }
  rows->codes = CodesByTensors(wide, scale.reciprocal(), quantization.scheme);
  rows->scale = scale.view({-1});
}

QuantizedRows QuantizeElsewhere(const at::Tensor& x, const RowQuantization& quantization) {
  const at::Tensor in =
      (quantization.multiplier.defined() ? x.to(at::kFloat) * quantization.multiplier : x).contiguous();
  QuantizedRows rows = EmptyRows(in, quantization);
  if (!in.is_cpu()) {
    QuantizeByTensors(in, quantization, &rows);
  } else if (in.scalar_type() == at::kBFloat16) {
    QuantizeOnCpu<kernels::BFloat16Bits>(in, quantization, rows);
  } else {
    QuantizeOnCpu<float>(in.to(at::kFloat), quantization, rows);
  }
  rows.dtype = x.scalar_type();
  return rows;
}

}  // namespace

bool HasRowKernels(const at::Tensor& x) {
  const int64_t width = x.size(-1);
  return x.is_cuda() && IsHalfWide(x.scalar_type()) && width % kernels::kVector == 0 &&
         width <= kernels::kMaxRowWidth && CudaKernelsStatus().ok();
}

bool HasHeadKernels(const at::Tensor& qkv, int64_t heads) {
  const int64_t dim = qkv.size(-1) / (3 * heads);
  const bool known =
      dim % kernels::kVector == 0 && dim <= kMaxHeadDim && std::has_single_bit(static_cast<uint64_t>(dim));
  return known && HasRowKernels(qkv);
}

QuantizedRows QuantizeRows(const at::Tensor& x, const RowQuantization& quantization) {
  return HasRowKernels(x) ? RowsOnGpu(x, /*gelu=*/false, quantization) : QuantizeElsewhere(x, quantization);
}

QuantizedRows GeluQuantize(const at::Tensor& x, const RowQuantization& quantization) {
  if (HasRowKernels(x)) return RowsOnGpu(x, /*gelu=*/true, quantization);
  return QuantizeElsewhere(at::gelu(x, "tanh"), quantization);
}

at::Tensor GateResidual(const Residual& x) {
  return HasRowKernels(x.x) ? GateResidualOnGpu(x) : GateResidualElsewhere(x);
}

at::Tensor NormModulate(Residual* x, const ScaleShift& modulation) {
  if (HasRowKernels(x->x)) {
    at::Tensor result = at::empty(x->x.sizes(), x->x.options());
    kernels::RowOutput out;
    out.values = result.data_ptr();
    NormModulateOnGpu(x, modulation, out);
    return result;
  }
  if (x->branch.defined()) *x = {GateResidual(*x), {}, {}, x->packed};
  return NormModulateElsewhere(*x, modulation);
}

QuantizedRows NormModulateQuantize(Residual* x, const ScaleShift& modulation, const RowQuantization& quantization) {
  if (!HasRowKernels(x->x)) return QuantizeElsewhere(NormModulate(x, modulation), quantization);
  QuantizedRows rows = EmptyRows(x->x, quantization);
  NormModulateOnGpu(x, modulation, OutputTo(rows, quantization));
  return rows;
}

namespace {

kernels::NormHeadsJob HeadsJob(const at::Tensor& qkv, int64_t heads, const HeadNorms& norms, const at::Tensor& out) {
  TORCH_CHECK(qkv.is_contiguous() && out.is_contiguous(), "heads that are not contiguous");
  kernels::NormHeadsJob job;
  job.rows = qkv.size(0) * qkv.size(1);
  job.rows_per_sample = qkv.size(1);
  job.heads = static_cast<int32_t>(heads);
  job.head_dim = static_cast<int32_t>(qkv.size(2) / (3 * heads));
  job.qkv = qkv.const_data_ptr();
  if (norms.q.defined()) job.norm_q = norms.q.const_data_ptr();
  if (norms.k.defined()) job.norm_k = norms.k.const_data_ptr();
  job.eps = static_cast<float>(norms.eps);
  job.out = out.data_ptr();
  job.out_tokens = out.size(1);
  return job;
}

void LaunchNormHeads(const at::Tensor& qkv, const kernels::NormHeadsJob& job) {
  OnStreamOf(qkv, [&](const CudaLibrary& library, void* stream) {
    return library.NormHeads(ElementOf(qkv.scalar_type()), job, stream);
  });
}

}  // namespace

void NormHeads(const at::Tensor& qkv, int64_t heads, const HeadNorms& norms, const at::Tensor& out, int64_t first) {
  kernels::NormHeadsJob job = HeadsJob(qkv, heads, norms, out);
  job.first_token = first;
  LaunchNormHeads(qkv, job);
}

void NormHeads(const at::Tensor& qkv, int64_t heads, const HeadNorms& norms, const at::Tensor& out,
               const at::Tensor& targets) {
  kernels::NormHeadsJob job = HeadsJob(qkv, heads, norms, out);
  TORCH_CHECK(targets.numel() == job.rows, "targets of ", targets.numel(), " tokens, not ", job.rows);
  job.out_rows = targets.const_data_ptr<int32_t>();
  LaunchNormHeads(qkv, job);
}

at::Tensor DequantizeSums(const at::Tensor& sums, const at::Tensor& row_scale, const at::Tensor& column_scale,
                          const at::Tensor& bias, at::ScalarType dtype) {
  at::Tensor out = at::empty(sums.sizes(), sums.options().dtype(dtype));
  const bool same_type = !bias.defined() || bias.scalar_type() == dtype;
  if (!HasRowKernels(out) || !same_type) {
    const at::Tensor product = sums.to(at::kFloat) * (row_scale.unsqueeze(1) * column_scale);
    return (bias.defined() ? product + bias.to(at::kFloat) : product).to(dtype);
  }
  kernels::DequantizeJob job;
  job.shape = {sums.size(0), 1, static_cast<int32_t>(sums.size(1))};
  job.sums = sums.const_data_ptr<int32_t>();
  job.row_scales = row_scale.const_data_ptr<float>();
  job.column_scales = column_scale.const_data_ptr<float>();
  if (bias.defined()) job.bias = bias.const_data_ptr();
  job.out = out.data_ptr();
  OnStreamOf(sums, [&](const CudaLibrary& library, void* stream) {
    return library.Dequantize(ElementOf(dtype), job, stream);
  });
  return out;
}

}  // namespace fresco
