// What row_kernels.cc defines once per instruction set. T: the element type of inputs where there are codes to be made,
// of outputs where there are codes or sums given.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fresco::kernels {

template <typename T>
struct RowKernelTable {
  float (*abs_max)(const T* x, size_t n);
  size_t (*count_saturated)(const T* x, size_t n, float limit);
  void (*quantize_e4m3)(const T* x, size_t n, float inverse_scale, uint8_t* codes);
  void (*round_trip_e4m3)(const T* x, size_t n, float inverse_scale, float* values);
  void (*quantize_int8)(const T* x, size_t n, float inverse_scale, int8_t* codes);
  void (*expand_e4m3)(const uint8_t* codes, size_t n, T* values);
  void (*expand_e4m3_scaled)(const uint8_t* codes, size_t n, float scale, T* values);
  void (*expand_int8_scaled)(const int8_t* codes, size_t n, float scale, T* values);
  void (*dequantize_int32)(const int32_t* sums, size_t n, float row_scale, const float* column_scales,
                           const float* bias, T* values);
  void (*scale_columns)(const float* sums, size_t n, float row_scale, const float* column_scales, const float* bias,
                        T* values);
};

struct FloatKernelTable {
  void (*widen)(const uint16_t* x, size_t n, float* values);
  float (*dot)(const float* x, const float* y, size_t n);
};

}  // namespace fresco::kernels
