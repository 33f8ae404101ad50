#include "pipeline/models/autoencoder_weights.h"

#include <ATen/ops/cat.h>

#include <string>
#include <utility>

#include "pipeline/base/printable.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/checkpoint/json_config.h"
#include "pipeline/models/limits.h"

namespace fresco {
namespace {

// What this implementation takes for granted.
absl::Status CheckSupported(const AutoencoderConfig& config, const JsonConfig& json) {
  FRESCO_ASSIGN_OR_RETURN(const std::string activation, json.String("act_fn", "silu"));
  if (activation != "silu") return json.Error("act_fn", StrCat("\"", PrintableName(activation), "\" is not silu"));
  for (const auto& [key, block] :
       {std::pair("down_block_types", "DownEncoderBlock2D"), std::pair("up_block_types", "UpDecoderBlock2D")}) {
    const std::vector<std::string> all(config.block_out_channels.size(), block);
    FRESCO_ASSIGN_OR_RETURN(const auto types, json.Strings(key, all));
    if (types != all) return json.Error(key, StrCat("is not ", all.size(), " times ", block));
  }
  return absl::OkStatus();
}

}  // namespace

// The defaults are AutoencoderKL's, but for block_out_channels, which every real file has.
absl::StatusOr<AutoencoderConfig> ReadAutoencoderConfig(const std::string& dir) {
  FRESCO_ASSIGN_OR_RETURN(const JsonConfig json, JsonConfig::Open(dir + "/config.json"));
  AutoencoderConfig config;
  FRESCO_ASSIGN_OR_RETURN(config.image_channels, json.Int("in_channels", 3, 3, 3));
  FRESCO_RETURN_IF_ERROR(json.Int("out_channels", 3, 3, 3).status());
  FRESCO_ASSIGN_OR_RETURN(config.latent_channels, json.Int("latent_channels", 4, 1, 4096));
  FRESCO_ASSIGN_OR_RETURN(config.block_out_channels, json.Ints("block_out_channels", {}, 1, kMaxWidth));
  FRESCO_ASSIGN_OR_RETURN(config.layers_per_block, json.Int("layers_per_block", 1, 1, 64));
  FRESCO_ASSIGN_OR_RETURN(config.norm_num_groups, json.Int("norm_num_groups", 32, 1, kMaxWidth));
  FRESCO_ASSIGN_OR_RETURN(config.use_quant_conv, json.Bool("use_quant_conv", true));
  FRESCO_ASSIGN_OR_RETURN(config.use_post_quant_conv, json.Bool("use_post_quant_conv", true));
  FRESCO_ASSIGN_OR_RETURN(config.mid_block_attention, json.Bool("mid_block_add_attention", true));
  FRESCO_ASSIGN_OR_RETURN(config.scaling_factor, json.Double("scaling_factor", 0.18215));
  FRESCO_ASSIGN_OR_RETURN(config.shift_factor, json.Double("shift_factor", 0.0));
  if (config.scaling_factor == 0) return json.Error("scaling_factor", "is zero");
  if (config.block_out_channels.empty() || config.block_out_channels.size() > 8) {
    return json.Error("block_out_channels", "must have 1 to 8 numbers");
  }
  for (int64_t channels : config.block_out_channels) {
    if (channels % config.norm_num_groups != 0) {
      return json.Error("norm_num_groups", StrCat("does not divide ", channels, " channels"));
    }
  }
  FRESCO_RETURN_IF_ERROR(CheckSupported(config, json));
  return config;
}

namespace {

// Reads the layers of the blocks, in FP8 where the options say so. What is before and after the blocks stays high, as
// do the norms.
class BlockReader {
 public:
  BlockReader(const VaeOptions& options, std::shared_ptr<SaturationCount> saturation, WeightReader* reader)
      : options_(options), saturation_(std::move(saturation)), reader_(*reader) {}

  Norm ReadNorm(const std::string& prefix, int64_t dim) { return reader_.ReadNorm(prefix, dim); }

  BlockConv ReadConv(const std::string& prefix, int64_t in, int64_t out, int64_t kernel) {
    if (!fp8()) return {reader_.ReadConv(prefix, in, out, kernel), nullptr};
    const at::Tensor weight = reader_.Stored(prefix + ".weight", {out, in, kernel, kernel});
    return {{}, MakeFp8(prefix, weight, reader_.Stored(prefix + ".bias", {out}))};
  }

  // Several linears of one input as one, of `dim` outputs each; `name` is that of all of them.
  PixelLinear ReadLinears(const std::string& name, const std::vector<std::string>& prefixes, int64_t dim) {
    std::vector<WeightReader::Part> parts;
    for (const std::string& prefix : prefixes) parts.push_back({prefix, dim});
    if (!fp8()) return {reader_.ReadStacked(parts, dim), nullptr};
    std::vector<at::Tensor> weights, biases;
    for (const std::string& prefix : prefixes) {
      weights.push_back(reader_.Stored(prefix + ".weight", {dim, dim}));
      biases.push_back(reader_.Stored(prefix + ".bias", {dim}));
    }
    if (!reader_.status().ok()) return {};
    return {{}, MakeFp8(name, at::cat(weights).unsqueeze(-1).unsqueeze(-1), at::cat(biases))};
  }

  int64_t fp8_bytes() const { return fp8_bytes_; }

 private:
  bool fp8() const { return options_.precision == VaePrecision::kFp8; }

