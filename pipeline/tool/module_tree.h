// A checkpoint's weights as the tree of modules that their names spell.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "pipeline/checkpoint/stored_weight.h"
#include "pipeline/checkpoint/weights.h"

namespace fresco {

struct Module {
  std::string name;             // "attn"; "0-11" for twelve that are alike (FoldAlike)
  std::string path;             // "transformer_blocks.0.attn"; of the first that are alike; empty: the part itself
  int64_t alike = 1;            // so many are shown as this one
  std::vector<Module> modules;  // that it consists of: numbers in order, then others by name

  // Of everything in it, of all that are alike.
  int64_t tensors = 0;
  int64_t parameters = 0;                   // elements, scales among them
  int64_t bytes = 0;                        // as stored
  std::map<std::string, int64_t> dtypes;    // bytes by type, as the file calls it
  std::map<std::string, int64_t> computed;  // linears by what they are computed in; empty: it has none, or not known
  std::optional<ScaleRange> scales;         // none: nothing is stored with scales

  std::vector<std::string> own;  // its own tensors: "weight [128, 512]"
};

// What a layer ("transformer_blocks.0.attn.to_q") is computed in ("fp8"); empty for what is no linear.
using ComputedIn = std::function<std::string(const std::string& layer)>;

// The tree of a part, by the names that its modules have here (diffusers'), whatever the file calls them.
Module ModuleTree(const std::string& part, const WeightStore& weights, const StoredWeightSummary& stored,
                  const ComputedIn& computed_in);

// Neighbours that have numbers for names and are alike in all but that, and their scales, become one, everywhere in the
// tree: 24 blocks are read once. Their sums are of all of them.
void FoldAlike(Module* module);

}  // namespace fresco
