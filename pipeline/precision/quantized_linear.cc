#include "pipeline/precision/quantized_linear.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/_int_mm.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <atomic>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "pipeline/base/ceiling.h"
#include "pipeline/base/processor.h"
#include "pipeline/kernels/cpu/row_kernels.h"
#include "pipeline/kernels/e4m3.h"
#include "pipeline/precision/device_counters.h"
#include "pipeline/precision/layer_scope.h"
#include "pipeline/precision/packed_product.h"
#include "pipeline/precision/row_codes.h"
#include "pipeline/precision/row_independence.h"

namespace fresco {
namespace {

// Of a weight, expanded: on a CPU small enough to stay in its cache until the product has read it, on a GPU large
// enough to keep it busy (expanding takes five times that, in fp32).
constexpr int64_t kCpuPieceBytes = 6 << 20;
constexpr int64_t kGpuPieceBytes = 32 << 20;
constexpr int64_t kMinPieceRows = 64;
// What a core computes of an int8 product before it scales it: at most 6 MiB of sums.
constexpr int64_t kSumRows = 1024;
constexpr int64_t kSumColumns = 1536;
constexpr int64_t kGrain = 16;  // rows that a thread takes at least

std::optional<at::Tensor> Optional(const at::Tensor& tensor) {
  return tensor.defined() ? std::optional(tensor) : std::nullopt;
}

template <typename Work>
void ForRows(int64_t rows, const Work& work) {
  at::parallel_for(0, rows, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) work(row);
  });
}

// Calls `work` with a pointer to the elements, float or the bits of bf16.
template <typename Work>
void WithElements(const at::Tensor& x, const Work& work) {
  if (x.scalar_type() == at::kFloat) {
    work(static_cast<float*>(x.data_ptr()));
  } else {
    work(static_cast<uint16_t*>(x.data_ptr()));
  }
}

template <typename Element>
std::span<const Element> Row(const Element* elements, int64_t row, int64_t n) {
  return {elements + row * n, static_cast<size_t>(n)};
}

// Calls work(begin, rows) for pieces of a weight, rows [begin, begin + rows), that take about `bytes` in `dtype`.
template <typename Work>
void ForPieces(const QuantizedWeight& weight, at::ScalarType dtype, int64_t bytes, const Work& work) {
  const int64_t out = weight.codes.size(0);
  const int64_t row_bytes = weight.codes.size(1) * static_cast<int64_t>(c10::elementSize(dtype));
  const int64_t piece_rows = std::max(kMinPieceRows, bytes / row_bytes);
  for (int64_t begin = 0; begin < out; begin += piece_rows) work(begin, std::min(piece_rows, out - begin));
}

// Calls work(pieces) on every thread, with its share of a weight's rows as [begin, rows) in pieces of at most
// `piece_rows`. What it multiplies stays on its thread: threads that wait for each other at every product cost more
// than they gain.
struct Piece {
  int64_t begin, rows;
};
template <typename Work>
void ForPiecesOfThreads(int64_t out, int64_t piece_rows, const Work& work) {
  constexpr int64_t kMultiple = 16;  // of rows: whole vectors of results
  const int64_t threads = at::get_num_threads();
  const int64_t count = CeilingOf(CeilingOf(out, piece_rows), threads) * threads;  // none waits for another's last one
  const int64_t rows = CeilingOf(CeilingOf(out, count), kMultiple) * kMultiple;
  at::parallel_for(0, CeilingOf(out, rows), 1, [&](int64_t first, int64_t last) {
    const c10::InferenceMode inference;  // is a thread's own
    std::vector<Piece> pieces;
    for (int64_t i = first; i < last; ++i) pieces.push_back({i * rows, std::min(rows, out - i * rows)});
    work(pieces);
  });
}

// The values of E4M3 codes [out, in], kFloat.
at::Tensor ValuesOf(const at::Tensor& codes) {
  const KernelScope scope("fresco::expand_e4m3");
  const int64_t n = codes.size(1);
  at::Tensor values = at::empty(codes.sizes(), at::kFloat);
  const auto* in = static_cast<const uint8_t*>(codes.const_data_ptr());
  auto* out = values.mutable_data_ptr<float>();
  ForRows(codes.size(0), [&](int64_t row) { kernels::ExpandE4M3(Row(in, row, n), out + row * n); });
  return values;
}

