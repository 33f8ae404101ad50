// The row arithmetic of e4m3.h over contiguous elements, vectorised for the processor that it runs on. Every element
// has the bits that the function of e4m3.h named beside the kernel gives, on every processor.
//
// Pure, single-threaded, thread-safe; any n, 0 included. A row is given as a span; every other pointer is to as many
// elements as the span has. Pointers need no alignment, not even to their elements. Outputs overlap no input, except
// that floats may replace floats where said so. bfloat16 elements are their bits (BFloat16::Storage).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "pipeline/kernels/element_types.h"

namespace fresco::kernels {

using BFloat16Bits = BFloat16::Storage;

// ---- measuring a row ------------------------------------------------------------------------------------------------

// The largest magnitude, for E4M3Scale and Int8Scale: NaN if one element is NaN (the one with the largest
// MagnitudeBits), 0 of no elements.
float AbsMax(std::span<const float> x);
float AbsMax(std::span<const BFloat16Bits> x);

// How many elements are outside [-limit, limit]; NaN counts. limit >= 0. With limit = 448 * scale, how many saturate.
size_t CountSaturated(std::span<const float> x, float limit);
size_t CountSaturated(std::span<const BFloat16Bits> x, float limit);

// ---- values to codes ------------------------------------------------------------------------------------------------

// E4M3Code(x[i], inverse_scale).
void QuantizeE4M3(std::span<const float> x, float inverse_scale, uint8_t* codes);
void QuantizeE4M3(std::span<const BFloat16Bits> x, float inverse_scale, uint8_t* codes);

// FromE4M3(E4M3Code(x[i], inverse_scale)): what a product on E4M3 codes multiplies, not yet scaled back. `values` may
// be x.
void RoundTripE4M3(std::span<const float> x, float inverse_scale, float* values);
void RoundTripE4M3(std::span<const BFloat16Bits> x, float inverse_scale, float* values);

// Int8Code(x[i], inverse_scale). A NaN becomes 0: see there.
void QuantizeInt8(std::span<const float> x, float inverse_scale, int8_t* codes);
void QuantizeInt8(std::span<const BFloat16Bits> x, float inverse_scale, int8_t* codes);

// ---- codes to values ------------------------------------------------------------------------------------------------

// FromE4M3(codes[i]), exact; a bfloat16 is the upper half of the float.
void ExpandE4M3(std::span<const uint8_t> codes, float* values);
void ExpandE4M3(std::span<const uint8_t> codes, BFloat16Bits* values);

// ScaledE4M3<Type>(codes[i], scale): the product, rounded once.
void ExpandE4M3Scaled(std::span<const uint8_t> codes, float scale, float* values);
void ExpandE4M3Scaled(std::span<const uint8_t> codes, float scale, BFloat16Bits* values);

// codes[i] * scale in fp32, rounded to the element.
void ExpandInt8Scaled(std::span<const int8_t> codes, float scale, float* values);
void ExpandInt8Scaled(std::span<const int8_t> codes, float scale, BFloat16Bits* values);

void Widen(std::span<const BFloat16Bits> x, float* values);

// ---- a product of rows ----------------------------------------------------------------------------------------------

// The sum of x[i] * y[i] in fp32, in an order that depends on the processor and on the number of elements alone.
float Dot(std::span<const float> x, const float* y);

// ---- after a product of codes ---------------------------------------------------------------------------------------

// Dequantized(sums[i], row_scale, column_scales[i], bias[i]), rounded to the element; no bias where `bias` is null.
void DequantizeInt32(std::span<const int32_t> sums, float row_scale, const float* column_scales, const float* bias,
                     float* values);
void DequantizeInt32(std::span<const int32_t> sums, float row_scale, const float* column_scales, const float* bias,
                     BFloat16Bits* values);

// The same of sums in fp32. `values` may be `sums`.
void ScaleColumns(std::span<const float> sums, float row_scale, const float* column_scales, const float* bias,
                  float* values);
void ScaleColumns(std::span<const float> sums, float row_scale, const float* column_scales, const float* bias,
                  BFloat16Bits* values);

}  // namespace fresco::kernels
