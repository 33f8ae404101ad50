// What this machine's processor computes in hardware. The same at every call.
#pragma once

namespace fresco {

bool ProcessorHasAvx512();      // AVX512F
bool ProcessorHasAvx512Vnni();  // products of int8
bool ProcessorHasAvx512Bf16();  // products of bf16; a processor with AMX tiles has these instructions too
bool ProcessorHasAmxBf16();     // products of tiles of bf16

}  // namespace fresco