// codes [M, in] times codes [out, in], exact, into int32 [M, out].
//
// Without instructions for it libtorch's product of int8 is a plain loop, 180 times as slow as fp32's. That is exact
// too while its sums stay below 2^24, whatever their order: 1024 products of codes of at most 128.
void Int8Product(const at::Tensor& x, const at::Tensor& weight, at::Tensor& sums) {
  if (ProcessorHasAvx512Vnni()) {
    at::_int_mm_out(sums, x, weight.t());
    return;
  }
  constexpr int64_t kExact = 1024;
  const int64_t in = x.size(1);
  sums.zero_();
  for (int64_t begin = 0; begin < in; begin += kExact) {
    const int64_t count = std::min(kExact, in - begin);
    const at::Tensor part = weight.narrow(1, begin, count).to(at::kFloat);
    sums.add_(at::mm(x.narrow(1, begin, count).to(at::kFloat), part.t()).to(at::kInt));
  }
}

QuantizedWeight RowsOf(const QuantizedWeight& weight, int64_t begin, int64_t rows) {
  return {weight.codes.narrow(0, begin, rows), weight.scale.narrow(0, begin, rows)};
}

// What at::linear computes.
void MultiplyInto(at::Tensor& result, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  if (bias.defined()) {
    at::addmm_out(result, bias, x, weight.t());
  } else {
    at::mm_out(result, x, weight.t());
  }
}

at::Tensor BiasOf(const at::Tensor& bias, int64_t begin, int64_t rows) {
  return bias.defined() ? bias.narrow(0, begin, rows) : bias;
}

void ScaleRow(std::span<const float> sums, float token_scale, const float* weight_scale, const float* bias, auto* out) {
  kernels::ScaleColumns(sums, token_scale, weight_scale, bias, out);
}
void ScaleRow(std::span<const int32_t> sums, float token_scale, const float* weight_scale, const float* bias,
              auto* out) {
  kernels::DequantizeInt32(sums, token_scale, weight_scale, bias, out);
}

// What a product of codes is multiplied by, and what is added.
struct Epilogue {
  const float* token_scale;
  const float* weight_scale;
  const float* bias;  // or null
};

// out[row] = sums[row] * (token_scale[row] * weight_scale) + bias, in out's type; out's rows need not adjoin.
template <typename Sum>
void Scale(const at::Tensor& sums, const Epilogue& epilogue, const at::Tensor& out) {
  const KernelScope scope("fresco::scale_sums");
  const int64_t n = sums.size(1), stride = out.stride(0);
  const auto* in = static_cast<const Sum*>(sums.const_data_ptr());
  WithElements(out, [&](auto* elements) {
    ForRows(sums.size(0), [&](int64_t row) {
      ScaleRow(Row(in, row, n), epilogue.token_scale[row], epilogue.weight_scale, epilogue.bias,
               elements + row * stride);
    });
  });
}

void StoreElement(float value, float* element) {
  *element = value;
}
void StoreElement(float value, uint16_t* element) {
  *element = kernels::BFloat16::Store(value);
}

// A row of a weight at a time, as Dequantize gives it in the type of Element, in floats.
template <typename Element>
class ExpandedRow {
 public:
  explicit ExpandedRow(const QuantizedWeight& weight)
      : weight_(weight), row_(weight.codes.size(1)), values_(weight.codes.size(1)) {}

  void Expand(int64_t row) {
    const float scale = weight_.scale.const_data_ptr<float>()[row];
    const auto n = static_cast<int64_t>(row_.size());
    if (weight_.codes.scalar_type() == at::kChar) {
      kernels::ExpandInt8Scaled(Row(weight_.codes.const_data_ptr<int8_t>(), row, n), scale, row_.data());
    } else {
      const auto* codes = static_cast<const uint8_t*>(weight_.codes.const_data_ptr());
      kernels::ExpandE4M3Scaled(Row(codes, row, n), scale, row_.data());
    }
    if constexpr (!std::is_same_v<Element, float>) kernels::Widen(row_, values_.data());
  }

  const float* values() const {
    if constexpr (std::is_same_v<Element, float>) return row_.data();
    return values_.data();
  }

 private:
  const QuantizedWeight& weight_;
  std::vector<Element> row_;
  std::vector<float> values_;
};

