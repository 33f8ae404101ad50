#include "pipeline/engine/model_parts.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "pipeline/base/memory_scope.h"
#include "pipeline/base/printable.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/checkpoint/nonfinite.h"
#include "pipeline/checkpoint/sha256.h"
#include "pipeline/checkpoint/weights.h"

namespace fresco {
namespace {

// The blocks that a configuration asks for, and what their tensors' names begin with.
struct Blocks {
  std::string_view prefix;
  int64_t count = 0;
};
Blocks BlocksOf(const ClipConfig& config) {
  return {"text_model.encoder.layers.", config.num_layers};
}
Blocks BlocksOf(const T5Config& config) {
  return {"encoder.block.", config.num_layers};
}
Blocks BlocksOf(const AutoencoderConfig& config) {
  return {"decoder.up_blocks.", static_cast<int64_t>(config.block_out_channels.size())};
}

// Tensors that a configuration asks for and that are not there are found missing; those that it does not ask for would
// be left out in silence.
absl::Status CheckBlocks(const WeightStore& weights, const Blocks& blocks) {
  const int64_t stored = CountBlocks(weights, blocks.prefix);
  if (stored <= blocks.count) return absl::OkStatus();
  return absl::InvalidArgumentError(StrCat(weights.path(), ": tensor \"", blocks.prefix, stored - 1, ".…\" is one of ",
                                           stored, " blocks, where the configuration has ", blocks.count));
}

// A part's weights in the shape of its configuration. `read_config` reads it in the part's folder. Where the weights
// are not from there, errors name both.
template <typename Model, typename Config, typename... More>
absl::StatusOr<Model> LoadPart(const ModelSource& source, std::string_view part,
                               absl::StatusOr<Config> (*read_config)(const std::string& dir), const More&... more) {
  const MemoryScope memory(part, MemoryKind::kWeights);
  FRESCO_ASSIGN_OR_RETURN(const std::string dir, source.Find(part));
  FRESCO_ASSIGN_OR_RETURN(const Config config, read_config(dir));
  FRESCO_ASSIGN_OR_RETURN(WeightStore weights, source.OpenWeights(part));
  if (!source.InFile(part)) return Model::Load(config, std::move(weights), more...);
  const absl::Status blocks = CheckBlocks(weights, BlocksOf(config));
  absl::StatusOr<Model> model = blocks.ok() ? Model::Load(config, std::move(weights), more...) : blocks;
  if (model.ok()) return model;
  return absl::Status(model.status().code(),
                      StrCat(model.status().message(), " (the configuration is ", dir, "/config.json)"));
}

absl::StatusOr<TextEncoders> LoadTextEncoders(const ModelSource& source, const Placement& placement,
                                              const LayerTable& t5_layers, const LinearObservers& observers) {
  FRESCO_ASSIGN_OR_RETURN(const std::string clip_l_words, source.Find("tokenizer"));
  FRESCO_ASSIGN_OR_RETURN(const std::string clip_g_words, source.Find("tokenizer_2"));
  FRESCO_ASSIGN_OR_RETURN(auto clip_l_tokenizer, LoadClipTokenizer(clip_l_words));
  FRESCO_ASSIGN_OR_RETURN(auto clip_g_tokenizer, LoadClipTokenizer(clip_g_words));
  FRESCO_ASSIGN_OR_RETURN(auto clip_l, LoadPart<ClipTextModel>(source, "text_encoder", ReadClipConfig, placement));
  FRESCO_ASSIGN_OR_RETURN(auto clip_g, LoadPart<ClipTextModel>(source, "text_encoder_2", ReadClipConfig, placement));
  TextEncoders encoders{std::move(clip_l_tokenizer), std::move(clip_g_tokenizer), nullptr,
                        std::move(clip_l),           std::move(clip_g),           std::nullopt};
  if (!source.Has("text_encoder_3")) return encoders;
  FRESCO_ASSIGN_OR_RETURN(const std::string t5_words, source.Find("tokenizer_3"));
  FRESCO_ASSIGN_OR_RETURN(encoders.t5_tokenizer, LoadT5Tokenizer(t5_words));
  FRESCO_ASSIGN_OR_RETURN(encoders.t5,
                          LoadPart<T5Encoder>(source, "text_encoder_3", ReadT5Config, placement, t5_layers, observers));
  return encoders;
}

absl::Status CheckFit(const MmditConfig& transformer, const AutoencoderConfig& vae, const std::string& dir) {
  if (transformer.in_channels == vae.latent_channels && transformer.out_channels == vae.latent_channels)
    return absl::OkStatus();
  return absl::InvalidArgumentError(StrCat(dir, "/config.json: latent_channels: ", vae.latent_channels,
                                           " does not fit the transformer's in_channels ", transformer.in_channels,
                                           " and out_channels ", transformer.out_channels));
}

// "transformer: 96 linears fp8 (quantised at load, stored as plain), 24 fp8-weight-only (as stored: comfy_quant …)"
std::string Describe(std::string_view component, const std::vector<LinearInfo>& linears) {
  std::map<std::string, int64_t> kinds;
  for (const LinearInfo& linear : linears) {
    const char* how = linear.as_stored                       ? "as stored: "
                      : linear.scheme == LinearScheme::kHigh ? "from "
                                                             : "quantised at load from ";
    ++kinds[StrCat(SchemeName(linear.scheme), " (", how, PrintableName(linear.source), ")")];
  }
  std::string text = StrCat(component, ":");
  for (const auto& [kind, count] : kinds) text += StrCat(text.back() == ':' ? " " : ", ", count, " linears ", kind);
  return text;
}

// A pattern that matches nothing is a mistake that would pass unnoticed.
absl::Status CheckExceptions(const Precision& precision, const ModelParts& parts) {
  for (const LayerTable::Rule& rule : precision.exceptions) {
    const auto matches = [&](const LinearInfo& linear) { return MatchesPattern(rule.pattern, linear.name); };
    const auto in = [&](const std::vector<LinearInfo>& linears) {
      return std::any_of(linears.begin(), linears.end(), matches);
    };
    const std::optional<T5Encoder>& t5 = parts.text.encoders().t5;
    if (in(parts.transformer.linears()) || (t5 && in(t5->linears()))) continue;
    return absl::InvalidArgumentError(
        StrCat(rule.origin.empty() ? "" : StrCat(rule.origin, ": "), "layers: '", PrintableName(rule.pattern),
               "' matches no linear of the transformer", t5 ? " or the T5 encoder" : " (there is no T5 encoder)",
               ", whose names are like \"", parts.transformer.linears().back().name, "\""));
  }
  return absl::OkStatus();
}

}  // namespace

int ModelParts::size_multiple() const {
  return static_cast<int>(vae.config().downscale() * transformer.config().patch_size);
}

std::vector<ModelInfo::Component> ModelParts::Components(const Precision& precision) const {
  const TextEncoders& encoders = text.encoders();
  const std::string type(precision.type_name());
  const auto of = [&](const LayerTable& layers) { return layers.rules().empty() ? type : precision.name; };
  std::vector<ModelInfo::Component> components = {
      {"transformer", of(precision.transformer), transformer.weight_bytes()},
      {"text_encoder", type, encoders.clip_l.weight_bytes()},
      {"text_encoder_2", type, encoders.clip_g.weight_bytes()}};
  if (encoders.t5) components.push_back({"text_encoder_3", of(precision.t5), encoders.t5->weight_bytes()});
  const bool fp8_vae = vae.options().precision == VaePrecision::kFp8;
  components.push_back({"vae", fp8_vae ? "fp8" : type, vae.weight_bytes()});
  return components;
}

std::vector<std::string> ModelParts::Notes(const Precision& precision) const {
  std::vector<std::string> notes;
  if (!precision.transformer.rules().empty()) notes.push_back(Describe("transformer", transformer.linears()));
  const std::optional<T5Encoder>& t5 = text.encoders().t5;
  if (t5 && !precision.t5.rules().empty()) notes.push_back(Describe("text_encoder_3", t5->linears()));
  return notes;
}

absl::StatusOr<Mmdit> LoadTransformer(const ModelSource& source, const Placement& placement, const LayerTable& layers,
                                      const std::string& rounded, const LinearObservers& observers) {
  const MemoryScope memory("transformer", MemoryKind::kWeights);
  FRESCO_ASSIGN_OR_RETURN(const MmditConfig config, source.TransformerConfig());
  FRESCO_ASSIGN_OR_RETURN(WeightStore weights, source.OpenWeights("transformer"));
  if (!rounded.empty()) {
    FRESCO_ASSIGN_OR_RETURN(const WeightStore instead, WeightStore::OpenFile(rounded));
    // Not the layers that stay high: they would be no better than their codes.
    weights =
        weights.WithLayersOf(instead, [&](std::string_view layer) { return layers.Of(layer) != LinearScheme::kHigh; });
  }
  return Mmdit::Load(config, std::move(weights), placement, layers, observers);
}

absl::StatusOr<ModelParts> LoadModelParts(const ModelSource& source, const at::Device& device,
                                          const Precision& precision, const VaeOptions& vae_options,
                                          const LinearObservers& observers) {
  FRESCO_RETURN_IF_ERROR(source.CheckComplete());
  const Placement placement{device, precision.type};
  FRESCO_ASSIGN_OR_RETURN(const std::string scheduler, source.Find("scheduler"));
  FRESCO_ASSIGN_OR_RETURN(const ScheduleConfig schedule, ReadScheduleConfig(scheduler + "/scheduler_config.json"));
  FRESCO_ASSIGN_OR_RETURN(const std::string vae_dir, source.Find("vae"));
  const auto saturation = observers.saturation != nullptr ? observers.saturation : std::make_shared<SaturationCount>();
  FRESCO_ASSIGN_OR_RETURN(
      Autoencoder vae, LoadPart<Autoencoder>(source, "vae", ReadAutoencoderConfig, placement, vae_options, saturation));
  FRESCO_ASSIGN_OR_RETURN(TextEncoders encoders,
                          LoadTextEncoders(source, placement, precision.t5, {nullptr, saturation}));
  FRESCO_ASSIGN_OR_RETURN(Mmdit transformer, LoadTransformer(source, placement, precision.transformer,
                                                             precision.rounded, {observers.probe, saturation}));
  const MmditConfig& config = transformer.config();
  FRESCO_RETURN_IF_ERROR(CheckFit(config, vae.config(), vae_dir));
  auto text = TextConditioner::Create(std::move(encoders), config.joint_attention_dim, config.pooled_projection_dim);
  if (!text.ok()) return Annotate(text.status(), source.path());
  ModelParts parts{schedule, *std::move(text), std::move(transformer), std::move(vae), saturation};
  FRESCO_RETURN_IF_ERROR(CheckExceptions(precision, parts));
  return parts;
}

absl::Status CheckWeightsFinite(const ModelSource& source) {
  for (const WeightedPart& part : kWeightedParts) {
    if (!source.Has(part.name)) continue;
    FRESCO_ASSIGN_OR_RETURN(const WeightStore weights, source.OpenWeights(part.name));
    const std::optional<std::string> name = FirstNonFinite(weights);
    if (!name.has_value()) continue;
    return absl::InvalidArgumentError(StrCat(weights.Where(*name), " holds NaN or infinite weights"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> DigestWeights(const ModelSource& source, int threads, const std::stop_token& stop) {
  Sha256 whole;
  for (const WeightedPart& part : kWeightedParts) {
    if (!source.Has(part.name)) continue;
    FRESCO_ASSIGN_OR_RETURN(const WeightStore weights, source.OpenWeights(part.name));
    FRESCO_ASSIGN_OR_RETURN(const std::string digest, weights.Digest(threads, stop));
    whole.Add(StrCat(part.name, " ", digest, "\n"));
  }
  return StrCat("sha256:", whole.FinishHex());
}

}  // namespace fresco
