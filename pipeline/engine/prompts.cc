#include "pipeline/engine/prompts.h"

#include <string>
#include <string_view>

#include "pipeline/base/strings.h"
#include "pipeline/engine/spec_check.h"

namespace fresco {
namespace {

void WarnIfCut(const std::string& field, std::string_view encoder, const TokenCount& count,
               std::vector<Warning>* warnings) {
  if (!count.truncated()) return;
  warnings->push_back(
      {Warning::Kind::kPromptTruncated, field,
       StrCat(field, " has ", count.total, " ", encoder, " tokens, of which the first ", count.used, " are used")});
}

// `second` and `third`: whether the encoders have texts of their own.
void WarnAboutSide(const std::string& field, bool second, bool third, const PromptEmbedding& embedding,
                   std::vector<Warning>* warnings) {
  // The two tokenizers differ in what they pad with, and so in how they cut a text of many "!".
  const bool only_g = !second && !embedding.clip_l.truncated();
  WarnIfCut(field, "CLIP", only_g ? embedding.clip_g : embedding.clip_l, warnings);
  if (second) WarnIfCut(field + "_2", "CLIP", embedding.clip_g, warnings);
  WarnIfCut(third ? field + "_3" : field, "T5", embedding.t5, warnings);
}

}  // namespace

PromptKey PositiveKey(const ImageSpec& spec) {
  return {spec.prompt, spec.prompt_2.value_or(spec.prompt), spec.prompt_3.value_or(spec.prompt),
          spec.max_sequence_length, spec.clip_skip};
}

PromptKey NegativeKey(const ImageSpec& spec) {
  const std::string& first = spec.negative_prompt;
  return {first, spec.negative_prompt_2.value_or(first), spec.negative_prompt_3.value_or(first),
          spec.max_sequence_length, 0};
}

std::vector<PromptKey> KeysOf(const ModelInfo& info, absl::Span<const ImageSpec* const> specs) {
  std::vector<PromptKey> keys;
  for (const ImageSpec* spec : specs) {
    const bool alone = MustBeAlone(info, *spec);
    keys.push_back(PositiveKey(*spec));
    keys.back().alone = alone;
    if (!HasNegative(*spec)) continue;
    keys.push_back(NegativeKey(*spec));
    keys.back().alone = alone;
  }
  return keys;
}

std::vector<Warning> TruncationWarnings(const ImageSpec& spec, const PromptEmbedding& positive,
                                        const PromptEmbedding* negative) {
  std::vector<Warning> warnings;
  WarnAboutSide("prompt", spec.prompt_2.has_value(), spec.prompt_3.has_value(), positive, &warnings);
  if (negative != nullptr)
    WarnAboutSide("negative_prompt", spec.negative_prompt_2.has_value(), spec.negative_prompt_3.has_value(), *negative,
                  &warnings);
  return warnings;
}

}  // namespace fresco
