// What a component's file holds once its linears are quantised: which tensors, and where their data come from.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "pipeline/checkpoint/safetensors_writer.h"
#include "pipeline/checkpoint/weights.h"
#include "pipeline/precision/layer_table.h"

namespace fresco {

// A tensor that is still to be made.
struct PlannedTensor {
  SafetensorsWriter::Tensor header;
  std::function<absl::Status(SafetensorsWriter*)> write;  // writes header.bytes() bytes
};

struct PlannedPart {
  std::vector<PlannedTensor> tensors;
  int64_t layers = 0;  // of the store's linears, that are quantised
};

// A component as a diffusers folder has it. A quantised linear X is X.weight (codes), X.weight_scale (F32 [out, 1], a
// scale for each row) and X.comfy_quant (JSON, as ComfyUI writes it), one that is stored in these codes already as it
// is, others from the values that they stand for. Codes of linears that are computed as one (q, k, v; all blocks'
// modulations) follow each other as the model stacks them. All else is as it is stored.
//
// The plan holds the store's mappings, no data. INVALID_ARGUMENT, naming file and tensor, for a linear that
// FindStoredWeight refuses and, when it is written, for a tensor with NaN or infinite values. Writing may throw
// libtorch's exceptions.
absl::StatusOr<PlannedPart> PlanFolderPart(const WeightStore& store, const LayerTable& layers);

// The same component, of the name given, as a single file has it that ComfyUI reads (single_file_names.h). There FP8
// weights have one scale for the whole tensor, which is all that ComfyUI computes with; int8 weights have one for each
// row. Linears that only save memory say that their product wants high precision. Linears that are one there (q, k, v)
// are quantised only if all of them are, and those that stay high, but are stored quantised, become BF16.
absl::StatusOr<PlannedPart> PlanSingleFilePart(const WeightStore& store, std::string_view component,
                                               const LayerTable& layers);

// The store's linears, by diffusers' names: all that a table can have quantised.
std::vector<std::string> LinearsOf(const WeightStore& store);

}  // namespace fresco
