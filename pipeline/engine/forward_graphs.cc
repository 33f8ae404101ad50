#include "pipeline/engine/forward_graphs.h"

#include <ATen/ops/empty_like.h>

#include <optional>
#include <string>
#include <utility>

#include "pipeline/base/strings.h"

namespace fresco {
namespace {

using Tensors = GraphCalls::Tensors;

std::string KeyOf(const std::vector<at::Tensor>& latents, const at::Tensor& text) {
  std::string key = StrCat(text.size(1), " ", c10::toString(text.scalar_type()));
  for (const at::Tensor& size : latents) key += StrCat(" ", size.size(0), "x", size.size(2), "x", size.size(3));
  return key;
}

// Latents by size, then text, modulations of the blocks, and of the end.
Tensors InputsOf(const std::vector<at::Tensor>& latents, const at::Tensor& text,
                 const Mmdit::Modulations& modulations) {
  Tensors inputs = latents;
  inputs.insert(inputs.end(), {text, modulations.blocks, modulations.norm_out});
  return inputs;
}

Tensors ForwardOf(const Mmdit& transformer, const Tensors& inputs) {
  const auto text = inputs.end() - 3;
  const Tensors latents(inputs.begin(), text);
  return transformer.Forward(latents, text[0], Mmdit::Modulations{text[1], text[2]});
}

Tensors EmptyLike(const std::vector<at::Tensor>& latents) {
  Tensors velocities;
  for (const at::Tensor& size : latents) velocities.push_back(at::empty_like(size));
  return velocities;
}

}  // namespace

std::shared_ptr<ForwardGraphs> ForwardGraphs::From(const GraphCalls::Source& source, const Mmdit& transformer,
                                                   int64_t bytes, std::shared_ptr<SaturationCount> saturation,
                                                   std::shared_ptr<MemoryBudget> budget) {
  if (!source) return nullptr;
  auto options =
      source(transformer.placement().device, GraphPriority::kFirst, bytes, std::move(saturation), "a forward");
  if (!options.has_value()) return nullptr;
  options->budget = std::move(budget);
  return std::make_shared<ForwardGraphs>(transformer, *std::move(options));
}

int64_t ForwardGraphs::ForwardBytes(const std::vector<at::Tensor>& latents, const at::Tensor& text) const {
  std::vector<Mmdit::ForwardShape> shapes;
  for (const at::Tensor& size : latents) shapes.push_back({size.size(0), size.size(2), size.size(3), text.size(1)});
  return transformer_.ForwardBytes(shapes, /*threads=*/1);
}

// What the work takes and the inputs and outputs that stay.
int64_t ForwardGraphs::GraphBytes(const std::vector<at::Tensor>& latents, const at::Tensor& text) const {
  int64_t bytes = static_cast<int64_t>(text.nbytes()) + text.size(0) * transformer_.modulation_bytes();
  for (const at::Tensor& size : latents) bytes += 2 * static_cast<int64_t>(size.nbytes());
  return bytes + ForwardBytes(latents, text);
}

std::vector<at::Tensor> ForwardGraphs::Forward(const std::vector<at::Tensor>& latents, const at::Tensor& text,
                                               const Mmdit::Modulations& modulations) {
  std::optional<Tensors> velocities =
      calls_.Run({.key = KeyOf(latents, text),
                  .bytes = GraphBytes(latents, text),
                  .inputs = InputsOf(latents, text, modulations),
                  .compute = [this](const Tensors& inputs) { return ForwardOf(transformer_, inputs); },
                  .results = [&] { return EmptyLike(latents); },
                  .read = [&] { return transformer_.Positions(latents); }});
  if (velocities.has_value()) return *std::move(velocities);
  const MemoryBudget::Claim room = calls_.MakeRoom(ForwardBytes(latents, text));
  return transformer_.Forward(latents, text, modulations);
}

}  // namespace fresco
