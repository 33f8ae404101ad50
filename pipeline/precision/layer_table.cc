#include "pipeline/precision/layer_table.h"

#include <array>

namespace fresco {
namespace {

constexpr std::array<std::pair<LinearScheme, std::string_view>, 5> kNames = {{
    {LinearScheme::kHigh, "high"},
    {LinearScheme::kFp8, "fp8"},
    {LinearScheme::kFp8WeightOnly, "fp8-weight-only"},
    {LinearScheme::kInt8, "int8"},
    {LinearScheme::kInt8WeightOnly, "int8-weight-only"},
}};

}  // namespace

std::string_view SchemeName(LinearScheme scheme) {
  for (const auto& [known, name] : kNames) {
    if (known == scheme) return name;
  }
  return "";
}

std::string SchemeNames() {
  std::string names;
  for (size_t i = 0; i < kNames.size(); ++i) {
    names += i == 0 ? "" : i + 1 == kNames.size() ? " or " : ", ";
    names += kNames[i].second;
  }
  return names;
}

std::optional<LinearScheme> ParseScheme(std::string_view name) {
  for (const auto& [scheme, known] : kNames) {
    if (known == name) return scheme;
  }
  return std::nullopt;
}

// docs/facts/fp8.md, Which layers; and norm_out's modulation, which is like the blocks' (docs/PRECISION.md). All that
// is not here stays high: the embedders of patches, time, pooled text and context, proj_out, every norm.
LayerTable LayerTable::ForTransformer(std::string_view precision) {
  const std::optional<LinearScheme> scheme = ParseScheme(precision);
  if (!scheme) return LayerTable();
  return LayerTable({
      {"transformer_blocks.*.attn.*", *scheme},    // q, k, v and out, both streams
      {"transformer_blocks.*.attn2.*", *scheme},   // the image's own attention (Medium)
      {"transformer_blocks.*.ff.net.*", *scheme},  // up and down
      {"transformer_blocks.*.ff_context.net.*", *scheme},
      // A third of the weights, but one row of work for an image: there is only memory to win.
      {"transformer_blocks.*.norm1.linear", StorageOnly(*scheme)},
      {"transformer_blocks.*.norm1_context.linear", StorageOnly(*scheme)},
      {"norm_out.linear", StorageOnly(*scheme)},
  });
}

LayerTable LayerTable::ForT5(std::string_view precision) {
  const std::optional<LinearScheme> scheme = ParseScheme(precision);
  if (!scheme) return LayerTable();
  return LayerTable({
      {"encoder.block.*.SelfAttention.*", *scheme},
      {"encoder.block.*.DenseReluDense.wi_*", *scheme},  // not wo: its input leaves fp16's range
  });
}

LinearScheme LayerTable::Of(std::string_view layer) const {
  for (auto rule = rules_.rbegin(); rule != rules_.rend(); ++rule) {
    if (MatchesPattern(rule->pattern, layer)) return rule->scheme;
  }
  return LinearScheme::kHigh;
}

std::optional<float> LayerTable::InputScaleOf(std::string_view layer) const {
  const auto found = input_scales_.find(layer);
  return found == input_scales_.end() ? std::nullopt : std::optional(found->second);
}

bool MatchesPattern(std::string_view pattern, std::string_view name) {
  size_t p = 0, n = 0, star = std::string_view::npos, resume = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;  // first as nothing
      resume = n;
    } else if (p < pattern.size() && pattern[p] == name[n]) {
      ++p;
      ++n;
    } else if (star != std::string_view::npos) {
      p = star + 1;  // the last star takes one more
      n = ++resume;
    } else {
      return false;
    }
  }
  return pattern.find_first_not_of('*', p) == std::string_view::npos;
}

}  // namespace fresco
