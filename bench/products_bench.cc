// The products alone: SD3.5-Medium's linears at 512², by how their weights are stored, beside bf16's in the same run.
//   products_bench [REPEATS] [IMAGES]
#include <ATen/TensorOperators.h>
#include <ATen/ops/_int_mm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "pipeline/base/median.h"
#include "pipeline/base/processor.h"
#include "pipeline/models/layers.h"
#include "pipeline/precision/quantized_linear.h"
#include "pipeline/precision/quantized_weight.h"

namespace fresco {
namespace {

constexpr int64_t kTokens = 1024;  // of a sample: 512² pixels

struct Shape {
  const char* name;
  int64_t in, out;
  int64_t tokens = kTokens;  // 0: a row for each sample
};
constexpr auto kShapes = std::to_array<Shape>({{"q, k and v", 1536, 4608},
                                               {"attention's output", 1536, 1536},
                                               {"feed-forward, up", 1536, 6144},
                                               {"feed-forward, down", 6144, 1536},
                                               {"adaLN, one row", 1536, 9216, 0}});
constexpr auto kSchemes = std::to_array<LinearScheme>(
    {LinearScheme::kFp8WeightOnly, LinearScheme::kFp8, LinearScheme::kInt8WeightOnly, LinearScheme::kInt8});

using Product = std::function<void()>;

std::vector<int64_t> InputShape(const Shape& shape, int64_t images) {
  if (shape.tokens == 0) return {images, shape.in};
  return {images, shape.tokens, shape.in};
}

// int8's product alone, of codes, into memory that is there already; without its quantising and scaling.
Product ProductOfCodes(const Shape& shape, int64_t images) {
  const at::TensorOptions codes(at::kChar);
  const at::Tensor x = at::randint(-127, 128, InputShape(shape, images), codes).reshape({-1, shape.in});
  const at::Tensor weight = at::randint(-127, 128, {shape.out, shape.in}, codes);
  at::Tensor sums = at::empty({x.size(0), shape.out}, at::TensorOptions(at::kInt));
  return [=]() mutable { at::_int_mm_out(sums, x, weight.t()); };
}

// What the models compute in bf16 first, then by each scheme, an input in bf16 quantised within the product; int8's
// codes alone at the end, where the processor has instructions for them.
std::vector<Product> ProductsOf(const Shape& shape, int64_t images) {
  const at::Tensor x = at::randn(InputShape(shape, images)).to(at::kBFloat16);
  const at::Tensor weight = (at::randn({shape.out, shape.in}) * 0.02).to(at::kBFloat16);
  Linear high{weight, {}, nullptr, nullptr};
  if (Linear::CanPack(at::kCPU, at::kBFloat16)) high = high.Pack();
  const bool rows = shape.tokens == 0;
  const auto product = [=](const Linear& linear) {
    if (rows) return linear.Rows(x);
    return linear.Tokens(x);
  };
  std::vector<Product> products = {[=] { product(high); }};
  for (const LinearScheme scheme : kSchemes) {
    const auto quantized = std::make_shared<QuantizedLinear>(QuantizeWeight(weight, scheme), at::Tensor(), scheme);
    products.emplace_back([=, linear = Linear{{}, {}, quantized, nullptr}] { product(linear); });
  }
  if (ProcessorHasAvx512Vnni()) products.push_back(ProductOfCodes(shape, images));
  return products;
}

// Medians of seconds; the products take turns, so that what else the machine does meets all alike.
std::vector<double> Measure(const std::vector<Product>& products, int repeats) {
  using Clock = std::chrono::steady_clock;
  std::vector<std::vector<double>> seconds(products.size());
  for (int repeat = -1; repeat < repeats; ++repeat) {  // the first warms up
    for (size_t i = 0; i < products.size(); ++i) {
      const Clock::time_point begin = Clock::now();
      products[i]();
      if (repeat >= 0) seconds[i].push_back(std::chrono::duration<double>(Clock::now() - begin).count());
    }
  }
  std::vector<double> medians;
  for (std::vector<double>& each : seconds) medians.push_back(Median(std::move(each)));
  return medians;
}

void PrintRow(const char* name, const std::vector<double>& seconds) {
  std::printf("%-20s %8.1f", name, 1e3 * seconds.front());
  for (size_t i = 1; i < seconds.size(); ++i)
    std::printf(" %10.1f %5.2f x", 1e3 * seconds[i], seconds.front() / seconds[i]);
  std::printf("\n");
}

void Run(int repeats, int64_t images) {
  const c10::InferenceMode inference;
  std::printf("%lld images of %lld tokens; milliseconds, and the speed beside bf16's\n%-20s %8s",
              static_cast<long long>(images), static_cast<long long>(kTokens), "", "bf16");
  for (const LinearScheme scheme : kSchemes) std::printf(" %18s", std::string(SchemeName(scheme)).c_str());
  if (ProcessorHasAvx512Vnni()) std::printf(" %18s", "int8's codes alone");
  std::printf("\n");
  std::vector<double> sum;
  for (const Shape& shape : kShapes) {
    const std::vector<double> seconds = Measure(ProductsOf(shape, images), repeats);
    sum.resize(seconds.size());
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += seconds[i];
    PrintRow(shape.name, seconds);
  }
  PrintRow("all", sum);
}

}  // namespace
}  // namespace fresco

int main(int argc, char** argv) {
  const int repeats = argc > 1 ? std::atoi(argv[1]) : 5, images = argc > 2 ? std::atoi(argv[2]) : 1;
  if (repeats < 1 || images < 1) {
    std::fprintf(stderr, "products_bench [REPEATS] [IMAGES]: both are at least 1\n");
    return 2;
  }
  fresco::Run(repeats, images);
  return 0;
}