const float* FloatsOrNull(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr<float>() : nullptr;
}

}  // namespace

// Tokens as codes.
struct QuantizedLinear::Tokens {
  at::Tensor values;  // [M, in]: kFloat (the values of E4M3 codes) or kChar
  at::Tensor scale;   // [M], kFloat
};

QuantizedLinear::QuantizedLinear(QuantizedWeight weight, at::Tensor bias, LinearScheme scheme, InputQuantization input,
                                 std::shared_ptr<const DeviceKernels> kernels)
    : weight_(std::move(weight)),
      bias_(std::move(bias)),
      scheme_(scheme),
      input_(std::move(input)),
      kernels_(std::move(kernels)),
      counter_(NewCounter()),
      one_(NewUnit()) {}

bool QuantizedLinear::MaySaturate() const {
  return input_.scale && !input_.overflow_guard && input_.saturation != nullptr;
}

at::Tensor QuantizedLinear::NewCounter() const {
  const bool on_device = MaySaturate() && weight_.codes.is_cuda() && input_.saturation->device_counters() != nullptr;
  if (!on_device) return {};
  return input_.saturation->device_counters()->Of(input_.layer, weight_.codes.device());
}

at::Tensor QuantizedLinear::NewUnit() const {
  const bool needed = scheme_ == LinearScheme::kFp8 && HasOneScale(input_) && weight_.codes.is_cuda();
  return needed ? UnitScale(weight_.codes.device()) : at::Tensor();
}

void QuantizedLinear::Count(int64_t beyond, int64_t elements) const {
  if (input_.saturation == nullptr) return;
  const bool guard = input_.overflow_guard;
  input_.saturation->Add(input_.layer, {guard ? 0 : beyond, guard ? beyond : 0, elements});
}

QuantizedLinear::Tokens QuantizedLinear::Quantize(const at::Tensor& rows) const {
  const KernelScope scope("fresco::quantize_tokens");
  const int64_t count = rows.size(0), n = rows.size(1);
  const bool fp8 = IsFp8(scheme_);
  Tokens tokens{at::empty({count, n}, fp8 ? at::kFloat : at::kChar), at::empty({count}, at::kFloat)};
  auto* scale = tokens.scale.mutable_data_ptr<float>();
  void* values = tokens.values.data_ptr();
  std::atomic<int64_t> beyond = 0;
  WithElements(rows, [&](auto* elements) {
    ForRows(count, [&](int64_t row) {
      const auto in = Row<std::remove_pointer_t<decltype(elements)>>(elements, row, n);
      const TokenScale token = ScaleOfToken(in, scheme_, input_.scale, input_.overflow_guard);
      if (token.beyond != 0) beyond += token.beyond;
      scale[row] = token.scale;
      const float inverse = kernels::InverseScale(token.scale);
      if (fp8) {
        kernels::RoundTripE4M3(in, inverse, static_cast<float*>(values) + row * n);
      } else {
        kernels::QuantizeInt8(in, inverse, static_cast<int8_t*>(values) + row * n);
      }
    });
  });
  Count(beyond, rows.numel());
  return tokens;
}

// Inputs times the multiplier; what becomes codes stays in fp32, as where kernels make them (RowOutput).
at::Tensor QuantizedLinear::Multiplied(const at::Tensor& x) const {
  if (!input_.multiplier.defined()) return x;
  const at::Tensor wide = x.to(at::kFloat) * input_.multiplier;
  return QuantisesActivations(scheme_) ? wide : wide.to(x.scalar_type());
}

at::Tensor QuantizedLinear::Product(const at::Tensor& given) const {
  const at::ScalarType type = given.scalar_type();
  const int64_t samples = given.size(0);
  if (given.is_cpu() && type == at::kHalf) return Product(given.to(at::kFloat)).to(at::kHalf);
  if (!given.is_cpu() && QuantisesActivations(scheme_)) return Product(QuantizeRows(given, input_rows()));
  const at::Tensor x = Multiplied(given).reshape({-1, given.size(2)});
  at::Tensor y;
  if (!QuantisesActivations(scheme_)) {
    y = x.is_cpu() ? ExpandedOnCpu(x, samples) : ExpandedOnGpu(x);
  } else if (scheme_ == LinearScheme::kFp8) {
    y = Fp8OnCpu(Quantize(x), samples, type);
  } else {
    y = Int8OnCpu(Quantize(x), type);
  }
  return y.view({samples, given.size(1), -1});
}

