#include "pipeline/precision/fp8_conv.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/aminmax.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/count_nonzero.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/reciprocal.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <atomic>
#include <span>
#include <utility>
#include <vector>

#include "pipeline/kernels/cpu/row_kernels.h"
#include "pipeline/kernels/e4m3.h"
#include "pipeline/precision/device_counters.h"

namespace fresco {
namespace {

using kernels::BFloat16Bits;

constexpr double kLargest = kernels::kE4M3Largest;
constexpr int64_t kChunk = 16384;        // elements that a CPU thread takes at once: well within its cache
constexpr int64_t kAtenPiece = 1 << 24;  // elements whose fp32 copies are there at once

// Calls work(begin, n) for chunks of [0, numel).
template <typename Work>
void ForChunks(int64_t numel, const Work& work) {
  at::parallel_for(0, (numel + kChunk - 1) / kChunk, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) work(i * kChunk, std::min(kChunk, numel - i * kChunk));
  });
}

template <typename Element>
std::span<const Element> Chunk(const Element* elements, int64_t begin, int64_t n) {
  return {elements + begin, static_cast<size_t>(n)};
}

// The largest magnitude, or NaN: independent of how the elements are divided.
template <typename Element>
float AbsMax(const Element* elements, int64_t numel) {
  std::atomic<uint32_t> largest = 0;
  ForChunks(numel, [&](int64_t begin, int64_t n) {
    const uint32_t bits = kernels::MagnitudeBits(kernels::AbsMax(Chunk(elements, begin, n)));
    uint32_t before = largest.load(std::memory_order_relaxed);
    while (before < bits && !largest.compare_exchange_weak(before, bits)) {
    }
  });
  return kernels::FloatOfBits(largest.load());
}

template <typename Element>
int64_t CountSaturated(const Element* elements, int64_t numel) {
  std::atomic<int64_t> saturated = 0;
  ForChunks(numel, [&](int64_t begin, int64_t n) {
    saturated += static_cast<int64_t>(kernels::CountSaturated(Chunk(elements, begin, n), kernels::kE4M3Largest));
  });
  return saturated.load();
}

void RoundTrip(const float* elements, int64_t numel, float inverse, float* values) {
  ForChunks(numel, [&](int64_t begin, int64_t n) {
    kernels::RoundTripE4M3(Chunk(elements, begin, n), inverse, values + begin);
  });
}

// Every value of E4M3 is one of bf16: the upper half of the float.
void RoundTrip(const BFloat16Bits* elements, int64_t numel, float inverse, BFloat16Bits* values) {
  ForChunks(numel, [&](int64_t begin, int64_t n) {
    float wide[kChunk];
    kernels::RoundTripE4M3(Chunk(elements, begin, n), inverse, wide);
    std::transform(wide, wide + n, values + begin, &kernels::BFloat16::Store);
  });
}

// Pixels of a channels-last image: rows of as many elements as there are channels.
struct Rescaling {
  float sample_scale;
  const float* channel_scales;
  const float* bias;
};

void RescalePixel(std::span<float> pixel, const Rescaling& rescaling, std::span<float> /*wide*/) {
  kernels::ScaleColumns(pixel, rescaling.sample_scale, rescaling.channel_scales, rescaling.bias, pixel.data());
}

// wide: as many floats, to compute in.
void RescalePixel(std::span<BFloat16Bits> pixel, const Rescaling& rescaling, std::span<float> wide) {
  std::transform(pixel.begin(), pixel.end(), wide.begin(), &kernels::BFloat16::Load);
  kernels::ScaleColumns(wide, rescaling.sample_scale, rescaling.channel_scales, rescaling.bias, pixel.data());
}

template <typename Element>
void RescalePixels(Element* elements, int64_t pixels, int64_t channels, const Rescaling& rescaling) {
  at::parallel_for(0, pixels, 256, [&](int64_t begin, int64_t end) {
    std::vector<float> wide(static_cast<size_t>(channels));
    for (int64_t pixel = begin; pixel < end; ++pixel) {
      RescalePixel(std::span(elements + pixel * channels, wide.size()), rescaling, wide);
    }
  });
}

// The CPU's row kernels are for these; all else computes with libtorch's operations.
bool HasCpuKernels(const at::Tensor& x) {
  return x.is_cpu() && (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16);
}

at::ScalarType ConvolvedType(const at::Tensor& x) {
  return x.scalar_type() == at::kFloat ? at::kFloat : at::kBFloat16;
}

// Calls work(elements of in, elements of out), which are float or the bits of bf16.
template <typename Work>
void WithElements(const at::Tensor& in, const at::Tensor& out, const Work& work) {
  if (in.scalar_type() == at::kFloat) {
    work(in.const_data_ptr<float>(), out.mutable_data_ptr<float>());
  } else {
    work(static_cast<const BFloat16Bits*>(in.const_data_ptr()), static_cast<BFloat16Bits*>(out.mutable_data_ptr()));
  }
}

// kernels::E4M3Scale of the largest magnitude; an infinity makes the scale infinite and with it every product NaN.
at::Tensor ScaleOf(const at::Tensor& x) {
  const auto [least, most] = at::aminmax(x);
  const at::Tensor largest = at::maximum(least.neg(), most).to(at::kFloat);
  const at::Tensor scale = largest / at::full({}, kLargest, largest.options());  // see ScalesByTensors
  return at::where(scale < double{kernels::kSmallestScale}, at::ones_like(scale), scale);
}

