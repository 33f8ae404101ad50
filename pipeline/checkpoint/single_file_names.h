// The names of a model's layers in the layouts that single files come in, and what diffusers calls them. Text alone.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fresco {

// What differs between a layer here and in diffusers, apart from its name.
enum class LayerForm {
  kSame,
  kTensor,              // the name is a tensor's, not a layer's
  kFused,               // q, k and v, one below the other: three layers in diffusers
  kSwapped,             // shift above scale, where diffusers has scale above shift
  kSwappedInLastBlock,  // kSwapped in the last of the blocks, kSame in all others
  kPointwise,           // a 1×1 convolution, where diffusers has a linear layer
};

// A pattern matches whole segments at the start of a name. '#' stands for a number in both; in `to`, '^' stands for
// that number counted from the last one, and '%' for q, k and v (kFused).
struct NameRule {
  std::string_view from;
  std::string_view to;
  LayerForm form = LayerForm::kSame;
};

// A component as one kind of file has it: its names start with `root`, and if there are any that start with root +
// sign, the file holds the component in this layout. In the layouts that count something, sign is what precedes the
// number.
struct SingleFileLayout {
  std::string_view component;
  std::string_view root;
  std::string_view sign;
  std::span<const NameRule> rules;
  // The pooled state is used as it is: text_projection.weight is the identity, whatever the file has under that name.
  bool identity_projection = false;
};

std::span<const SingleFileLayout> SingleFileLayouts();

// A name, taken apart.
struct DiffusersName {
  std::vector<std::string> layers;    // in diffusers; three where it is kFused (q, k, v)
  std::string rest;                   // what follows the layer's name: ".weight", ".scale_weight", or nothing
  LayerForm form = LayerForm::kSame;  // never kSwappedInLastBlock
};

// `name` comes without the root. `count`: how many blocks (of the transformer or of the VAE's decoder) there are.
// Nothing for names that the layout does not know.
std::optional<DiffusersName> ToDiffusers(std::span<const NameRule> rules, int64_t count, std::string_view name);

// The layout that Stability AI and ComfyUI keep a component in beside the others: "model.diffusion_model.", … Null for
// what is none of the five components.
const SingleFileLayout* SingleFileLayoutOf(std::string_view component);
// The one that keeps a component's own names beside the others: "text_encoder.", …
const SingleFileLayout* DiffusersLayoutOf(std::string_view component);

// The other way round: where a layer's tensor, or a tensor, of diffusers' name goes.
struct SingleFileName {
  std::string layer;                  // with the root; several layers have one where it is kFused
  std::string rest;                   // as DiffusersName's
  LayerForm form = LayerForm::kSame;  // never kSwappedInLastBlock
  int part = 0;                       // of kFused: 0, 1, 2 for q, k, v
};

// `count` as above, of diffusers' blocks. Nothing for names that the layout does not know.
std::optional<SingleFileName> ToSingleFile(const SingleFileLayout& layout, int64_t count, std::string_view name);

// The number that `text` starts with, a dot behind it. Nothing where it starts otherwise, or with one that would be
// written shorter or has more than four digits.
std::optional<int64_t> LeadingNumber(std::string_view text);

}  // namespace fresco
