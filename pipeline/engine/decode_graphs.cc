#include "pipeline/engine/decode_graphs.h"

#include <ATen/ops/empty.h>

#include <optional>
#include <utility>

#include "pipeline/base/strings.h"

namespace fresco {

std::shared_ptr<DecodeGraphs> DecodeGraphs::From(const GraphCalls::Source& source, const Autoencoder& vae,
                                                 int64_t bytes, std::shared_ptr<SaturationCount> saturation) {
  if (!source) return nullptr;
  auto options = source(vae.placement().device, GraphPriority::kOfItsStream, bytes, std::move(saturation), "decoding");
  return options.has_value() ? std::make_shared<DecodeGraphs>(vae, *std::move(options)) : nullptr;
}

at::Tensor DecodeGraphs::Decode(const at::Tensor& z) {
  return vae_.DecodeBy(z, [this](const at::Tensor& x) { return DecodeWhole(x); });
}

at::Tensor DecodeGraphs::DecodeWhole(const at::Tensor& x) {
  const int64_t pixels = vae_.config().downscale(), height = pixels * x.size(2), width = pixels * x.size(3);
  if (!Pays(height, width)) return vae_.DecodeWhole(x);
  using Tensors = GraphCalls::Tensors;
  const auto new_image = [&]() -> Tensors {
    return {at::empty({1, vae_.config().image_channels, height, width}, x.options(), at::MemoryFormat::ChannelsLast)};
  };
  // The image stays, besides what decoding it takes.
  const int64_t image_bytes = vae_.config().image_channels * height * width * x.element_size();
  const auto bytes = static_cast<int64_t>(x.nbytes()) + image_bytes + vae_.DecodeBytes(height, width, /*threads=*/1);
  std::optional<Tensors> image =
      calls_.Run({.key = StrCat(x.size(2), "x", x.size(3)),
                  .bytes = bytes,
                  .inputs = {x},
                  .compute = [this](const Tensors& inputs) -> Tensors { return {vae_.DecodeWhole(inputs.front())}; },
                  .results = new_image});
  return image.has_value() ? std::move(image->front()) : vae_.DecodeWhole(x);
}

}  // namespace fresco
