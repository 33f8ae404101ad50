// CublasLt's calls, executed by a stand-in that does on the CPU what NVIDIA's documentation says of each; and, where
// the real library is, what that says of them.
#include "pipeline/kernels/cublas_lt.h"

#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <random>
#include <vector>

#include "pipeline/kernels/e4m3.h"
#include "pipeline/kernels/element_types.h"

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

// ---- the stand-in ---------------------------------------------------------------------------------------------------

constexpr int32_t kInvalidValue = 7, kNotSupported = 15;

int& LiveObjects() {
  static int count = 0;
  return count;
}

struct FakeDescriptor {
  cublas_lt::ComputeType compute;
  cublas_lt::DataType scale_type;
  std::map<int32_t, std::vector<char>> attributes;

  template <typename Value>
  Value Get(int32_t attribute, Value otherwise) const {
    const auto found = attributes.find(attribute);
    if (found == attributes.end()) return otherwise;
    Value value;
    std::memcpy(&value, found->second.data(), sizeof(value));
    return value;
  }
};

struct FakeLayout {
  cublas_lt::DataType type;
  uint64_t rows, columns;
  int64_t stride;

  size_t At(uint64_t row, uint64_t column) const { return row + column * static_cast<uint64_t>(stride); }
};

template <typename Object>
int32_t Give(void** out, Object object) {
  *out = new Object(std::move(object));
  ++LiveObjects();
  return cublas_lt::kSuccess;
}
template <typename Object>
int32_t Take(void* object) {
  delete static_cast<Object*>(object);
  --LiveObjects();
  return cublas_lt::kSuccess;
}

double ElementOf(const void* data, cublas_lt::DataType type, size_t index) {
  if (type == cublas_lt::kInt8) return static_cast<const int8_t*>(data)[index];
  if (type == cublas_lt::kE4M3) return kernels::FromE4M3(static_cast<const uint8_t*>(data)[index]);
  if (type == cublas_lt::kBFloat16) return kernels::BFloat16::Load(static_cast<const uint16_t*>(data)[index]);
  return kernels::Float16::Load(static_cast<const uint16_t*>(data)[index]);
}

void StoreElement(double value, cublas_lt::DataType type, size_t index, void* data) {
  if (type == cublas_lt::kInt32) {
    static_cast<int32_t*>(data)[index] = static_cast<int32_t>(value);
  } else if (type == cublas_lt::kBFloat16) {
    static_cast<uint16_t*>(data)[index] = kernels::BFloat16::Store(static_cast<float>(value));
  } else {
    static_cast<uint16_t*>(data)[index] = kernels::Float16::Store(static_cast<float>(value));
  }
}

constexpr uint64_t kRefused = 13;  // the first word of an algorithm that takes nothing

struct Operands {
  const FakeDescriptor& descriptor;
  const void *a, *b;
  const FakeLayout &a_layout, &b_layout;
};

// What the product has at [row, column], before alpha.
double ProductAt(const Operands& in, uint64_t row, uint64_t column) {
  const bool transposed = in.descriptor.Get<int32_t>(cublas_lt::kTransposeA, 0) == cublas_lt::kTransposed;
  double sum = 0;
  for (uint64_t k = 0; k < in.b_layout.rows; ++k) {
    const size_t a = transposed ? in.a_layout.At(k, row) : in.a_layout.At(row, k);
    sum += ElementOf(in.a, in.a_layout.type, a) * ElementOf(in.b, in.b_layout.type, in.b_layout.At(k, column));
  }
  if (in.descriptor.Get<int32_t>(cublas_lt::kScaleAMode, 0) == cublas_lt::kOuterVector)
    sum *= static_cast<double>(in.descriptor.Get<const float*>(cublas_lt::kScaleAPointer, nullptr)[row]);
  if (in.descriptor.Get<int32_t>(cublas_lt::kScaleBMode, 0) == cublas_lt::kOuterVector)
    sum *= static_cast<double>(in.descriptor.Get<const float*>(cublas_lt::kScaleBPointer, nullptr)[column]);
  return sum;
}

double FactorOf(const FakeDescriptor& descriptor, const void* factor) {
  return descriptor.scale_type == cublas_lt::kInt32 ? *static_cast<const int32_t*>(factor)
                                                    : static_cast<double>(*static_cast<const float*>(factor));
}

