// The part of cuBLASLt's interface (version 12.9 and later, NVIDIA's cublasLt.h) that CublasLt calls. The library comes
// with libtorch's CUDA half; its header is not there where there is no toolkit, so that what is needed of it is
// declared here. A test compares both where there is one.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fresco::cublas_lt {

using Handle = void*;
using Descriptor = void*;
using Layout = void*;
using Preference = void*;

inline constexpr int32_t kSuccess = 0;  // cublasStatus_t

enum DataType : int32_t { kFloat32 = 0, kFloat16 = 2, kInt8 = 3, kInt32 = 10, kBFloat16 = 14, kE4M3 = 28 };
enum ComputeType : int32_t { kComputeFloat32 = 68, kComputeInt32 = 72 };
enum Operation : int32_t { kAsItIs = 0, kTransposed = 1 };
enum Epilogue : uint32_t { kNoEpilogue = 1, kAddBias = 4 };
// Of a vector: an element for each row of A's operand, or column of B's.
enum ScaleMode : int32_t { kScalar = 0, kOuterVector = 3 };

enum DescriptorAttribute : int32_t {
  kTransposeA = 3,
  kTransposeB = 4,
  kEpilogue = 7,     // uint32_t
  kBiasPointer = 8,  // as long as the result has rows
  kScaleAPointer = 17,
  kScaleBPointer = 18,
  kFastAccumulation = 25,  // int8_t
  kBiasType = 26,
  kScaleAMode = 31,
  kScaleBMode = 32,
};
enum PreferenceAttribute : int32_t {
  kMaxWorkspaceBytes = 1,  // uint64_t
  kAlignmentA = 5,         // uint32_t, bytes, as the others
  kAlignmentB = 6,
  kAlignmentC = 7,
  kAlignmentD = 8,
};

// Which kernel, and how it goes about it. Opaque; it may be stored and used again with the same version of the library.
struct Algorithm {
  uint64_t words[8] = {};
};

struct HeuristicResult {
  Algorithm algorithm;
  size_t workspace_bytes = 0;
  int32_t state = 0;
  float waves = 0;
  int32_t reserved[4] = {};
};
static_assert(sizeof(HeuristicResult) == 96);

// Matrices lie column after column.
struct Api {
  size_t (*get_version)() = nullptr;
  int32_t (*create)(Handle*) = nullptr;  // for the current device
  int32_t (*destroy)(Handle) = nullptr;
  int32_t (*create_descriptor)(Descriptor*, ComputeType, DataType scale) = nullptr;
  int32_t (*destroy_descriptor)(Descriptor) = nullptr;
  int32_t (*set_descriptor)(Descriptor, DescriptorAttribute, const void* value, size_t bytes) = nullptr;
  int32_t (*create_layout)(Layout*, DataType, uint64_t rows, uint64_t columns, int64_t stride) = nullptr;
  int32_t (*destroy_layout)(Layout) = nullptr;
  int32_t (*create_preference)(Preference*) = nullptr;
  int32_t (*destroy_preference)(Preference) = nullptr;
  int32_t (*set_preference)(Preference, PreferenceAttribute, const void* value, size_t bytes) = nullptr;
  int32_t (*find_algorithms)(Handle, Descriptor, Layout a, Layout b, Layout c, Layout d, Preference, int most,
                             HeuristicResult* results, int* found) = nullptr;
  int32_t (*multiply)(Handle, Descriptor, const void* alpha, const void* a, Layout, const void* b, Layout,
                      const void* beta, const void* c, Layout, void* d, Layout, const Algorithm*, void* workspace,
                      size_t workspace_bytes, void* stream) = nullptr;
};

}  // namespace fresco::cublas_lt
