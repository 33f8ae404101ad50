#include "pipeline/models/autoencoder_weights.h"

#include <string>

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

ResnetWeights ReadResnet(const std::string& prefix, int64_t in, int64_t out, WeightReader* reader) {
  return {
      .norm1 = reader->ReadNorm(prefix + "norm1", in),
      .norm2 = reader->ReadNorm(prefix + "norm2", out),
      .conv1 = reader->ReadConv(prefix + "conv1", in, out, 3),
      .conv2 = reader->ReadConv(prefix + "conv2", out, out, 3),
      .shortcut = in == out ? Conv() : reader->ReadConv(prefix + "conv_shortcut", in, out, 1),
  };
}

MidBlockWeights ReadMidBlock(const std::string& prefix, int64_t dim, bool attention, WeightReader* reader) {
  MidBlockWeights mid{.first = ReadResnet(prefix + "resnets.0.", dim, dim, reader),
                      .second = ReadResnet(prefix + "resnets.1.", dim, dim, reader)};
  if (attention) {
    const std::string name = prefix + "attentions.0.";
    mid.attention = {
        .norm = reader->ReadNorm(name + "group_norm", dim),
        .qkv = reader->ReadStacked({{name + "to_q", dim}, {name + "to_k", dim}, {name + "to_v", dim}}, dim),
        .out = reader->ReadLinear(name + "to_out.0", dim, dim)};
  }
  return mid;
}

// `resample`: the name of the convolution to the next resolution; empty: there is none.
ResolutionWeights ReadResolution(const std::string& prefix, int64_t in, int64_t out, int64_t resnets,
                                 const std::string& resample, WeightReader* reader) {
  ResolutionWeights block;
  for (int64_t i = 0; i < resnets; ++i) {
    block.resnets.push_back(ReadResnet(StrCat(prefix, "resnets.", i, "."), i == 0 ? in : out, out, reader));
  }
  if (!resample.empty()) block.resample = reader->ReadConv(prefix + resample, out, out, 3);
  return block;
}

CoderWeights ReadEncoder(const AutoencoderConfig& config, WeightReader* reader) {
  const std::vector<int64_t>& channels = config.block_out_channels;
  CoderWeights encoder;
  encoder.in = reader->ReadConv("encoder.conv_in", config.image_channels, channels.front(), 3);
  for (size_t i = 0; i < channels.size(); ++i) {
    const bool last = i + 1 == channels.size();
    encoder.blocks.push_back(ReadResolution(StrCat("encoder.down_blocks.", i, "."), channels[i == 0 ? 0 : i - 1],
                                            channels[i], config.layers_per_block, last ? "" : "downsamplers.0.conv",
                                            reader));
  }
  encoder.mid = ReadMidBlock("encoder.mid_block.", channels.back(), config.mid_block_attention, reader);
  encoder.norm_out = reader->ReadNorm("encoder.conv_norm_out", channels.back());
  encoder.out = reader->ReadConv("encoder.conv_out", channels.back(), 2 * config.latent_channels, 3);
  return encoder;
}

CoderWeights ReadDecoder(const AutoencoderConfig& config, WeightReader* reader) {
  const std::vector<int64_t> channels(config.block_out_channels.rbegin(), config.block_out_channels.rend());
  CoderWeights decoder;
  decoder.in = reader->ReadConv("decoder.conv_in", config.latent_channels, channels.front(), 3);
  decoder.mid = ReadMidBlock("decoder.mid_block.", channels.front(), config.mid_block_attention, reader);
  for (size_t i = 0; i < channels.size(); ++i) {
    const bool last = i + 1 == channels.size();
    decoder.blocks.push_back(ReadResolution(StrCat("decoder.up_blocks.", i, "."), channels[i == 0 ? 0 : i - 1],
                                            channels[i], config.layers_per_block + 1, last ? "" : "upsamplers.0.conv",
                                            reader));
  }
  decoder.norm_out = reader->ReadNorm("decoder.conv_norm_out", channels.back());
  decoder.out = reader->ReadConv("decoder.conv_out", channels.back(), config.image_channels, 3);
  return decoder;
}

}  // namespace

AutoencoderWeights ReadAutoencoderWeights(const AutoencoderConfig& config, WeightReader* reader) {
  AutoencoderWeights weights{.encoder = ReadEncoder(config, reader), .decoder = ReadDecoder(config, reader)};
  const int64_t latent = config.latent_channels;
  if (config.use_quant_conv) weights.quant = reader->ReadConv("quant_conv", 2 * latent, 2 * latent, 1);
  if (config.use_post_quant_conv) weights.post_quant = reader->ReadConv("post_quant_conv", latent, latent, 1);
  return weights;
}

}  // namespace fresco