  std::shared_ptr<const Fp8Conv> MakeFp8(const std::string& name, const at::Tensor& weight, const at::Tensor& bias) {
    if (!reader_.status().ok()) return nullptr;
    auto conv = std::make_shared<const Fp8Conv>(weight, bias.to(reader_.placement().device),
                                                Fp8ConvOptions{"vae." + name, options_.overflow_guard, saturation_});
    fp8_bytes_ += conv->bytes();
    return conv;
  }

  const VaeOptions& options_;
  const std::shared_ptr<SaturationCount> saturation_;
  WeightReader& reader_;
  int64_t fp8_bytes_ = 0;
};

ResnetWeights ReadResnet(const std::string& prefix, int64_t in, int64_t out, BlockReader* reader) {
  return {
      .norm1 = reader->ReadNorm(prefix + "norm1", in),
      .norm2 = reader->ReadNorm(prefix + "norm2", out),
      .conv1 = reader->ReadConv(prefix + "conv1", in, out, 3),
      .conv2 = reader->ReadConv(prefix + "conv2", out, out, 3),
      .shortcut = in == out ? BlockConv() : reader->ReadConv(prefix + "conv_shortcut", in, out, 1),
  };
}

MidBlockWeights ReadMidBlock(const std::string& prefix, int64_t dim, bool attention, BlockReader* reader) {
  MidBlockWeights mid{.first = ReadResnet(prefix + "resnets.0.", dim, dim, reader),
                      .second = ReadResnet(prefix + "resnets.1.", dim, dim, reader)};
  if (attention) {
    const std::string name = prefix + "attentions.0.";
    mid.attention = {.norm = reader->ReadNorm(name + "group_norm", dim),
                     .qkv = reader->ReadLinears(name + "to_qkv", {name + "to_q", name + "to_k", name + "to_v"}, dim),
                     .out = reader->ReadLinears(name + "to_out.0", {name + "to_out.0"}, dim)};
  }
  return mid;
}

// `resample`: the name of the convolution to the next resolution; empty: there is none.
ResolutionWeights ReadResolution(const std::string& prefix, int64_t in, int64_t out, int64_t resnets,
                                 const std::string& resample, BlockReader* reader) {
  ResolutionWeights block;
  for (int64_t i = 0; i < resnets; ++i) {
    block.resnets.push_back(ReadResnet(StrCat(prefix, "resnets.", i, "."), i == 0 ? in : out, out, reader));
  }
  if (!resample.empty()) block.resample = reader->ReadConv(prefix + resample, out, out, 3);
  return block;
}

CoderWeights ReadEncoder(const AutoencoderConfig& config, WeightReader* reader, BlockReader* blocks) {
  const std::vector<int64_t>& channels = config.block_out_channels;
  CoderWeights encoder;
  encoder.in = reader->ReadConv("encoder.conv_in", config.image_channels, channels.front(), 3);
  for (size_t i = 0; i < channels.size(); ++i) {
    const bool last = i + 1 == channels.size();
    encoder.blocks.push_back(ReadResolution(StrCat("encoder.down_blocks.", i, "."), channels[i == 0 ? 0 : i - 1],
                                            channels[i], config.layers_per_block, last ? "" : "downsamplers.0.conv",
                                            blocks));
  }
  encoder.mid = ReadMidBlock("encoder.mid_block.", channels.back(), config.mid_block_attention, blocks);
  encoder.norm_out = reader->ReadNorm("encoder.conv_norm_out", channels.back());
  encoder.out = reader->ReadConv("encoder.conv_out", channels.back(), 2 * config.latent_channels, 3);
  return encoder;
}

CoderWeights ReadDecoder(const AutoencoderConfig& config, WeightReader* reader, BlockReader* blocks) {
  const std::vector<int64_t> channels(config.block_out_channels.rbegin(), config.block_out_channels.rend());
  CoderWeights decoder;
  decoder.in = reader->ReadConv("decoder.conv_in", config.latent_channels, channels.front(), 3);
  decoder.mid = ReadMidBlock("decoder.mid_block.", channels.front(), config.mid_block_attention, blocks);
  for (size_t i = 0; i < channels.size(); ++i) {
    const bool last = i + 1 == channels.size();
    decoder.blocks.push_back(ReadResolution(StrCat("decoder.up_blocks.", i, "."), channels[i == 0 ? 0 : i - 1],
                                            channels[i], config.layers_per_block + 1, last ? "" : "upsamplers.0.conv",
                                            blocks));
  }
  decoder.norm_out = reader->ReadNorm("decoder.conv_norm_out", channels.back());
  decoder.out = reader->ReadConv("decoder.conv_out", channels.back(), config.image_channels, 3);
  return decoder;
}

}  // namespace

AutoencoderWeights ReadAutoencoderWeights(const AutoencoderConfig& config, const VaeOptions& options,
                                          std::shared_ptr<SaturationCount> saturation, WeightReader* reader) {
  BlockReader blocks(options, std::move(saturation), reader);
  AutoencoderWeights weights{.encoder = ReadEncoder(config, reader, &blocks),
                             .decoder = ReadDecoder(config, reader, &blocks)};
  const int64_t latent = config.latent_channels;
  if (config.use_quant_conv) weights.quant = reader->ReadConv("quant_conv", 2 * latent, 2 * latent, 1);
  if (config.use_post_quant_conv) weights.post_quant = reader->ReadConv("post_quant_conv", latent, latent, 1);
  weights.fp8_bytes = blocks.fp8_bytes();
  return weights;
}

}  // namespace fresco
