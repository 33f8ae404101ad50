// cuBLASLt's functions on the CPU, as NVIDIA's documentation describes them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <utility>
#include <vector>

#include "pipeline/kernels/cublas_lt.h"
#include "pipeline/kernels/e4m3.h"
#include "pipeline/kernels/element_types.h"

namespace fresco {

inline constexpr int32_t kInvalidValue = 7, kNotSupported = 15;

inline int& LiveObjects() {
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

inline double ElementOf(const void* data, cublas_lt::DataType type, size_t index) {
  if (type == cublas_lt::kInt8) return static_cast<const int8_t*>(data)[index];
  if (type == cublas_lt::kE4M3) return kernels::FromE4M3(static_cast<const uint8_t*>(data)[index]);
  if (type == cublas_lt::kBFloat16) return kernels::BFloat16::Load(static_cast<const uint16_t*>(data)[index]);
  return kernels::Float16::Load(static_cast<const uint16_t*>(data)[index]);
}

inline void StoreElement(double value, cublas_lt::DataType type, size_t index, void* data) {
  if (type == cublas_lt::kInt32) {
    static_cast<int32_t*>(data)[index] = static_cast<int32_t>(value);
  } else if (type == cublas_lt::kBFloat16) {
    static_cast<uint16_t*>(data)[index] = kernels::BFloat16::Store(static_cast<float>(value));
  } else {
    static_cast<uint16_t*>(data)[index] = kernels::Float16::Store(static_cast<float>(value));
  }
}

inline constexpr uint64_t kRefused = 13;  // the first word of an algorithm that takes nothing

struct Operands {
  const FakeDescriptor& descriptor;
  const void *a, *b;
  const FakeLayout &a_layout, &b_layout;
};

// What the product has at [row, column], before alpha.
inline double ProductAt(const Operands& in, uint64_t row, uint64_t column) {
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

inline double FactorOf(const FakeDescriptor& descriptor, const void* factor) {
  return descriptor.scale_type == cublas_lt::kInt32 ? *static_cast<const int32_t*>(factor)
                                                    : static_cast<double>(*static_cast<const float*>(factor));
}

inline int32_t FakeMultiply(void* /*handle*/, void* descriptor_object, const void* alpha, const void* a, void* a_layout,
                            const void* b, void* b_layout, const void* beta, const void* /*c*/, void* /*c_layout*/,
                            void* d, void* d_layout, const cublas_lt::Algorithm* algorithm, void* /*workspace*/,
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
inline int32_t FakeAlgorithms(void* /*handle*/, void* descriptor, void* a_layout, void*, void*, void*,
                              void* /*preference*/, int most, cublas_lt::HeuristicResult* results, int* found) {
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

inline cublas_lt::Api FakeApi() {
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

}  // namespace fresco
