// What became of a linear of a checkpoint. Torch-free.
#pragma once

#include <string>

#include "pipeline/precision/scheme.h"

namespace fresco {

struct LinearInfo {
  std::string name;                           // diffusers': "transformer_blocks.3.attn.to_q"
  LinearScheme scheme = LinearScheme::kHigh;  // what it is computed in
  std::string source;                         // what it was stored as: StoredWeight::source, or "random"
  bool as_stored = false;                     // quantised, and its codes are the file's own
};

}  // namespace fresco
