// Which layer is stored and computed how: the one table, and what a configuration changes of it.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "pipeline/precision/scheme.h"

namespace fresco {

// A component's layers; its names are diffusers' ("transformer_blocks.3.attn.to_q"). A value.
// An empty one leaves every layer high.
class LayerTable {
 public:
  // `pattern`: a layer's name, in which * stands for any characters.
  struct Rule {
    std::string pattern;
    LinearScheme scheme = LinearScheme::kHigh;
    std::string origin = "";  // the file it is from, for messages; empty: the settings
  };

  LayerTable() = default;
  explicit LayerTable(std::vector<Rule> rules) : rules_(std::move(rules)) {}

  // What `precision` (fp32, bf16, fp16, fp8, fp8-weight-only, int8) makes of a component's layers.
  static LayerTable ForTransformer(std::string_view precision);
  static LayerTable ForT5(std::string_view precision);

  // Later rules win.
  void Override(const std::vector<Rule>& rules) { rules_.insert(rules_.end(), rules.begin(), rules.end()); }

  // High where no rule matches.
  LinearScheme Of(std::string_view layer) const;

  // A layer's input is quantised with this scale, positive and finite, instead of one for each token.
  void SetInputScale(std::string_view layer, float scale) { input_scales_.insert_or_assign(std::string(layer), scale); }
  std::optional<float> InputScaleOf(std::string_view layer) const;
  // Whether a token that goes beyond such a scale has its own instead (InputQuantization::overflow_guard).
  void SetOverflowGuard(bool guard) { overflow_guard_ = guard; }
  bool overflow_guard() const { return overflow_guard_; }

  // Of all the component's attentions.
  void SetAttention(AttentionScheme attention) { attention_ = attention; }
  AttentionScheme attention() const { return attention_; }

  const std::vector<Rule>& rules() const { return rules_; }

 private:
  std::vector<Rule> rules_;
  std::map<std::string, float, std::less<>> input_scales_;  // by layer
  bool overflow_guard_ = true;
  AttentionScheme attention_ = AttentionScheme::kHigh;
};

// Whether `name` matches `pattern`, in which * stands for any characters, also none.
bool MatchesPattern(std::string_view pattern, std::string_view name);

}  // namespace fresco
