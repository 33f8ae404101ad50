// FP8 attention on a CPU, which has no such products: the codes and scales of the GPU's kernels, multiplied in fp32.
// For judging what it does to pictures, not for speed.
//
// Pure and thread-safe; pointers are to host memory. Every result has the same bits whatever else is computed.
#pragma once

#include <cstdint>

#include "pipeline/kernels/attention8_jobs.h"

namespace fresco::kernels {

// All codes and scales of the head, `head` counting them over all samples. Type: Float32, BFloat16 or
// Float16.
template <typename Type>
void EncodeHeadOnCpu(const EncodeHeadsJob& job, int64_t head);

// The results of the head, whose codes are there. They are the kernels', up to the order of sums and where these lose
// weights below 2^-17 of a row's largest. Type: as above, job.out's elements.
template <typename Type>
void AttendHeadOnCpu(const Attention8Job& job, int64_t head);

}  // namespace fresco::kernels