int32_t FakeMultiply(void* /*handle*/, void* descriptor_object, const void* alpha, const void* a, void* a_layout,
                     const void* b, void* b_layout, const void* beta, const void* /*c*/, void* /*c_layout*/, void* d,
                     void* d_layout, const cublas_lt::Algorithm* algorithm, void* /*workspace*/,
                     size_t /*workspace_bytes*/, void* /*stream*/) {
  if (algorithm->words[0] == kRefused) return kInvalidValue;
  const auto& descriptor = *static_cast<const FakeDescriptor*>(descriptor_object);
  const Operands in{descriptor, a, b, *static_cast<const FakeLayout*>(a_layout),
                    *static_cast<const FakeLayout*>(b_layout)};
  const auto& out = *static_cast<const FakeLayout*>(d_layout);
  if (in.a_layout.rows != in.b_layout.rows || out.rows != in.a_layout.columns || out.columns != in.b_layout.columns ||
      FactorOf(descriptor, beta) != 0)
    return kInvalidValue;
  const bool adds_bias = descriptor.Get<uint32_t>(cublas_lt::kEpilogue, cublas_lt::kNoEpilogue) == cublas_lt::kAddBias;
  const void* const bias = descriptor.Get<const void*>(cublas_lt::kBiasPointer, nullptr);
  const auto bias_type = descriptor.Get<cublas_lt::DataType>(cublas_lt::kBiasType, cublas_lt::kBFloat16);
  for (uint64_t column = 0; column < out.columns; ++column) {
    for (uint64_t row = 0; row < out.rows; ++row) {
      const double value = FactorOf(descriptor, alpha) * ProductAt(in, row, column);
      StoreElement(adds_bias ? value + ElementOf(bias, bias_type, row) : value, out.type, out.At(row, column), d);
    }
  }
  return cublas_lt::kSuccess;
}

// Four: one that works, one that cannot, one that wants too much room, one that works and uses the most there is.
int32_t FakeAlgorithms(void* /*handle*/, void* descriptor, void* a_layout, void*, void*, void*, void* /*preference*/,
                       int most, cublas_lt::HeuristicResult* results, int* found) {
  const auto& layout = *static_cast<const FakeLayout*>(a_layout);
  if (layout.rows % 16 != 0) return kNotSupported;
  const bool fast = static_cast<const FakeDescriptor*>(descriptor)->Get<int8_t>(cublas_lt::kFastAccumulation, 0) != 0;
  *found = std::min(most, 4);
  for (int i = 0; i < *found; ++i) results[i].algorithm.words[0] = static_cast<uint64_t>(i + (fast ? 100 : 200));
  if (most > 1) results[1].state = kNotSupported;
  if (most > 2) results[2].workspace_bytes = CublasLt::kWorkspaceBytes + 1;
  if (most > 3) results[3].workspace_bytes = CublasLt::kWorkspaceBytes;
  return cublas_lt::kSuccess;
}

cublas_lt::Api FakeApi() {
  cublas_lt::Api api;
  api.get_version = [] { return size_t{130100}; };
  api.create = [](void** handle) { return Give(handle, 0); };
  api.destroy = Take<int>;
  api.create_descriptor = [](void** out, cublas_lt::ComputeType compute, cublas_lt::DataType scale) {
    return Give(out, FakeDescriptor{compute, scale, {}});
  };
  api.destroy_descriptor = Take<FakeDescriptor>;
  api.set_descriptor = [](void* object, cublas_lt::DescriptorAttribute attribute, const void* value, size_t bytes) {
    const auto* const begin = static_cast<const char*>(value);
    static_cast<FakeDescriptor*>(object)->attributes[attribute] = std::vector<char>(begin, begin + bytes);
    return cublas_lt::kSuccess;
  };
  api.create_layout = [](void** out, cublas_lt::DataType type, uint64_t rows, uint64_t columns, int64_t stride) {
    return Give(out, FakeLayout{type, rows, columns, stride});
  };
  api.destroy_layout = Take<FakeLayout>;
  api.create_preference = [](void** out) { return Give(out, 0); };
  api.destroy_preference = Take<int>;
  api.set_preference = [](void*, cublas_lt::PreferenceAttribute, const void*, size_t) { return cublas_lt::kSuccess; };
  api.find_algorithms = FakeAlgorithms;
  api.multiply = FakeMultiply;
  return api;
}

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
static_assert(int{cublas_lt::kMaxWorkspaceBytes} == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
#endif

}  // namespace
}  // namespace fresco
