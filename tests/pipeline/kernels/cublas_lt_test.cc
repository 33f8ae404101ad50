// CublasLt's calls, executed by a stand-in that does on the CPU what NVIDIA's documentation says of each; and, where
// the real library is, what that says of them.
#include "pipeline/kernels/cublas_lt.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "pipeline/kernels/e4m3.h"
#include "pipeline/kernels/element_types.h"
#include "tests/pipeline/kernels/fake_cublas_lt.h"

#ifdef FRESCO_CUBLAS_LT_HEADER
#include <cublasLt.h>
#endif

namespace fresco {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using Job = CodesProductJob;

// ---- a product ------------------------------------------------------------------------------------------------------

constexpr int64_t kRows = 5, kIn = 48, kOut = 32;

struct Product {
  std::vector<uint8_t> x, weight;  // codes
  std::vector<float> x_scale, weight_scale;
  std::vector<uint16_t> bias;
  std::vector<int32_t> result;  // room for any type

  explicit Product(uint32_t seed) : result(kRows * kOut, 0x55555555) {
    std::mt19937 random(seed);
    const auto code = [&] { return static_cast<uint8_t>(random() % 0x78 | (random() % 2 != 0 ? 0x80 : 0)); };
    const auto scale = [&] { return std::uniform_real_distribution<float>(1e-3f, 2e-3f)(random); };
    for (int64_t i = 0; i < kRows * kIn; ++i) x.push_back(code());
    for (int64_t i = 0; i < kOut * kIn; ++i) weight.push_back(code());
    for (int64_t i = 0; i < kRows; ++i) x_scale.push_back(scale());
    for (int64_t i = 0; i < kOut; ++i) weight_scale.push_back(scale());
  }

  Job JobOf(Job::Codes codes, Job::Result type) {
    Job job;
    job.codes = codes;
    job.rows = kRows;
    job.in = kIn;
    job.out = kOut;
    job.type = type;
    job.x = x.data();
    job.weight = weight.data();
    job.result = result.data();
    if (codes == Job::Codes::kInt8) return job;
    job.x_scale = x_scale.data();
    job.weight_scale = weight_scale.data();
    if (!bias.empty()) job.bias = bias.data();
    return job;
  }

  double Sum(int64_t row, int64_t column, cublas_lt::DataType type) const {
    double sum = 0;
    for (int64_t k = 0; k < kIn; ++k)
      sum += ElementOf(x.data(), type, static_cast<size_t>(row * kIn + k)) *
             ElementOf(weight.data(), type, static_cast<size_t>(column * kIn + k));
    return sum;
  }

