// The row kernels on a GPU against the same functions on the CPU, bit for bit; skipped where there is no GPU.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "pipeline/engine/device.h"
#include "pipeline/kernels/cuda_library.h"
#include "tests/pipeline/kernels/host_rows.h"

namespace fresco::kernels {
namespace {

using Tensors = std::vector<at::Tensor>;

template <typename Type>
constexpr at::ScalarType kScalar = std::is_same_v<Type, BFloat16> ? at::kBFloat16 : at::kHalf;
template <typename Type>
constexpr CudaElement kElement = std::is_same_v<Type, BFloat16> ? CudaElement::kBFloat16 : CudaElement::kFloat16;

// SD3.5's widths (Medium's and Large's, then those of their feed-forwards), the demo's, and those at the edges.
const std::vector<int64_t> kWidths = {8, 64, 256, 264, 1032, 1536, 2432, 6144, 9728, kMaxRowWidth};
// Rows of a guided picture of 1024×1024: 4096 tokens of it and 333 of text, twice.
constexpr int64_t kManyRows = 2 * (4096 + 333);
const std::vector<RowFormat> kFormats = {RowFormat::kPlain, RowFormat::kE4M3, RowFormat::kInt8};

template <typename Type>
class DeviceRows : public ::testing::Test {
 protected:
  void SetUp() override {
    const absl::StatusOr<at::Device> device = PrepareDevice("cuda:0", 0);
    if (!device.ok()) GTEST_SKIP() << "needs a GPU: " << device.status().message();
    absl::StatusOr<std::shared_ptr<const CudaLibrary>> library = CudaLibrary::Load(CudaLibrary::DefaultPath());
    ASSERT_TRUE(library.ok()) << library.status();
    library_ = *std::move(library);
  }

  at::Tensor Random(at::IntArrayRef shape, double scale = 1) {
    return (at::randn(shape, generator_, at::TensorOptions()) * scale).to(kScalar<Type>);
  }

  absl::Status Launch(const NormModulateJob& job) { return library_->NormModulate(kElement<Type>, job, nullptr); }
  absl::Status Launch(const RowJob& job) { return library_->Rows(kElement<Type>, job, nullptr); }
  absl::Status Launch(const GateResidualJob& job) { return library_->GateResidual(kElement<Type>, job, nullptr); }
  absl::Status Launch(const NormHeadsJob& job) { return library_->NormHeads(kElement<Type>, job, nullptr); }
  absl::Status Launch(const DequantizeJob& job) { return library_->Dequantize(kElement<Type>, job, nullptr); }

  // Runs the job that `make` makes of tensors, inputs and outputs, on the CPU and, of copies of them, on the GPU: all
  // of them have the same bits afterwards.
  template <typename Make>
  void ExpectSameBits(const Tensors& here, const Make& make) {
    Tensors there;
    for (const at::Tensor& tensor : here) there.push_back(tensor.to(at::kCUDA));
    RunOnHost<Type>(make(here));
    const absl::Status launched = Launch(make(there));
    ASSERT_TRUE(launched.ok()) << launched;
    for (size_t i = 0; i < here.size(); ++i) {
      const at::Tensor expected = here[i].view(at::kByte), actual = there[i].cpu().view(at::kByte);
      EXPECT_TRUE(actual.equal(expected)) << "tensor " << i << ": " << (actual != expected).sum().item<int64_t>()
                                          << " of " << expected.numel() << " bytes differ";
    }
  }

