// What a model is stored and computed in.
#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "pipeline/precision/layer_table.h"

namespace fresco {

struct DeviceKernels;  // precision/device_kernels.h

struct Precision {
  at::ScalarType type = at::kFloat;  // of everything that no table takes down: activations, norms, embeddings, the VAE
  std::string name;                  // "fp32", "bf16", "fp16", "fp8", "fp8-weight-only", "int8"
  std::string note;                  // what was chosen for the user, and why; empty where it is just what was asked for
  std::vector<LayerTable::Rule> exceptions;  // from the tables, in which they are
  LayerTable transformer, t5;                // the linears that are quantised
  std::string rounded = "";  // file of weights instead of the transformer's own (Mmdit::Load); empty: none
  std::shared_ptr<DeviceKernels> kernels = nullptr;  // of the transformer's Placement

  std::string_view type_name() const;  // "fp32", "bf16", "fp16"
};

// `asked`: fp32 | bf16 | fp16 | fp8 | fp8-weight-only | int8 | auto. `auto` is fp8 on a GPU that computes it, else bf16
// on a GPU and on a CPU that multiplies bf16 in hardware, else fp32. A quantised precision leaves the rest in what
// `auto` would take without it. fp8 is emulated, with the numbers of the hardware, on a CPU; on a GPU that does not
// compute it, it becomes fp8-weight-only, which the note says. `layers`: exceptions from the tables, which may also
// quantise single layers of an otherwise high precision. INVALID_ARGUMENT for an unknown name.
absl::StatusOr<Precision> ChoosePrecision(std::string_view asked, const at::Device& device,
                                          const std::vector<LayerTable::Rule>& layers = {});

// What the attentions of a precision fp8 multiply; another precision keeps its own type.
void SetAttention(AttentionScheme attention, Precision* precision);

}  // namespace fresco