  // y = x Wᵀ + b, of the codes' values.
  double Expected(int64_t row, int64_t column, cublas_lt::DataType type) const {
    const double scale = static_cast<double>(x_scale[static_cast<size_t>(row)]) *
                         static_cast<double>(weight_scale[static_cast<size_t>(column)]);
    const double addend = bias.empty() ? 0 : ElementOf(bias.data(), type, static_cast<size_t>(column));
    return Sum(row, column, cublas_lt::kE4M3) * scale + addend;
  }
};

void ExpectProduct(const Product& product, cublas_lt::DataType type, double unit) {
  for (int64_t row = 0; row < kRows; ++row) {
    for (int64_t column = 0; column < kOut; ++column) {
      const double expected = product.Expected(row, column, type);
      EXPECT_NEAR(ElementOf(product.result.data(), type, static_cast<size_t>(row * kOut + column)), expected,
                  std::abs(expected) * unit + 1e-6)
          << row << ", " << column;
    }
  }
}

TEST(CublasLt, MultipliesCodesWithAScaleForEachRowAndABias) {
  const CublasLt library(FakeApi());
  Product product(1);
  for (int64_t i = 0; i < kOut; ++i) product.bias.push_back(kernels::BFloat16::Store(0.5f * static_cast<float>(i)));
  const Job job = product.JobOf(Job::Codes::kE4M3, Job::Result::kBFloat16);
  ASSERT_TRUE(library.Multiply(job, {}, nullptr, nullptr).ok());
  ExpectProduct(product, cublas_lt::kBFloat16, 1.0 / 256);
}

TEST(CublasLt, GivesFp16WhereThatIsAskedFor) {
  const CublasLt library(FakeApi());
  Product product(2);
  ASSERT_TRUE(library.Multiply(product.JobOf(Job::Codes::kE4M3, Job::Result::kFloat16), {}, nullptr, nullptr).ok());
  ExpectProduct(product, cublas_lt::kFloat16, 1.0 / 2048);
  for (int64_t i = 0; i < kOut; ++i) product.bias.push_back(kernels::Float16::Store(3.0f - static_cast<float>(i)));
  ASSERT_TRUE(library.Multiply(product.JobOf(Job::Codes::kE4M3, Job::Result::kFloat16), {}, nullptr, nullptr).ok());
  ExpectProduct(product, cublas_lt::kFloat16, 1.0 / 2048);
}

TEST(CublasLt, SumsOfInt8AreExact) {
  const CublasLt library(FakeApi());
  Product product(3);
  ASSERT_TRUE(library.Multiply(product.JobOf(Job::Codes::kInt8, Job::Result::kBFloat16), {}, nullptr, nullptr).ok());
  for (int64_t row = 0; row < kRows; ++row) {
    for (int64_t column = 0; column < kOut; ++column) {
      EXPECT_EQ(product.result[static_cast<size_t>(row * kOut + column)], product.Sum(row, column, cublas_lt::kInt8));
    }
  }
}

TEST(CublasLt, NamesTheAlgorithmsThatTakeAJob) {
  const CublasLt library(FakeApi());
  Product product(4);
  Job job = product.JobOf(Job::Codes::kE4M3, Job::Result::kBFloat16);
  const auto algorithms = library.AlgorithmsFor(job, 8);
  ASSERT_TRUE(algorithms.ok()) << algorithms.status();
  EXPECT_THAT(*algorithms, ElementsAre(CublasLtAlgorithm{{100}}, CublasLtAlgorithm{{103}})) << "with fast accumulation";
  EXPECT_THAT(library.AlgorithmsFor(job, 1).value(), SizeIs(1));
  job.in = 40;
  EXPECT_THAT(library.AlgorithmsFor(job, 8).value(), IsEmpty());
}

TEST(CublasLt, AnAlgorithmThatDoesNotTakeTheJobIsAnError) {
  const CublasLt library(FakeApi());
  Product product(5);
  const absl::Status status = library.Multiply(product.JobOf(Job::Codes::kE4M3, Job::Result::kBFloat16),
                                               CublasLtAlgorithm{{kRefused}}, nullptr, nullptr);
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()), HasSubstr("cublasLtMatmul: cuBLAS status 7"));
}

TEST(CublasLt, NothingOfTheLibrarysIsLeftBehind) {
  ASSERT_EQ(LiveObjects(), 0);
  {
    cublas_lt::Api api = FakeApi();
    const CublasLt library(api);
    Product product(6);
    const Job job = product.JobOf(Job::Codes::kE4M3, Job::Result::kBFloat16);
    ASSERT_TRUE(library.AlgorithmsFor(job, 8).ok());
    ASSERT_TRUE(library.Multiply(job, {}, nullptr, nullptr).ok());
    EXPECT_EQ(LiveObjects(), 1) << "its handle";
    api.set_descriptor = [](void*, cublas_lt::DescriptorAttribute, const void*, size_t) { return kInvalidValue; };
    EXPECT_FALSE(CublasLt(api).Multiply(job, {}, nullptr, nullptr).ok());
  }
  EXPECT_EQ(LiveObjects(), 0);
}

TEST(CublasLtAlgorithm, IsReadAsItWasWritten) {
  const CublasLtAlgorithm algorithm{{1, 0xfedcba9876543210, 0, 3, 4, 5, 6, ~uint64_t{0}}};
  EXPECT_EQ(CublasLtAlgorithm::FromHex(algorithm.ToHex()), algorithm);
  const std::string hex = algorithm.ToHex();
  EXPECT_EQ(CublasLtAlgorithm::FromHex(""), std::nullopt);
  EXPECT_EQ(CublasLtAlgorithm::FromHex(hex + "0"), std::nullopt);
  EXPECT_EQ(CublasLtAlgorithm::FromHex("x" + hex.substr(1)), std::nullopt);
  EXPECT_EQ(CublasLtAlgorithm::FromHex("-" + hex.substr(1)), std::nullopt);
}

