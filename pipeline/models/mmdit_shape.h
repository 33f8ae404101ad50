// What the tensors of a transformer say of its configuration: for files that come without one, and to hold a
// configuration from elsewhere to them. Torch-free.
#pragma once

#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "pipeline/checkpoint/weights.h"
#include "pipeline/models/mmdit_config.h"

namespace fresco {

// Of `weights` under diffusers' names. What shapes do not say is as in every released model: heads of 64 features where
// queries have no norm, whose length is theirs; sample_size 128. INVALID_ARGUMENT, naming file and tensor, for a tensor
// that is missing or has no such shape.
absl::StatusOr<MmditConfig> InferMmditConfig(const WeightStore& weights);

// INVALID_ARGUMENT, naming the tensor, its file, `config_path` (where `config` was read) and the key, where `config` is
// of another model than `weights`: not only where a tensor that it asks for has another shape, but also where it leaves
// out blocks, second attentions or norms that the weights have.
absl::Status CheckMmditConfig(const MmditConfig& config, std::string_view config_path, const WeightStore& weights);

}  // namespace fresco
