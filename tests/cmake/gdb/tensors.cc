// What tensors_test.py looks at: tensors of every type and layout that the printers know, and what ATen says of them.
//
//   gdb_tensors FACTS.json        writes the facts, then calls Look with all in sight
//   gdb_tensors --pixels F.png    prints a picture's size and pixels as JSON, read by libpng
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "pipeline/checkpoint/stored_weight.h"
#include "pipeline/image/codec.h"
#include "pipeline/models/layers.h"
#include "pipeline/precision/quantized_linear.h"
#include "pipeline/precision/quantized_weight.h"

namespace {

// What a GPU's addresses are beyond the host's, in the runtime below: no address of the process is as large.
constexpr uint64_t kDeviceOffset = uint64_t{1} << 62;

}  // namespace

// A CUDA runtime without a GPU: gdb makes the process call this to see a GPU's tensors.
extern "C" int cudaMemcpy(void* to, const void* from, size_t count, int kind) {
  constexpr int kDeviceToHost = 2;
  constexpr int kInvalidValue = 1;
  if (kind != kDeviceToHost || reinterpret_cast<uint64_t>(from) < kDeviceOffset) return kInvalidValue;
  std::memcpy(to, static_cast<const char*>(from) - kDeviceOffset, count);
  return 0;
}

namespace fresco {
namespace {

nlohmann::json Number(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  return value;
}

// By ATen's own reductions, in double.
nlohmann::json Facts(const at::Tensor& tensor) {
  const at::Tensor all = tensor.to(at::kDouble).contiguous().reshape({-1});
  const at::Tensor finite = all.index({at::isfinite(all)});
  nlohmann::json facts = {{"shape", tensor.sizes().vec()},
                          {"count", all.numel()},
                          {"nan", at::isnan(all).sum().item<int64_t>()},
                          {"inf", at::isinf(all).sum().item<int64_t>()},
                          {"beyond", (all.abs() > 448).sum().item<int64_t>()},
                          {"limit", (all.abs() == 448).sum().item<int64_t>()},
                          {"nonzero", (all != 0).sum().item<int64_t>()}};
  for (int64_t i = 0; i < std::min<int64_t>(8, all.numel()); ++i)
    facts["first"].push_back(Number(all[i].item<double>()));
  if (finite.numel() == 0) return facts;
  facts["min"] = finite.min().item<double>();
  facts["max"] = finite.max().item<double>();
  facts["mean"] = finite.mean().item<double>();
  facts["deviation"] = finite.std(/*unbiased=*/false).item<double>();
  return facts;
}

// A tensor that says it is a GPU's.
at::Tensor OnFakeGpu(const at::Tensor& host) {
  void* const address = static_cast<char*>(host.data_ptr()) + kDeviceOffset;
  c10::Storage storage(c10::Storage::use_byte_size_t(), host.nbytes(),
                       c10::DataPtr(address, c10::Device(c10::kCUDA, 0)), nullptr, false);
  auto impl = c10::make_intrusive<c10::TensorImpl>(std::move(storage), c10::DispatchKeySet(c10::DispatchKey::CUDA),
                                                   host.dtype());
  impl->set_sizes_contiguous(host.sizes());
  return at::Tensor(std::move(impl));
}

// Where the test's breakpoint is: everything is in the caller's sight.
[[gnu::noinline]] void Look(const at::Tensor& reference, const at::Tensor* pointer) {
  asm volatile("" ::"r"(&reference), "r"(pointer));
}

int ShowTensors(const char* path) {
  at::manual_seed(7);
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  at::Tensor f32 = at::randn({2, 3, 5}) * 100;
  at::Tensor outliers = at::randn({4, 8}) * 400;
  outliers[1][2] = nan;
  outliers[2][7] = infinity;
  outliers[3][0] = -infinity;
  outliers[3][5] = 1e6;
  at::Tensor f64 = f32.to(at::kDouble), f16 = outliers.to(at::kHalf), bf16 = outliers.to(at::kBFloat16);
  at::Tensor e4m3 = outliers.nan_to_num(0, 1e4, -1e4).clamp(-448, 448).to(at::kFloat8_e4m3fn);
  at::Tensor e5m2 = outliers.to(at::kFloat8_e5m2);
  // Every code that there is.
  at::Tensor codes = at::arange(256, at::kByte);
  at::Tensor all_e4m3 = codes.view(at::kFloat8_e4m3fn), all_e5m2 = codes.view(at::kFloat8_e5m2);
  at::Tensor i8 = codes.view(at::kChar), i32 = at::arange(-5, 7, at::kInt),
             i64 = at::arange(10, at::kLong) * 1'000'000'000'000;
  at::Tensor flags = f32 > 50;
  at::Tensor transposed = f32.transpose(0, 2), slice = f32.slice(2, 1, 5, 2), column = f32.select(2, 3);
  at::Tensor expanded = f32.slice(2, 0, 1).expand({2, 3, 4});
  at::Tensor offset = f32.slice(0, 1), scalar = at::scalar_tensor(2.5), empty = at::zeros({0, 4});
  at::Tensor channels_last = at::randn({2, 3, 4, 5}).contiguous(at::MemoryFormat::ChannelsLast);
  at::Tensor deep = at::randn({1, 2, 1, 3, 1, 2, 2}).transpose(1, 6);  // more dimensions than lie in the object itself
  at::Tensor wide = at::randn({1100, 700});
  wide[700][3] = 5000;  // beyond what printers look at; more rows than a picture has
  at::Tensor thin = wide.t().slice(0, 3, 5), windows = f32.reshape({-1}).unfold(0, 5, 2);
  at::Tensor undefined, meta = at::empty({2, 2}, at::TensorOptions().device(at::kMeta));
  at::Tensor picture = at::zeros({2, 2, 3});
  picture[0][0][0] = -1;
  picture[0][0][2] = 1;
  picture[0][1][0] = nan;
  picture[0][1][1] = infinity;
  at::Tensor gpu = OnFakeGpu(f32);
  std::optional<at::Tensor> optional = f32;
  std::vector<at::Tensor> list = {f32, e4m3};
  [[maybe_unused]] absl::Span<const at::Tensor> span = list;

  QuantizedWeight weight = QuantizeWeight(at::randn({6, 16}), LinearScheme::kFp8);
  InputQuantization input;
  input.scale = 0.25F;
  input.layer = "blocks.3.attn.qkv";
  const auto quantized = std::make_shared<const QuantizedLinear>(weight, at::Tensor(), LinearScheme::kFp8, input);
  Linear linear;
  linear.quantized = quantized;
  StoredWeight stored;
  stored.source = "ComfyUI scaled";
  stored.weight.shape = {6, 16};
  stored.scale = {0.5F};
  absl::Status status = absl::NotFoundError("no model of this name"), ok;
  absl::StatusOr<int> number = 4;
  [[maybe_unused]] absl::Duration duration = absl::Milliseconds(1500), forever = absl::InfiniteDuration();
  [[maybe_unused]] absl::Time time = absl::FromUnixSeconds(1'800'000'000);

  nlohmann::json facts = {{"f32", Facts(f32)},
                          {"f64", Facts(f64)},
                          {"f16", Facts(f16)},
                          {"bf16", Facts(bf16)},
                          {"e4m3", Facts(e4m3)},
                          {"e5m2", Facts(e5m2)},
                          {"outliers", Facts(outliers)},
                          {"all_e4m3", Facts(all_e4m3)},
                          {"all_e5m2", Facts(all_e5m2)},
                          {"codes", Facts(codes)},
                          {"i8", Facts(i8)},
                          {"i32", Facts(i32)},
                          {"i64", Facts(i64)},
                          {"flags", Facts(flags)},
                          {"transposed", Facts(transposed)},
                          {"slice", Facts(slice)},
                          {"column", Facts(column)},
                          {"expanded", Facts(expanded)},
                          {"offset", Facts(offset)},
                          {"scalar", Facts(scalar)},
                          {"channels_last", Facts(channels_last)},
                          {"deep", Facts(deep)},
                          {"wide", Facts(wide)},
                          {"thin", Facts(thin)},
                          {"windows", Facts(windows)},
                          {"scales", Facts(weight.scale)}};
  std::ofstream(path) << facts;
  Look(f32, &e4m3);
  return 0;
}

int PrintPixels(const char* path) {
  std::ifstream file(path, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(file)), {});
  const absl::StatusOr<DecodedImage> decoded = DecodeImage(bytes);
  if (!decoded.ok()) {
    std::cerr << decoded.status() << "\n";
    return 1;
  }
  const Image& image = decoded->image;
  std::cout << nlohmann::json{{"width", image.width}, {"height", image.height}, {"rgb", image.rgb}};
  return 0;
}

}  // namespace
}  // namespace fresco

int main(int argc, char** argv) {
  at::set_num_threads(1);
  if (argc == 3 && std::string_view(argv[1]) == "--pixels") return fresco::PrintPixels(argv[2]);
  return argc == 2 ? fresco::ShowTensors(argv[1]) : 2;
}