  at::Generator generator_ = at::make_generator<at::CPUGeneratorImpl>(11);
  std::shared_ptr<const CudaLibrary> library_;
};

using Types = ::testing::Types<BFloat16, Float16>;
struct Names {
  template <typename Type>
  static std::string GetName(int) {
    return std::is_same_v<Type, BFloat16> ? "bf16" : "fp16";
  }
};
TYPED_TEST_SUITE(DeviceRows, Types, Names);

// Poisoned outputs of a [rows, width] job: values, scales, counter.
Tensors Outputs(int64_t rows, int64_t width, RowFormat format, at::ScalarType type) {
  const at::ScalarType values = format == RowFormat::kPlain ? type : format == RowFormat::kE4M3 ? at::kByte : at::kChar;
  return {at::full({rows, width}, 0x55, at::TensorOptions(values)), at::full({rows}, -1.0),
          at::zeros({1}, at::TensorOptions(at::kLong))};
}

RowOutput OutputTo(const Tensors& t, size_t first, RowFormat format) {
  RowOutput out;
  out.format = format;
  out.values = t[first].data_ptr();
  out.scales = t[first + 1].template mutable_data_ptr<float>();
  out.saturated = static_cast<unsigned long long*>(t[first + 2].data_ptr());
  return out;
}

Tensors Joined(Tensors inputs, const Tensors& outputs) {
  inputs.insert(inputs.end(), outputs.begin(), outputs.end());
  return inputs;
}

TYPED_TEST(DeviceRows, CodesOfRows) {
  for (const int64_t width : kWidths) {
    for (const RowFormat format : kFormats) {
      for (const bool gelu : {false, true}) {
        SCOPED_TRACE(testing::Message() << "width " << width << " format " << static_cast<int>(format) << " " << gelu);
        const at::Tensor multiplier = at::rand({width}) + 0.5;  // so that all of fp32's mantissa is there to be rounded
        this->ExpectSameBits(
            Joined({this->Random({2, 4, width}, 3), multiplier}, Outputs(6, width, format, kScalar<TypeParam>)),
            [&](const Tensors& t) {
              // Three of each sample's four rows.
              RowJob job{{6, 3, static_cast<int32_t>(width)}, t[0].data_ptr(), 4, gelu, OutputTo(t, 2, format)};
              job.out.multiplier = t[1].template const_data_ptr<float>();
              return job;
            });
      }
    }
  }
}

// Every element there is, but for infinity and NaN where what NaN becomes depends on the processor.
TYPED_TEST(DeviceRows, EveryElement) {
  const at::Tensor all = at::arange(0x10000, at::kInt).to(at::kShort).view(kScalar<TypeParam>);
  const at::Tensor finite = at::where(at::isfinite(all), all, at::zeros({}, all.options()));
  for (const RowFormat format : kFormats) {
    for (const bool gelu : {false, true}) {
      const bool keeps_nan = kScalar<TypeParam> == at::kBFloat16 && !gelu;
      const at::Tensor x = (keeps_nan ? all : finite).view({512, 128});
      for (const auto& [fixed_scale, guard] : {std::pair(0.0f, false), {1.0f, false}, {1.0f, true}}) {
        this->ExpectSameBits(Joined({x}, Outputs(512, 128, format, kScalar<TypeParam>)), [&](const Tensors& t) {
          RowJob job{{512, 1, 128}, t[0].data_ptr(), 1, gelu, OutputTo(t, 1, format)};
          job.out.fixed_scale = fixed_scale;
          job.out.guard = guard;
          return job;
        });
      }
    }
  }
}

TYPED_TEST(DeviceRows, NormModulate) {
  for (const int64_t width : kWidths) {
    for (const RowFormat format : kFormats) {
      for (const bool branch : {false, true}) {
        SCOPED_TRACE(testing::Message() << "width " << width << " format " << static_cast<int>(format) << " "
                                        << branch);
        const Tensors inputs = {this->Random({6, width}), this->Random({6, width}), this->Random({2, 3 * width}),
                                this->Random({6, width})};
        this->ExpectSameBits(Joined(inputs, Outputs(6, width, format, kScalar<TypeParam>)), [&](const Tensors& t) {
          const auto part = [&](int64_t index) {
            return SampleVectors{t[2].narrow(1, index * width, width).data_ptr(), 3 * width};
          };
          NormModulateJob job;
          job.shape = {6, 3, static_cast<int32_t>(width)};
          job.x = t[0].data_ptr();
          if (branch) job.branch = t[1].data_ptr();
          job.gate = part(0);
          job.sum = t[3].data_ptr();
          job.scale = part(1);
          job.shift = part(2);
          job.eps = 1e-6f;
          job.out = OutputTo(t, 4, format);
          return job;
        });
      }
    }
  }
}

TYPED_TEST(DeviceRows, GateResidual) {
  constexpr int64_t kRows = 300;
  for (const int64_t width : kWidths) {
    SCOPED_TRACE(width);
    this->ExpectSameBits({this->Random({kRows, width}), this->Random({kRows, width}), this->Random({3, width}),
                          this->Random({kRows, width})},
                         [&](const Tensors& t) {
                           return GateResidualJob{{kRows, kRows / 3, static_cast<int32_t>(width)},
                                                  t[0].data_ptr(),
                                                  t[1].data_ptr(),
                                                  {t[2].data_ptr(), width},
                                                  t[3].data_ptr()};
                         });
  }
}

// As Medium's blocks call them.
TYPED_TEST(DeviceRows, AsManyRowsAsAStepHas) {
  constexpr int64_t kWidth = 1536, kFeedForward = 4 * kWidth;
  const at::Tensor x = this->Random({kManyRows, kWidth}, 3), branch = this->Random({kManyRows, kWidth});
  const at::Tensor vectors = this->Random({2, kWidth});
  const RowShape shape{kManyRows, kManyRows / 2, static_cast<int32_t>(kWidth)};
  for (const RowFormat format : {RowFormat::kPlain, RowFormat::kE4M3}) {
    SCOPED_TRACE(static_cast<int>(format));
    this->ExpectSameBits(
        Joined({x, branch, vectors, at::zeros_like(x)}, Outputs(kManyRows, kWidth, format, kScalar<TypeParam>)),
        [&](const Tensors& t) {
          const SampleVectors of_samples{t[2].data_ptr(), kWidth};
          return NormModulateJob{shape,      t[0].data_ptr(), t[1].data_ptr(),
                                 of_samples, t[3].data_ptr(), of_samples,
                                 of_samples, 1e-6f,           OutputTo(t, 4, format)};
        });
  }
  this->ExpectSameBits({x, branch, vectors, at::zeros_like(x)}, [&](const Tensors& t) {
    return GateResidualJob{shape, t[0].data_ptr(), t[1].data_ptr(), {t[2].data_ptr(), kWidth}, t[3].data_ptr()};
  });
  this->ExpectSameBits(Joined({this->Random({kManyRows, kFeedForward}, 2)},
                              Outputs(kManyRows, kFeedForward, RowFormat::kE4M3, kScalar<TypeParam>)),
                       [&](const Tensors& t) {
                         return RowJob{{kManyRows, 1, static_cast<int32_t>(kFeedForward)},
                                       t[0].data_ptr(),
                                       1,
                                       /*gelu=*/true,
                                       OutputTo(t, 1, RowFormat::kE4M3)};
                       });
  this->ExpectSameBits({at::randint(-2000000, 2000000, {kManyRows, kWidth}, this->generator_, at::kInt),
                        at::rand({kManyRows}), at::rand({kWidth}), this->Random({kWidth}), at::zeros_like(x)},
                       [&](const Tensors& t) {
                         return DequantizeJob{{kManyRows, 1, static_cast<int32_t>(kWidth)},
                                              t[0].template const_data_ptr<int32_t>(),
                                              t[1].template const_data_ptr<float>(),
                                              t[2].template const_data_ptr<float>(),
                                              t[3].data_ptr(),
                                              t[4].data_ptr()};
                       });
  constexpr int64_t kHeads = kWidth / 64;
  const at::Tensor qkv = this->Random({kManyRows, 3, kHeads, 64});
  this->ExpectSameBits({qkv, this->Random({64}), this->Random({64}), at::zeros_like(qkv)}, [&](const Tensors& t) {
    return NormHeadsJob{
        kManyRows, kManyRows / 2,   kHeads,        64, t[0].data_ptr(), t[1].data_ptr(), t[2].data_ptr(),
        1e-6f,     t[3].data_ptr(), kManyRows / 2, 0};
  });
}

TYPED_TEST(DeviceRows, NormHeads) {
  for (const int64_t dim : {8, 16, 32, 64, 128, 256}) {
    SCOPED_TRACE(dim);
    constexpr int64_t kSamples = 2, kTokens = 37, kHeads = 5, kOutTokens = 41;
    this->ExpectSameBits({this->Random({kSamples, kTokens, 3, kHeads, dim}), this->Random({dim}), this->Random({dim}),
                          at::full({kSamples, kOutTokens, 3, kHeads, dim}, 7, at::TensorOptions(kScalar<TypeParam>))},
                         [&](const Tensors& t) {
                           return NormHeadsJob{kSamples * kTokens,
                                               kTokens,
                                               kHeads,
                                               static_cast<int32_t>(dim),
                                               t[0].data_ptr(),
                                               t[1].data_ptr(),
                                               t[2].data_ptr(),
                                               1e-6f,
                                               t[3].data_ptr(),
                                               kOutTokens,
                                               3};
                         });
  }
}

// Samples of one, 290 and 9 rows.
TYPED_TEST(DeviceRows, SamplesOfDifferentLengths) {
  constexpr int64_t kWidth = 2432, kRows = 300;
  at::Tensor sample_of_row = at::full({kRows}, 1, at::TensorOptions(at::kInt));
  sample_of_row[0] = 0;
  sample_of_row.narrow(0, kRows - 9, 9).fill_(2);
  const Tensors inputs = {this->Random({kRows, kWidth}), this->Random({kRows, kWidth}), this->Random({3, kWidth}),
                          this->Random({kRows, kWidth}), sample_of_row};
  const auto shape = [&](const Tensors& t) {
    return RowShape{kRows, 1, kWidth, t[4].template const_data_ptr<int32_t>()};
  };
  this->ExpectSameBits(inputs, [&](const Tensors& t) {
    return GateResidualJob{shape(t), t[0].data_ptr(), t[1].data_ptr(), {t[2].data_ptr(), kWidth}, t[3].data_ptr()};
  });
  for (const RowFormat format : kFormats) {
    this->ExpectSameBits(Joined(inputs, Outputs(kRows, kWidth, format, kScalar<TypeParam>)), [&](const Tensors& t) {
      const SampleVectors vectors{t[2].data_ptr(), kWidth};
      return NormModulateJob{shape(t), t[0].data_ptr(), t[1].data_ptr(),       vectors, t[3].data_ptr(), vectors,
                             vectors,  1e-6f,           OutputTo(t, 5, format)};
    });
  }
}

TYPED_TEST(DeviceRows, HeadsThatGoWhereTheyAreTold) {
  constexpr int64_t kTokens = 37, kHeads = 5, kDim = 64, kOutTokens = 80;
  const at::Tensor targets = (at::arange(kTokens, at::kInt) * 2 + 3).to(at::kInt);
  this->ExpectSameBits({this->Random({kTokens, 3, kHeads, kDim}), this->Random({kDim}), this->Random({kDim}),
                        at::full({kOutTokens, 3, kHeads, kDim}, 7, at::TensorOptions(kScalar<TypeParam>)), targets},
                       [&](const Tensors& t) {
                         NormHeadsJob job;
                         job.rows = kTokens;
                         job.heads = kHeads;
                         job.head_dim = kDim;
                         job.qkv = t[0].data_ptr();
                         job.norm_q = t[1].data_ptr();
                         job.norm_k = t[2].data_ptr();
                         job.eps = 1e-6f;
                         job.out = t[3].data_ptr();
                         job.out_rows = t[4].template const_data_ptr<int32_t>();
                         return job;
                       });
}

TYPED_TEST(DeviceRows, Dequantize) {
  constexpr int64_t kRows = 129;
  for (const int64_t width : kWidths) {
    for (const bool bias : {false, true}) {
      SCOPED_TRACE(testing::Message() << "width " << width << " bias " << bias);
      this->ExpectSameBits({at::randint(-2000000, 2000000, {kRows, width}, this->generator_, at::kInt),
                            at::rand({kRows}), at::rand({width}), this->Random({width}), this->Random({kRows, width})},
                           [&](const Tensors& t) {
                             return DequantizeJob{
                                 {kRows, 1, static_cast<int32_t>(width)}, t[0].template const_data_ptr<int32_t>(),
                                 t[1].template const_data_ptr<float>(),   t[2].template const_data_ptr<float>(),
                                 bias ? t[3].data_ptr() : nullptr,        t[4].data_ptr()};
                           });
    }
  }
}

TYPED_TEST(DeviceRows, WhatNoKernelTakesIsRefused) {
  RowJob job;
  job.shape = {1, 1, 12};
  EXPECT_EQ(this->Launch(job).code(), absl::StatusCode::kInvalidArgument);
  job.shape = {1, 1, kMaxRowWidth + kVector};
  EXPECT_EQ(this->Launch(job).code(), absl::StatusCode::kInvalidArgument);
  job.shape = {1, 1, 64};
  EXPECT_EQ(this->library_->Rows(CudaElement::kFloat32, job, nullptr).code(), absl::StatusCode::kInvalidArgument);
  NormHeadsJob heads;
  heads.rows = heads.heads = 1;
  heads.head_dim = 24;
  EXPECT_EQ(this->Launch(heads).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace fresco::kernels