at::Tensor QuantizedLinear::Rows(const at::Tensor& given) const {
  const KernelScope scope("fresco::rows_times_codes");
  const at::ScalarType type = given.scalar_type();
  if (type == at::kHalf) return Rows(given.to(at::kFloat)).to(at::kHalf);
  const at::Tensor x = Multiplied(given).to(at::kFloat).contiguous();
  const at::Tensor bias = bias_.defined() ? bias_.to(type).to(at::kFloat) : bias_;
  const int64_t count = x.size(0), n = x.size(1), out = weight_.codes.size(0);
  at::Tensor result = at::empty({count, out}, given.options());
  const auto* rows = x.const_data_ptr<float>();
  const float* addends = FloatsOrNull(bias);
  WithElements(result, [&](auto* elements) {
    using Element = std::remove_pointer_t<decltype(elements)>;
    at::parallel_for(0, out, kGrain, [&](int64_t begin, int64_t end) {
      ExpandedRow<Element> weight(weight_);
      for (int64_t column = begin; column < end; ++column) {
        weight.Expand(column);
        for (int64_t row = 0; row < count; ++row) {
          const float sum = kernels::Dot(Row(rows, row, n), weight.values());
          StoreElement(addends == nullptr ? sum : sum + addends[column], elements + row * out + column);
        }
      }
    });
  });
  return result;
}

at::Tensor QuantizedLinear::ExpandedOnGpu(const at::Tensor& x) const {
  const at::ScalarType type = x.scalar_type();
  const at::Tensor bias = bias_.defined() ? bias_.to(type) : bias_;
  at::Tensor result = at::empty({x.size(0), weight_.codes.size(0)}, x.options());
  ForPieces(weight_, type, kGpuPieceBytes, [&](int64_t begin, int64_t rows) {
    const at::Tensor product =
        at::linear(x, Dequantize(RowsOf(weight_, begin, rows), type), Optional(BiasOf(bias, begin, rows)));
    result.narrow(1, begin, rows).copy_(product);
  });
  return result;
}

// Each sample is a product of its own where what adds up a row's products depends on the number of rows.
at::Tensor QuantizedLinear::ExpandedOnCpu(const at::Tensor& x, int64_t samples) const {
  const KernelScope scope("fresco::expanded_product");
  const at::ScalarType type = x.scalar_type();
  const int64_t count = x.size(0), in = x.size(1), rows_at_once = RowsAreIndependent(type) ? count : count / samples;
  const at::Tensor bias = bias_.defined() ? bias_.to(type) : bias_;
  at::Tensor result = at::empty({count, weight_.codes.size(0)}, x.options());
  if (type == at::kBFloat16 && IsFp8(scheme_) && in % 2 == 0 && HasPackedProducts()) {
    MultiplyE4M3(x.contiguous(), rows_at_once, weight_.codes, weight_.scale,
                 bias.defined() ? bias.to(at::kFloat) : bias, result);
    return result;
  }
  const int64_t piece_rows = std::max(kMinPieceRows, kCpuPieceBytes / (in * static_cast<int64_t>(x.element_size())));
  ForPiecesOfThreads(weight_.codes.size(0), piece_rows, [&](const std::vector<Piece>& pieces) {
    const at::Tensor memory = at::empty({pieces.front().rows, in}, x.options());
    for (const auto [begin, rows] : pieces) {
      at::Tensor piece = memory.narrow(0, 0, rows);
      Dequantize(RowsOf(weight_, begin, rows), piece);
      const at::Tensor bias_piece = BiasOf(bias, begin, rows);
      for (int64_t first = 0; first < count; first += rows_at_once) {
        at::Tensor part = result.narrow(0, first, rows_at_once).narrow(1, begin, rows);
        MultiplyInto(part, x.narrow(0, first, rows_at_once), piece, bias_piece);
      }
    }
  });
  return result;
}