TEST(CublasLt, WhatIsNoCublasIsRefused) {
  EXPECT_EQ(CublasLt::Load("no_such_library.so").status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(CublasLt::Load("libc.so.6").status().code(), absl::StatusCode::kFailedPrecondition);
}

// Without a GPU it still checks every attribute's number and size as it is set; only then a device is asked for.
TEST(CublasLt, TheRealLibraryTakesTheDescription) {
#ifdef FRESCO_CUBLAS_LT_LIBRARY
  const auto library = CublasLt::Load(FRESCO_CUBLAS_LT_LIBRARY);
  if (!library.ok()) GTEST_SKIP() << library.status();
  Product product(7);
  product.bias.assign(kOut, 0);
  for (const Job::Codes codes : {Job::Codes::kE4M3, Job::Codes::kInt8}) {
    const auto algorithms = (*library)->AlgorithmsFor(product.JobOf(codes, Job::Result::kBFloat16), 4);
    if (algorithms.ok()) continue;
    EXPECT_THAT(std::string(algorithms.status().message()), HasSubstr("cublasLtCreate"))
        << "on a machine without a GPU";
  }
#else
  GTEST_SKIP() << "needs cuBLASLt, of a CUDA toolkit";
#endif
}

#ifdef FRESCO_CUBLAS_LT_HEADER
static_assert(sizeof(cublas_lt::Algorithm) == sizeof(cublasLtMatmulAlgo_t));
static_assert(sizeof(cublas_lt::HeuristicResult) == sizeof(cublasLtMatmulHeuristicResult_t));
static_assert(offsetof(cublas_lt::HeuristicResult, workspace_bytes) ==
              offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize));
static_assert(offsetof(cublas_lt::HeuristicResult, state) == offsetof(cublasLtMatmulHeuristicResult_t, state));
static_assert(int{cublas_lt::kFloat32} == CUDA_R_32F && int{cublas_lt::kFloat16} == CUDA_R_16F);
static_assert(int{cublas_lt::kBFloat16} == CUDA_R_16BF && int{cublas_lt::kE4M3} == CUDA_R_8F_E4M3);
static_assert(int{cublas_lt::kInt8} == CUDA_R_8I && int{cublas_lt::kInt32} == CUDA_R_32I);
static_assert(int{cublas_lt::kComputeFloat32} == CUBLAS_COMPUTE_32F);
static_assert(int{cublas_lt::kComputeInt32} == CUBLAS_COMPUTE_32I);
static_assert(int{cublas_lt::kAsItIs} == CUBLAS_OP_N && int{cublas_lt::kTransposed} == CUBLAS_OP_T);
static_assert(unsigned{cublas_lt::kNoEpilogue} == CUBLASLT_EPILOGUE_DEFAULT);
static_assert(unsigned{cublas_lt::kAddBias} == CUBLASLT_EPILOGUE_BIAS);
static_assert(int{cublas_lt::kScalar} == CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F);
static_assert(int{cublas_lt::kOuterVector} == CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F);
static_assert(int{cublas_lt::kTransposeA} == CUBLASLT_MATMUL_DESC_TRANSA);
static_assert(int{cublas_lt::kTransposeB} == CUBLASLT_MATMUL_DESC_TRANSB);
static_assert(int{cublas_lt::kEpilogue} == CUBLASLT_MATMUL_DESC_EPILOGUE);
static_assert(int{cublas_lt::kBiasPointer} == CUBLASLT_MATMUL_DESC_BIAS_POINTER);
static_assert(int{cublas_lt::kBiasType} == CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE);
static_assert(int{cublas_lt::kScaleAPointer} == CUBLASLT_MATMUL_DESC_A_SCALE_POINTER);
static_assert(int{cublas_lt::kScaleBPointer} == CUBLASLT_MATMUL_DESC_B_SCALE_POINTER);
static_assert(int{cublas_lt::kScaleAMode} == CUBLASLT_MATMUL_DESC_A_SCALE_MODE);
static_assert(int{cublas_lt::kScaleBMode} == CUBLASLT_MATMUL_DESC_B_SCALE_MODE);
static_assert(int{cublas_lt::kFastAccumulation} == CUBLASLT_MATMUL_DESC_FAST_ACCUM);
static_assert(int{cublas_lt::kAlignmentA} == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES);
static_assert(int{cublas_lt::kAlignmentB} == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES);
static_assert(int{cublas_lt::kAlignmentC} == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES);
static_assert(int{cublas_lt::kAlignmentD} == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES);
static_assert(int{cublas_lt::kMaxWorkspaceBytes} == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
#endif

}  // namespace
}  // namespace fresco
