#include "pipeline/checkpoint/single_file_names.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "pipeline/base/strings.h"

namespace fresco {
namespace {

using enum LayerForm;

constexpr size_t kMaxDigits = 4;
constexpr std::string_view kLetters = "qkv";  // of kFused

// Stability AI's own, which ComfyUI keeps.
constexpr NameRule kTransformer[] = {
    {"pos_embed", "pos_embed.pos_embed", kTensor},
    {"x_embedder.proj", "pos_embed.proj"},
    {"t_embedder.mlp.0", "time_text_embed.timestep_embedder.linear_1"},
    {"t_embedder.mlp.2", "time_text_embed.timestep_embedder.linear_2"},
    {"y_embedder.mlp.0", "time_text_embed.text_embedder.linear_1"},
    {"y_embedder.mlp.2", "time_text_embed.text_embedder.linear_2"},
    {"context_embedder", "context_embedder"},
    {"joint_blocks.#.x_block.adaLN_modulation.1", "transformer_blocks.#.norm1.linear"},
    {"joint_blocks.#.x_block.attn.qkv", "transformer_blocks.#.attn.to_%", kFused},
    {"joint_blocks.#.x_block.attn.ln_q", "transformer_blocks.#.attn.norm_q"},
    {"joint_blocks.#.x_block.attn.ln_k", "transformer_blocks.#.attn.norm_k"},
    {"joint_blocks.#.x_block.attn.proj", "transformer_blocks.#.attn.to_out.0"},
    {"joint_blocks.#.x_block.attn2.qkv", "transformer_blocks.#.attn2.to_%", kFused},
    {"joint_blocks.#.x_block.attn2.ln_q", "transformer_blocks.#.attn2.norm_q"},
    {"joint_blocks.#.x_block.attn2.ln_k", "transformer_blocks.#.attn2.norm_k"},
    {"joint_blocks.#.x_block.attn2.proj", "transformer_blocks.#.attn2.to_out.0"},
    {"joint_blocks.#.x_block.mlp.fc1", "transformer_blocks.#.ff.net.0.proj"},
    {"joint_blocks.#.x_block.mlp.fc2", "transformer_blocks.#.ff.net.2"},
    {"joint_blocks.#.context_block.adaLN_modulation.1", "transformer_blocks.#.norm1_context.linear",
     kSwappedInLastBlock},
    {"joint_blocks.#.context_block.attn.qkv", "transformer_blocks.#.attn.add_%_proj", kFused},
    {"joint_blocks.#.context_block.attn.ln_q", "transformer_blocks.#.attn.norm_added_q"},
    {"joint_blocks.#.context_block.attn.ln_k", "transformer_blocks.#.attn.norm_added_k"},
    {"joint_blocks.#.context_block.attn.proj", "transformer_blocks.#.attn.to_add_out"},
    {"joint_blocks.#.context_block.mlp.fc1", "transformer_blocks.#.ff_context.net.0.proj"},
    {"joint_blocks.#.context_block.mlp.fc2", "transformer_blocks.#.ff_context.net.2"},
    {"final_layer.adaLN_modulation.1", "norm_out.linear", kSwapped},
    {"final_layer.linear", "proj_out"},
};

constexpr NameRule kDiffusersTransformer[] = {
    {"pos_embed", "pos_embed"},
    {"time_text_embed", "time_text_embed"},
    {"context_embedder", "context_embedder"},
    {"transformer_blocks", "transformer_blocks"},
    {"norm_out", "norm_out"},
    {"proj_out", "proj_out"},
};

// Latent Diffusion's. Before a block's number its shortcut, whose name differs too: the first rule that matches counts.
constexpr NameRule kVae[] = {
    {"encoder.conv_in", "encoder.conv_in"},
    {"encoder.down.#.block.#.nin_shortcut", "encoder.down_blocks.#.resnets.#.conv_shortcut"},
    {"encoder.down.#.block.#", "encoder.down_blocks.#.resnets.#"},
    {"encoder.down.#.downsample", "encoder.down_blocks.#.downsamplers.0"},
    {"encoder.mid.block_1", "encoder.mid_block.resnets.0"},
    {"encoder.mid.attn_1.norm", "encoder.mid_block.attentions.0.group_norm"},
    {"encoder.mid.attn_1.q", "encoder.mid_block.attentions.0.to_q", kPointwise},
    {"encoder.mid.attn_1.k", "encoder.mid_block.attentions.0.to_k", kPointwise},
    {"encoder.mid.attn_1.v", "encoder.mid_block.attentions.0.to_v", kPointwise},
    {"encoder.mid.attn_1.proj_out", "encoder.mid_block.attentions.0.to_out.0", kPointwise},
    {"encoder.mid.block_2", "encoder.mid_block.resnets.1"},
    {"encoder.norm_out", "encoder.conv_norm_out"},
    {"encoder.conv_out", "encoder.conv_out"},
    {"quant_conv", "quant_conv"},
    {"post_quant_conv", "post_quant_conv"},
    {"decoder.conv_in", "decoder.conv_in"},
    {"decoder.mid.block_1", "decoder.mid_block.resnets.0"},
    {"decoder.mid.attn_1.norm", "decoder.mid_block.attentions.0.group_norm"},
    {"decoder.mid.attn_1.q", "decoder.mid_block.attentions.0.to_q", kPointwise},
    {"decoder.mid.attn_1.k", "decoder.mid_block.attentions.0.to_k", kPointwise},
    {"decoder.mid.attn_1.v", "decoder.mid_block.attentions.0.to_v", kPointwise},
    {"decoder.mid.attn_1.proj_out", "decoder.mid_block.attentions.0.to_out.0", kPointwise},
    {"decoder.mid.block_2", "decoder.mid_block.resnets.1"},
    {"decoder.up.#.block.#.nin_shortcut", "decoder.up_blocks.^.resnets.#.conv_shortcut"},
    {"decoder.up.#.block.#", "decoder.up_blocks.^.resnets.#"},
    {"decoder.up.#.upsample", "decoder.up_blocks.^.upsamplers.0"},
    {"decoder.norm_out", "decoder.conv_norm_out"},
    {"decoder.conv_out", "decoder.conv_out"},
};

constexpr NameRule kDiffusersVae[] = {
    {"encoder", "encoder"},
    {"quant_conv", "quant_conv"},
    {"post_quant_conv", "post_quant_conv"},
    {"decoder", "decoder"},
};

// transformers' own names, in all layouts. Neither ComfyUI nor diffusers reads the projection that an original file may
// hold of CLIP-L.
constexpr NameRule kClip[] = {{"text_model", "text_model"}, {"text_projection", "text_projection"}};
constexpr NameRule kOriginalClipL[] = {{"text_model", "text_model"}};
constexpr NameRule kT5[] = {{"encoder", "encoder"}, {"shared", "shared"}};

constexpr SingleFileLayout kLayouts[] = {
    {"transformer", "", "joint_blocks.", kTransformer},
    {"transformer", "model.diffusion_model.", "joint_blocks.", kTransformer},
    {"transformer", "transformer.", "joint_blocks.", kTransformer},
    {"transformer", "", "transformer_blocks.", kDiffusersTransformer},
    {"transformer", "model.diffusion_model.", "transformer_blocks.", kDiffusersTransformer},
    {"transformer", "transformer.", "transformer_blocks.", kDiffusersTransformer},
    {"text_encoder", "text_encoders.clip_l.transformer.", "text_model.", kOriginalClipL, /*identity_projection=*/true},
    {"text_encoder", "text_encoder.", "text_model.", kClip},
    {"text_encoder_2", "text_encoders.clip_g.transformer.", "text_model.", kClip},
    {"text_encoder_2", "text_encoder_2.", "text_model.", kClip},
    {"text_encoder_3", "text_encoders.t5xxl.transformer.", "encoder.block.", kT5},
    {"text_encoder_3", "text_encoder_3.", "encoder.block.", kT5},
    {"vae", "first_stage_model.", "decoder.up.", kVae},
    {"vae", "vae.", "decoder.up.", kVae},
    {"vae", "first_stage_model.", "decoder.up_blocks.", kDiffusersVae},
    {"vae", "vae.", "decoder.up_blocks.", kDiffusersVae},
};

size_t Digits(std::string_view text) {
  const auto end = std::find_if_not(text.begin(), text.end(), [](unsigned char c) { return absl::ascii_isdigit(c); });
  return static_cast<size_t>(end - text.begin());
}

struct Match {
  std::vector<int64_t> numbers;
  std::string_view rest;
  char letter = '-';  // that stands for '%'
};

std::optional<Match> MatchStart(std::string_view pattern, std::string_view name) {
  Match match{.numbers = {}, .rest = name};
  for (const char c : pattern) {
    size_t length = 1;
    if (c == '#' || c == '^') {
      const std::optional<int64_t> number = LeadingNumber(match.rest);
      if (!number) return std::nullopt;
      match.numbers.push_back(*number);
      length = Digits(match.rest);
    } else if (c == '%' && !match.rest.empty() && kLetters.find(match.rest.front()) != std::string_view::npos) {
      match.letter = match.rest.front();
    } else if (match.rest.empty() || match.rest.front() != c) {
      return std::nullopt;
    }
    match.rest.remove_prefix(length);
  }
  return match.rest.empty() || match.rest.front() == '.' ? std::optional(match) : std::nullopt;
}

std::string Fill(std::string_view pattern, const std::vector<int64_t>& numbers, int64_t count, char letter) {
  std::string name;
  size_t next = 0;
  for (const char c : pattern) {
    if (c == '#') {
      name += std::to_string(numbers[next++]);
    } else if (c == '^') {
      name += std::to_string(count - 1 - numbers[next++]);
    } else {
      name += c == '%' ? letter : c;
    }
  }
  return name;
}

}  // namespace

std::span<const SingleFileLayout> SingleFileLayouts() {
  return kLayouts;
}

std::optional<DiffusersName> ToDiffusers(std::span<const NameRule> rules, int64_t count, std::string_view name) {
  for (const NameRule& rule : rules) {
    const std::optional<Match> match = MatchStart(rule.from, name);
    if (!match || (rule.form == kTensor && !match->rest.empty())) continue;
    DiffusersName found{.rest = std::string(match->rest), .form = rule.form};
    if (found.form == kSwappedInLastBlock) found.form = match->numbers.front() == count - 1 ? kSwapped : kSame;
    for (const char letter : found.form == kFused ? kLetters : std::string_view("-")) {
      found.layers.push_back(Fill(rule.to, match->numbers, count, letter));
    }
    return found;
  }
  return std::nullopt;
}

const SingleFileLayout* SingleFileLayoutOf(std::string_view component) {
  constexpr std::string_view kRoots[] = {"model.diffusion_model.", "text_encoders.", "first_stage_model."};
  for (const SingleFileLayout& layout : kLayouts) {
    const bool original = std::any_of(std::begin(kRoots), std::end(kRoots),
                                      [&](std::string_view root) { return layout.root.starts_with(root); });
    if (layout.component == component && original) return &layout;  // the first: diffusers' names come after
  }
  return nullptr;
}

const SingleFileLayout* DiffusersLayoutOf(std::string_view component) {
  for (const SingleFileLayout& layout : kLayouts) {
    const bool own = layout.rules.data() == kClip || layout.rules.data() == kT5 ||
                     layout.rules.data() == kDiffusersTransformer || layout.rules.data() == kDiffusersVae;
    if (layout.component == component && own && layout.root == StrCat(component, ".")) return &layout;
  }
  return nullptr;
}

std::optional<SingleFileName> ToSingleFile(const SingleFileLayout& layout, int64_t count, std::string_view name) {
  for (const NameRule& rule : layout.rules) {
    std::optional<Match> match = MatchStart(rule.to, name);
    if (!match || (rule.form == kTensor && !match->rest.empty())) continue;
    SingleFileName found{.layer = std::string(layout.root), .rest = std::string(match->rest), .form = rule.form};
    if (found.form == kSwappedInLastBlock) found.form = match->numbers.front() == count - 1 ? kSwapped : kSame;
    if (found.form == kFused) found.part = static_cast<int>(kLetters.find(match->letter));
    // In `from` every number is a '#', those counted from the last one too.
    const size_t counted = rule.to.find('^');
    if (counted != std::string_view::npos) match->numbers.front() = count - 1 - match->numbers.front();
    found.layer += Fill(rule.from, match->numbers, count, match->letter);
    return found;
  }
  return std::nullopt;
}

std::optional<int64_t> LeadingNumber(std::string_view text) {
  const size_t digits = Digits(text);
  if (digits == 0 || digits > kMaxDigits || digits == text.size() || text[digits] != '.') return std::nullopt;
  if (digits > 1 && text.front() == '0') return std::nullopt;
  return std::stoll(std::string(text.substr(0, digits)));
}

}  // namespace fresco
