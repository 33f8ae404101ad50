// Writes a model with its linears quantised.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "pipeline/precision/layer_table.h"

namespace fresco {

struct QuantizeOptions {
  std::string model;                     // as LoadOptions::path
  std::string base;                      // as LoadOptions::base
  std::string precision = "fp8";         // fp8 | fp8-weight-only | int8
  std::vector<LayerTable::Rule> layers;  // exceptions from the precision's tables and the model's own (fresco.yaml)
  std::string calibration;               // LoadOptions'
  std::string output;                    // a folder, or a file whose name ends in .safetensors
  bool with_encoders = false;            // a file holds text encoders and VAE too
  bool force = false;                    // replace what is there: a file, or a folder that holds a model
};

struct QuantizeReport {
  int64_t layers = 0;                   // that are quantised
  int64_t source_bytes = 0, bytes = 0;  // of the tensors that are written, as they were and as they are
};

// `part` ("transformer"), and how many of its bytes are written.
using QuantizeProgress = std::function<void(std::string_view part, uint64_t done, uint64_t of)>;

// A folder is one as diffusers has them and complete: configs, tokenizers and scheduler are copied, from the base where
// the model has none, and all weights lie in it, aligned, so that loading them at the same precision maps the files and
// computes nothing. All exceptions are written to its fresco.yaml (key `layers`), so that loading keeps them. It
// appears under its name when it is complete.
//
// A calibration's schemes come before the model's own exceptions. Its rounded weights are written in place of the
// nearest codes, and what else it knows goes to calibration.json of the folder, so that the folder is drawn with as the
// model is with its calibration.
//
// A file is one that ComfyUI reads (quantized_part.h). It has no place for exceptions: what stays high is stored high.
// Nor for rounded weights, which have a scale for each row and other inputs.
//
// Reads by mmap, holds one linear at a time. NOT_FOUND for parts that are missing; ALREADY_EXISTS for an output that is
// there and must not be replaced; INVALID_ARGUMENT for a rule that no linear matches, an output that is the model, its
// base or its calibration, holds one or is a file of theirs and, naming file and tensor, for weights that are unsound;
// what the system says for a full disk. May throw libtorch's exceptions.
absl::StatusOr<QuantizeReport> QuantizeModel(const QuantizeOptions& options, const QuantizeProgress& progress);

// What QuantizeModel says first of an output that is there, for who has hours of work to do before.
absl::Status CheckOutput(const QuantizeOptions& options);

}  // namespace fresco
