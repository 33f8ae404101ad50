// Codes of weights, brought into the order in which a processor's instruction for pairs reads them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fresco::kernels {

// pairs[term / 2][column][term % 2] = codes[column * stride + term], for `columns` columns and `terms` terms (even) of
// each; pairs has columns * terms bytes, and overlaps no code. Vectorised for the processor that it runs on. Pure,
// thread-safe; pointers need no alignment.
void PackPairs(const uint8_t* codes, size_t stride, size_t columns, size_t terms, uint8_t* pairs);

}  // namespace fresco::kernels
