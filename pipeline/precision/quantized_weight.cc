#include "pipeline/precision/quantized_weight.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/reciprocal.h>

#include <cstddef>
#include <span>
#include <utility>

#include "pipeline/kernels/cpu/row_kernels.h"
#include "pipeline/kernels/e4m3.h"
#include "pipeline/precision/row_codes.h"

namespace fresco {
namespace {

template <typename Element>
void QuantizeRow(std::span<const Element> row, LinearScheme scheme, void* codes, float* scale) {
  *scale = kernels::RowScale(kernels::AbsMax(row), LargestCode(scheme));
  const float inverse = kernels::InverseScale(*scale);
  if (IsFp8(scheme)) {
    kernels::QuantizeE4M3(row, inverse, static_cast<uint8_t*>(codes));
  } else {
    kernels::QuantizeInt8(row, inverse, static_cast<int8_t*>(codes));
  }
}

// Element: float, or the bits of bfloat16.
template <typename Element>
void QuantizeRows(const at::Tensor& weight, LinearScheme scheme, const QuantizedWeight& result) {
  const int64_t n = weight.size(1);
  const auto* data = static_cast<const Element*>(weight.const_data_ptr());
  auto* codes = static_cast<std::byte*>(result.codes.data_ptr());
  auto* scale = result.scale.mutable_data_ptr<float>();
  at::parallel_for(0, weight.size(0), 16, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      QuantizeRow(std::span(data + row * n, static_cast<size_t>(n)), scheme, codes + row * n, scale + row);
    }
  });
}

QuantizedWeight QuantizeOnCpu(const at::Tensor& weight, LinearScheme scheme) {
  QuantizedWeight result{at::empty(weight.sizes(), CodeType(scheme)), at::empty({weight.size(0)}, at::kFloat)};
  if (weight.scalar_type() == at::kFloat) {
    QuantizeRows<float>(weight, scheme, result);
  } else {
    QuantizeRows<kernels::BFloat16Bits>(weight, scheme, result);
  }
  return result;
}

// As the kernels, in libtorch's own operations.
QuantizedWeight QuantizeOnGpu(const at::Tensor& weight, LinearScheme scheme) {
  const at::Tensor wide = weight.to(at::kFloat);
  const at::Tensor scale = ScalesByTensors(wide, scheme);
  return {CodesByTensors(wide, scale.reciprocal(), scheme), scale.squeeze(1)};
}

template <typename Element>
void ExpandRow(std::span<const uint8_t> codes, float scale, Element* values) {
  kernels::ExpandE4M3Scaled(codes, scale, values);
}
template <typename Element>
void ExpandRow(std::span<const int8_t> codes, float scale, Element* values) {
  kernels::ExpandInt8Scaled(codes, scale, values);
}

// Code: uint8_t of E4M3, int8_t.
template <typename Code, typename Element>
void ExpandRows(const QuantizedWeight& weight, Element* values) {
  const int64_t n = weight.codes.size(1);
  const auto* codes = static_cast<const Code*>(weight.codes.const_data_ptr());
  const float* scale = weight.scale.const_data_ptr<float>();
  at::parallel_for(0, weight.codes.size(0), 16, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      ExpandRow(std::span(codes + row * n, static_cast<size_t>(n)), scale[row], values + row * n);
    }
  });
}

template <typename Code>
void ExpandOnCpu(const QuantizedWeight& weight, const at::Tensor& values) {
  if (values.scalar_type() == at::kFloat) {
    ExpandRows<Code>(weight, values.mutable_data_ptr<float>());
  } else {
    ExpandRows<Code>(weight, static_cast<kernels::BFloat16Bits*>(values.mutable_data_ptr()));
  }
}

bool Adjoin(const at::Tensor& a, const at::Tensor& b) {
  return static_cast<const std::byte*>(a.const_data_ptr()) + a.nbytes() == b.const_data_ptr();
}

// One view where the parts lie one after the other, else a copy.
at::Tensor StackRows(const std::vector<at::Tensor>& parts) {
  int64_t rows = parts.front().size(0);
  bool one = parts.front().is_cpu();
  for (size_t i = 1; i < parts.size(); ++i) {
    rows += parts[i].size(0);
    one = one && Adjoin(parts[i - 1], parts[i]);
  }
  if (!one) return at::cat(parts);
  std::vector<int64_t> shape = parts.front().sizes().vec();
  shape[0] = rows;
  return at::from_blob(
      parts.front().data_ptr(), shape, [keep = parts](void*) {}, parts.front().options());
}

}  // namespace

QuantizedWeight QuantizeWeight(const at::Tensor& weight, LinearScheme scheme) {
  if (weight.is_meta()) {
    const auto options = weight.options();
    return {at::empty(weight.sizes(), options.dtype(CodeType(scheme))),
            at::empty({weight.size(0)}, options.dtype(at::kFloat))};
  }
  if (!weight.is_cpu()) return QuantizeOnGpu(weight, scheme);
  const bool known = weight.scalar_type() == at::kFloat || weight.scalar_type() == at::kBFloat16;
  return QuantizeOnCpu(known ? weight.contiguous() : weight.to(at::kFloat).contiguous(), scheme);
}

at::Tensor Dequantize(const QuantizedWeight& weight, at::ScalarType dtype) {
  const bool known = dtype == at::kFloat || dtype == at::kBFloat16;
  if (weight.codes.is_cpu() && known) {
    at::Tensor values = at::empty(weight.codes.sizes(), dtype);
    Dequantize(weight, values);
    return values;
  }
  return (weight.codes.to(at::kFloat) * weight.scale.unsqueeze(1)).to(dtype);
}

void Dequantize(const QuantizedWeight& weight, at::Tensor& values) {
  if (weight.codes.scalar_type() == at::kChar) {
    ExpandOnCpu<int8_t>(weight, values);
  } else {
    ExpandOnCpu<uint8_t>(weight, values);
  }
}

QuantizedWeight Stack(const std::vector<QuantizedWeight>& parts) {
  std::vector<at::Tensor> codes, scales;
  for (const QuantizedWeight& part : parts) {
    codes.push_back(part.codes);
    scales.push_back(part.scale);
  }
  return {StackRows(codes), at::cat(scales)};
}

}  // namespace fresco
