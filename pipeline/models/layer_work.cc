#include "pipeline/models/layer_work.h"

#include <string>

#include "pipeline/precision/quantized_linear.h"

namespace fresco {
namespace {

std::string TypeName(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return "fp32";
    case at::kBFloat16:
      return "bf16";
    case at::kHalf:
      return "fp16";
    default:
      return c10::toString(type);
  }
}

struct WeightOf {
  int64_t out = 0;
  int64_t bytes = 0;
  std::string dtype;
};

WeightOf Weigh(const Linear& linear) {
  if (linear.quantized != nullptr) {
    const QuantizedWeight& weight = linear.quantized->weight();
    return {weight.codes.size(0), weight.bytes(), std::string(SchemeName(linear.quantized->scheme()))};
  }
  if (linear.parts == nullptr) {
    return {linear.weight.size(0), BytesOf(linear.weight) + BytesOf(linear.bias),
            TypeName(linear.weight.scalar_type())};
  }
  WeightOf whole;
  for (const Linear& part : *linear.parts) {
    const WeightOf own = Weigh(part);
    whole = {whole.out + own.out, whole.bytes + own.bytes, whole.dtype.empty() ? own.dtype : whole.dtype};
  }
  return whole;
}

LayerWork Product(const WeightOf& weight, const at::Tensor& x, int64_t result_element_bytes) {
  const int64_t in = x.size(-1), rows = x.numel() / in;
  return {2 * rows * in * weight.out, weight.bytes + BytesOf(x) + rows * weight.out * result_element_bytes,
          weight.dtype};
}

at::Tensor MultiplierOf(const RowQuantization* codes) {
  return codes != nullptr ? codes->multiplier : at::Tensor();
}

// Of x's tokens, or of their codes, a byte each, and scales, one a token.
int64_t BytesOfRows(const at::Tensor& x, const RowQuantization* codes) {
  if (codes == nullptr) return BytesOf(x);
  return x.numel() + x.numel() / x.size(-1) * static_cast<int64_t>(sizeof(float));
}

}  // namespace

int64_t BytesOf(const at::Tensor& tensor) {
  // Not nbytes(): a weight in oneDNN's own layout has none.
  return tensor.defined() ? tensor.numel() * static_cast<int64_t>(tensor.element_size()) : 0;
}

LayerWork LinearWork(const Linear& linear, const at::Tensor& x) {
  return Product(Weigh(linear), x, static_cast<int64_t>(x.element_size()));
}

LayerWork CodesWork(const Linear& linear, const QuantizedRows& rows) {
  constexpr int64_t kResultBytes = 2;  // fp16 or bf16: kernels make codes of no other tokens
  LayerWork work = Product(Weigh(linear), rows.codes, kResultBytes);
  work.bytes += BytesOf(rows.scale);
  return work;
}

LayerWork AttentionWork(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, bool fp8) {
  return {4 * q.numel() * k.size(2), 2 * BytesOf(q) + BytesOf(k) + BytesOf(v), fp8 ? "fp8" : TypeName(q.scalar_type())};
}

LayerWork ConvWork(const ConvShape& conv, const at::Tensor& x) {
  const int64_t in = x.size(1), pixels = x.size(0) * (x.size(2) / conv.stride) * (x.size(3) / conv.stride);
  const int64_t result = pixels * conv.out * static_cast<int64_t>(x.element_size());
  return {2 * conv.kernel * conv.kernel * in * conv.out * pixels, conv.weight_bytes + BytesOf(x) + result,
          TypeName(x.scalar_type())};
}

LayerWork ElementwiseWork(std::initializer_list<at::Tensor> inputs, int64_t written) {
  LayerWork work{0, written, ""};
  for (const at::Tensor& input : inputs) {
    if (!input.defined()) continue;
    if (work.dtype.empty()) work.dtype = TypeName(input.scalar_type());
    work.bytes += BytesOf(input);
  }
  return work;
}

LayerWork NormModulateWork(const Residual& x, const ScaleShift& modulation, const RowQuantization* codes) {
  const int64_t sum = x.branch.defined() ? BytesOf(x.x) : 0;  // which is written too
  return ElementwiseWork({x.x, x.gate, x.branch, modulation.scale, modulation.shift, MultiplierOf(codes)},
                         sum + BytesOfRows(x.x, codes));
}

LayerWork ActivationWork(const at::Tensor& x, const RowQuantization* codes) {
  return ElementwiseWork({x, MultiplierOf(codes)}, BytesOfRows(x, codes));
}

LayerWork RowWork(const at::Tensor& table, const at::Tensor& ids) {
  const int64_t rows = ids.numel() * table.size(1) * static_cast<int64_t>(table.element_size());
  return {0, 2 * rows + BytesOf(ids), TypeName(table.scalar_type())};
}

at::Tensor TokensOf(const char* name, const Linear& linear, const at::Tensor& x) {
  const LayerScope scope(name, [&] { return LinearWork(linear, x); });
  return linear.Tokens(x);
}

at::Tensor RowsOf(const char* name, const Linear& linear, const at::Tensor& x) {
  const LayerScope scope(name, [&] { return LinearWork(linear, x); });
  return linear.Rows(x);
}

}  // namespace fresco