// Sample by sample, as ExpandedOnCpu.
at::Tensor QuantizedLinear::Fp8OnCpu(const Tokens& tokens, int64_t samples, at::ScalarType type) const {
  const int64_t count = tokens.values.size(0), rows_at_once = count / samples;
  const at::Tensor bias = bias_.defined() ? bias_.to(at::kFloat) : bias_;
  at::Tensor result = at::empty({count, weight_.codes.size(0)}, at::TensorOptions(type));
  ForPieces(weight_, at::kFloat, kCpuPieceBytes, [&](int64_t begin, int64_t rows) {
    const at::Tensor piece = ValuesOf(weight_.codes.narrow(0, begin, rows)), bias_piece = BiasOf(bias, begin, rows);
    for (int64_t first = 0; first < count; first += rows_at_once) {
      const Epilogue epilogue{tokens.scale.const_data_ptr<float>() + first,
                              weight_.scale.const_data_ptr<float>() + begin, FloatsOrNull(bias_piece)};
      Scale<float>(at::mm(tokens.values.narrow(0, first, rows_at_once), piece.t()), epilogue,
                   result.narrow(0, first, rows_at_once).narrow(1, begin, rows));
    }
  });
  return result;
}

// Block by block, so that a block's sums are scaled where they are still in the core's cache: all of them, in memory
// that is new each time, take half as long again as the product.
at::Tensor QuantizedLinear::Int8OnCpu(const Tokens& tokens, at::ScalarType type) const {
  const KernelScope scope("fresco::int8_product");
  const int64_t count = tokens.values.size(0), out = weight_.codes.size(0);
  const at::Tensor bias = bias_.defined() ? bias_.to(at::kFloat) : bias_;
  at::Tensor result = at::empty({count, out}, at::TensorOptions(type));
  ForPiecesOfThreads(out, kSumColumns, [&](const std::vector<Piece>& pieces) {
    at::Tensor memory = at::empty({std::min(count, kSumRows) * pieces.front().rows}, at::TensorOptions(at::kInt));
    for (int64_t row = 0; row < count; row += kSumRows) {
      const int64_t rows = std::min(kSumRows, count - row);
      for (const Piece& piece : pieces) {
        at::Tensor sums = memory.narrow(0, 0, rows * piece.rows).view({rows, piece.rows});
        Int8Product(tokens.values.narrow(0, row, rows), weight_.codes.narrow(0, piece.begin, piece.rows), sums);
        const Epilogue epilogue{tokens.scale.const_data_ptr<float>() + row,
                                weight_.scale.const_data_ptr<float>() + piece.begin,
                                FloatsOrNull(BiasOf(bias, piece.begin, piece.rows))};
        Scale<int32_t>(sums, epilogue, result.narrow(0, row, rows).narrow(1, piece.begin, piece.rows));
      }
    }
  });
  return result;
}

bool QuantizedLinear::MultipliesCodes(const at::Device& device, LinearScheme scheme, int64_t in, int64_t out) {
  const int64_t multiple = IsFp8(scheme) ? 16 : 8;
  return device.is_cpu() || (in % multiple == 0 && out % multiple == 0);
}

RowQuantization QuantizedLinear::input_rows() const {
  return {scheme_, input_.scale, input_.overflow_guard, input_.multiplier, MaySaturate(), counter_};
}

at::Tensor QuantizedLinear::Product(const QuantizedRows& rows) const {
  const bool at_once = rows.saturated.defined() && !rows.saturated.is_same(counter_);
  Count(at_once ? rows.saturated.item<int64_t>() : 0, rows.codes.numel());
  const int64_t batch = rows.codes.size(0);
  const at::ScalarType type = rows.codes.is_cpu() && rows.dtype == at::kHalf ? at::kFloat : rows.dtype;
  at::Tensor y;
  if (!rows.codes.is_cpu()) {
    y = OnGpu(rows);
  } else if (IsFp8(scheme_)) {
    y = Fp8OnCpu({rows.codes.flatten(0, 1).to(at::kFloat), rows.scale}, batch, type);
  } else {
    y = Int8OnCpu({rows.codes.flatten(0, 1), rows.scale}, type);
  }
  return y.to(rows.dtype).view({batch, rows.codes.size(1), -1});
}

at::Tensor QuantizedLinear::OnGpu(const QuantizedRows& rows) const {
  return MultiplyCodes({rows.codes.flatten(0, 1), rows.scale, weight_, bias_, rows.dtype, one_}, kernels_.get());
}

}  // namespace fresco
