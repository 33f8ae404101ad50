// A linear's weight as a checkpoint has it, and what it takes to compute with it.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "pipeline/checkpoint/stored_weight.h"
#include "pipeline/checkpoint/weights.h"
#include "pipeline/precision/quantized_weight.h"
#include "pipeline/precision/scheme.h"

namespace fresco {

struct StoredLinear {
  at::Tensor values;  // [out, in], on the host, in the file's own type: the file's memory where it is aligned
  at::Tensor scale;   // [out], kFloat: weight = values * scale; undefined: 1
  std::optional<float> input_scale;    // StoredWeight's
  bool full_precision_matmul = false;  // StoredWeight's
  std::string source;                  // StoredWeight's: "plain", "fp8 cast", …
};

// Errors as FindStoredWeight's.
absl::StatusOr<StoredLinear> ReadStoredLinear(const WeightStore& store, const QuantizationMetadata& metadata,
                                              std::string_view layer, int64_t out, int64_t in);

// The weight in `dtype`, on the host. A plain one of that type is the file's memory itself.
at::Tensor Dequantize(const StoredLinear& stored, at::ScalarType dtype);

// Whether the codes are used as they are stored: of the scheme's type, with a scale for each row or one for all.
bool IsStoredAs(const StoredLinear& stored, LinearScheme scheme);

// The weight in the scheme's codes, on the host: as stored where they are these (the file's memory itself), else
// quantised from the values that they stand for. `scheme` other than kHigh.
QuantizedWeight ToScheme(const StoredLinear& stored, LinearScheme scheme);

}  // namespace fresco
