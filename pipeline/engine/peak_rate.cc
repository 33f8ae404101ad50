#include <ATen/TensorOperators.h>
#include <ATen/ops/_int_mm.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <utility>

#include "pipeline/base/processor.h"
#include "pipeline/base/status.h"
#include "pipeline/engine/device.h"
#include "pipeline/engine/memory.h"
#include "pipeline/engine/precision.h"
#include "pipeline/engine/profiler.h"
#include "pipeline/engine/torch_boundary.h"
#include "pipeline/models/layers.h"
#include "pipeline/precision/gpu_product.h"

namespace fresco {
namespace {

using Clock = std::chrono::steady_clock;

// Squares of these sides, until one takes long enough to be measured well.
constexpr int64_t kLeastSide = 256, kMostSide = 8192;
constexpr double kLongSeconds = 0.02;
constexpr int kRuns = 3;

// What layers of a dtype are multiplied in.
at::ScalarType MultipliedIn(const std::string& dtype, const at::Device& device, at::ScalarType own) {
  if (dtype == "fp32") return at::kFloat;
  if (dtype == "bf16") return at::kBFloat16;
  if (dtype == "fp16") return at::kHalf;
  if (dtype == "fp8") return device.is_cuda() ? at::kFloat8_e4m3fn : at::kFloat;
  if (dtype == "int8") return device.is_cuda() || ProcessorHasAvx512Vnni() ? at::kChar : at::kFloat;
  return own;  // weights alone are stored in another type
}

// Bytes of a tensor that is copied: several times what caches hold.
constexpr int64_t kCopiedBytes = int64_t{256} << 20;
constexpr int kCopies = 10;

// A product of two squares of `side`.
std::function<at::Tensor()> ProductOf(at::ScalarType type, const at::Device& device, int64_t side) {
  const at::Tensor wide = at::randn({side, side}, at::TensorOptions(device).dtype(at::kFloat));
  if (type == at::kChar) {
    const at::Tensor codes = (wide * 32).to(at::kChar);
    return [codes] { return at::_int_mm(codes, codes.t()); };
  }
  if (type == at::kFloat8_e4m3fn) {
    // As layers do, whose accumulation is the fast one.
    const at::Tensor codes = wide.to(type), scale = at::ones({side}, wide.options());
    const CodesProduct product{.codes = codes, .scale = scale, .weight = {codes, scale}, .bias = {}};
    return [product] { return MultiplyCodes(product, /*kernels=*/nullptr); };
  }
  const at::Tensor x = wide.to(type);
  Linear linear{x, {}, nullptr, nullptr};
  if (Linear::CanPack(device, type)) linear = linear.Pack();
  return [linear, x] { return linear.Tokens(x.unsqueeze(0)); };
}

double SecondsOf(const std::function<void()>& product, const at::Device& device) {
  Synchronize(device);
  const Clock::time_point begin = Clock::now();
  product();
  Synchronize(device);
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

double PeakOf(at::ScalarType type, const at::Device& device) {
  double peak = 0;
  for (int64_t side = kLeastSide; side <= kMostSide; side *= 2) {
    const std::function<at::Tensor()> product = ProductOf(type, device, side);
    SecondsOf(product, device);  // what is made at the first use
    double seconds = SecondsOf(product, device);
    for (int run = 1; run < kRuns; ++run) seconds = std::min(seconds, SecondsOf(product, device));
    const auto operations = 2.0 * static_cast<double>(side) * static_cast<double>(side) * static_cast<double>(side);
    peak = std::max(peak, operations / seconds);
    if (seconds > kLongSeconds) break;
  }
  return peak;
}

absl::StatusOr<std::map<std::string, double>> Measure(const std::string& name, const std::set<std::string>& dtypes) {
  const at::Device device(name);
  const c10::InferenceMode inference;
  const c10::OptionalDeviceGuard guard(device);
  FRESCO_ASSIGN_OR_RETURN(const Precision own, ChoosePrecision("auto", device));
  std::map<at::ScalarType, double> measured;
  std::map<std::string, double> peaks;
  for (const std::string& dtype : dtypes) {
    const at::ScalarType type = MultipliedIn(dtype, device, own.type);
    const auto [found, is_new] = measured.emplace(type, 0);
    if (is_new) found->second = PeakOf(type, device);
    peaks[dtype] = found->second;
  }
  return peaks;
}

// Different numbers: what is equal everywhere may be compressed on its way.
double BandwidthOf(const at::Device& device) {
  const int64_t room = MemoryOf(device).free_bytes / (2 * 8);
  const int64_t bytes = room > 0 ? std::min(kCopiedBytes, room) : kCopiedBytes;
  const auto count = std::max<int64_t>(1, bytes / static_cast<int64_t>(sizeof(int32_t)));
  const at::Tensor from = at::arange(count, at::TensorOptions(device).dtype(at::kInt)), to = from.clone();
  const auto copy = [&] { to.copy_(from); };
  double seconds = SecondsOf(copy, device);
  for (int run = 1; run < kCopies; ++run) seconds = std::min(seconds, SecondsOf(copy, device));
  return 2.0 * static_cast<double>(from.nbytes()) / seconds;
}

}  // namespace

absl::StatusOr<double> MeasureBandwidth(const std::string& name) {
  return CatchTorch("measuring the device's memory", [&]() -> absl::StatusOr<double> {
    const at::Device device(name);
    const c10::InferenceMode inference;
    const c10::OptionalDeviceGuard guard(device);
    return BandwidthOf(device);
  });
}

absl::StatusOr<std::map<std::string, double>> MeasurePeaks(const std::string& device,
                                                           const std::set<std::string>& dtypes) {
  return CatchTorch("measuring the device's peak", [&] { return Measure(device, dtypes); });
}

}  // namespace fresco
