// The softmax of attention over a row of scores, vectorised for the processor that it runs on.
#pragma once

#include <span>

#include "pipeline/kernels/element_types.h"

namespace fresco::kernels {

// weights[i] = exp(scale * (scores[i] - max(scores))), rounded to bfloat16 (its bits), and returns their sum in fp32
// before that rounding: softmax(scale * scores) is weights over sum. A weight errs by about 2^-8 of it at most. scale >
// 0; at least one score. A score that is NaN makes its weight and the sum NaN, an infinite one the sum. Pure,
// thread-safe.
float SoftmaxWeights(std::span<const float> scores, float scale, BFloat16::Storage* weights);

}  // namespace fresco::kernels