// A view of all elements of a channels-last image in the order in which they lie.
at::Tensor Flat(const at::Tensor& x) {
  return x.permute({0, 2, 3, 1}).view({-1});
}

// Channels-last codes on the bias's device.
QuantizedWeight Quantize(const at::Tensor& weight, const at::Device& device) {
  const QuantizedWeight rows = QuantizeWeight(weight.flatten(1), LinearScheme::kFp8);
  const at::Tensor codes = rows.codes.view(weight.sizes()).contiguous(at::MemoryFormat::ChannelsLast);
  return {codes.to(device), rows.scale.to(device)};
}

}  // namespace

Fp8Conv::Fp8Conv(const at::Tensor& weight, const at::Tensor& bias, Fp8ConvOptions options)
    : options_(std::move(options)),
      weight_(Quantize(weight, bias.device())),
      bias_(bias.to(at::kFloat)),
      counter_(NewCounter()) {}

at::Tensor Fp8Conv::NewCounter() const {
  const bool counts = options_.saturation && !options_.overflow_guard && weight_.codes.is_cuda();
  if (!counts || options_.saturation->device_counters() == nullptr) return {};
  return options_.saturation->device_counters()->Of(options_.name, weight_.codes.device());
}

void Fp8Conv::Count(int64_t beyond, int64_t elements) const {
  if (!options_.saturation) return;
  const bool guard = options_.overflow_guard;
  options_.saturation->Add(options_.name, {guard ? 0 : beyond, guard ? beyond : 0, elements});
}

// `x` [1, in, H, W], channels-last, kFloat or kBFloat16.
at::Tensor Fp8Conv::ByRows(at::Tensor x, int64_t stride, int64_t padding) const {
  at::Tensor codes = at::empty(x.sizes(), x.options(), at::MemoryFormat::ChannelsLast);
  float scale = 1;
  WithElements(x, codes, [&](const auto* elements, auto* values) {
    const int64_t numel = x.numel();
    const float largest = AbsMax(elements, numel);
    if (options_.overflow_guard) scale = kernels::E4M3Scale(largest);
    Count(largest <= kernels::kE4M3Largest ? 0 : CountSaturated(elements, numel), numel);
    RoundTrip(elements, numel, kernels::InverseScale(scale), values);
  });
  x.reset();
  at::Tensor y = Sums(codes, stride, padding);
  codes.reset();
  const Rescaling rescaling{scale, weight_.scale.const_data_ptr<float>(), bias_.const_data_ptr<float>()};
  WithElements(y, y,
               [&](const auto*, auto* sums) { RescalePixels(sums, y.numel() / y.size(1), y.size(1), rescaling); });
  return y;
}

// The same codes and scales by libtorch's operations, `x` in any type on any device. The scale stays on the device, so
// that nothing waits for it.
at::Tensor Fp8Conv::ByAten(at::Tensor x, int64_t stride, int64_t padding) const {
  const at::ScalarType dtype = x.scalar_type();
  const at::Tensor scale = options_.overflow_guard ? ScaleOf(x) : at::full({}, 1.0, x.options().dtype(at::kFloat));
  const at::Tensor inverse = scale.reciprocal();
  at::Tensor codes = at::empty(x.sizes(), x.options().dtype(ConvolvedType(x)), at::MemoryFormat::ChannelsLast);
  const at::Tensor from = Flat(x), to = Flat(codes);
  at::Tensor saturated = at::zeros({1}, x.options().dtype(at::kLong));
  for (int64_t begin = 0; begin < from.numel(); begin += kAtenPiece) {
    const int64_t n = std::min(kAtenPiece, from.numel() - begin);
    at::Tensor piece = from.narrow(0, begin, n).to(at::kFloat, /*non_blocking=*/false, /*copy=*/true).mul_(inverse);
    if (!options_.overflow_guard) saturated += at::count_nonzero(piece.abs().le(kLargest).logical_not());
    to.narrow(0, begin, n).copy_(piece.clamp_(-kLargest, kLargest).to(at::kFloat8_e4m3fn));
  }
  CountByAten(saturated, from.numel());
  x.reset();
  const at::Tensor channels = (weight_.scale * scale).view({1, -1, 1, 1});
  return Sums(codes, stride, padding).mul_(channels).add_(bias_.view({1, -1, 1, 1})).to(dtype);
}

// Two streams may decode at once: their additions to the counter are atomic.
void Fp8Conv::CountByAten(const at::Tensor& saturated, int64_t elements) const {
  const bool at_once = !options_.overflow_guard && !counter_.defined();
  if (counter_.defined()) at::Tensor(counter_).index_add_(0, at::zeros_like(saturated), saturated);
  Count(at_once ? saturated.item<int64_t>() : 0, elements);
}

at::Tensor Fp8Conv::Sums(const at::Tensor& codes, int64_t stride, int64_t padding) const {
  const at::Tensor y =
      at::conv2d(codes, weight_.codes.to(codes.scalar_type()), /*bias=*/{}, {stride, stride}, {padding, padding});
  return y.contiguous(at::MemoryFormat::ChannelsLast);
}

at::Tensor Fp8Conv::Convolve(at::Tensor x, int64_t stride, int64_t padding) const {
  TORCH_CHECK(x.dim() == 4 && x.size(0) == 1, options_.name, ": an FP8 convolution takes one sample at a time, not ",
              x.sizes());
  x = x.contiguous(at::MemoryFormat::ChannelsLast);
  return HasCpuKernels(x) ? ByRows(std::move(x), stride, padding) : ByAten(std::move(x), stride, padding);
}

}  // namespace fresco
