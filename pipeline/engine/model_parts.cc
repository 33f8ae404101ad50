#include "pipeline/engine/model_parts.h"

#include <ATen/Parallel.h>

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
#include "pipeline/engine/residency.h"
#include "pipeline/precision/device_counters.h"

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

// What the encoders are given.
struct Tokenizers {
  std::shared_ptr<const Tokenizer> clip_l, clip_g, t5;  // t5: null where the model has none
};

absl::StatusOr<Tokenizers> LoadTokenizers(const ModelSource& source) {
  Tokenizers tokenizers;
  FRESCO_ASSIGN_OR_RETURN(const std::string clip_l_words, source.Find("tokenizer"));
  FRESCO_ASSIGN_OR_RETURN(const std::string clip_g_words, source.Find("tokenizer_2"));
  FRESCO_ASSIGN_OR_RETURN(tokenizers.clip_l, LoadClipTokenizer(clip_l_words));
  FRESCO_ASSIGN_OR_RETURN(tokenizers.clip_g, LoadClipTokenizer(clip_g_words));
  if (!source.Has("text_encoder_3")) return tokenizers;
  FRESCO_ASSIGN_OR_RETURN(const std::string t5_words, source.Find("tokenizer_3"));
  FRESCO_ASSIGN_OR_RETURN(tokenizers.t5, LoadT5Tokenizer(t5_words));
  return tokenizers;
}

TextEncoders Join(const Tokenizers& tokenizers, ClipTextModel clip_l, ClipTextModel clip_g) {
  return {tokenizers.clip_l, tokenizers.clip_g, tokenizers.t5, std::move(clip_l), std::move(clip_g), std::nullopt};
}

absl::StatusOr<TextEncoders> LoadTextEncoders(const ModelSource& source, const Placement& placement,
                                              const LayerTable& t5_layers, const LinearObservers& observers) {
  FRESCO_ASSIGN_OR_RETURN(const Tokenizers tokenizers, LoadTokenizers(source));
  FRESCO_ASSIGN_OR_RETURN(auto clip_l, LoadPart<ClipTextModel>(source, "text_encoder", ReadClipConfig, placement));
  FRESCO_ASSIGN_OR_RETURN(auto clip_g, LoadPart<ClipTextModel>(source, "text_encoder_2", ReadClipConfig, placement));
  TextEncoders encoders = Join(tokenizers, std::move(clip_l), std::move(clip_g));
  if (tokenizers.t5 == nullptr) return encoders;
  FRESCO_ASSIGN_OR_RETURN(encoders.t5,
                          LoadPart<T5Encoder>(source, "text_encoder_3", ReadT5Config, placement, t5_layers, observers));
  return encoders;
}

// Loads a part when it is needed: as LoadPart. `shape_of` makes its shape from its configuration.
template <typename Model, typename Config, typename ShapeOf, typename... More>
absl::StatusOr<typename Resident<Model>::Options> ResidentPart(
    const MemoryShare& memory, const ModelSource& source, std::string_view part,
    absl::StatusOr<Config> (*read_config)(const std::string& dir), const ShapeOf& shape_of, const More&... more) {
  FRESCO_ASSIGN_OR_RETURN(const std::string dir, source.Find(part));
  FRESCO_ASSIGN_OR_RETURN(const Config config, read_config(dir));
  FRESCO_ASSIGN_OR_RETURN(const WeightStore weights, source.OpenWeights(part));
  FRESCO_ASSIGN_OR_RETURN(FileStamps files, FileStamps::Of(weights.Files()));
  FRESCO_ASSIGN_OR_RETURN(Model shape, shape_of(config));
  return typename Resident<Model>::Options{
      memory.model,
      std::string(part),
      std::move(shape),
      std::move(files),
      [source, part, read_config, more...] { return LoadPart<Model>(source, part, read_config, more...); },
      nullptr,
      memory.budget};
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

std::vector<ModelInfo::Component> ComponentsOf(const Precision& precision, const Mmdit& transformer,
                                               const ClipTextModel& clip_l, const ClipTextModel& clip_g,
                                               const T5Encoder* t5, const Autoencoder& vae) {
  const std::string type(precision.type_name());
  const auto of = [&](const LayerTable& layers) { return layers.rules().empty() ? type : precision.name; };
  std::vector<ModelInfo::Component> components = {
      {"transformer", of(precision.transformer), transformer.weight_bytes()},
      {"text_encoder", type, clip_l.weight_bytes()},
      {"text_encoder_2", type, clip_g.weight_bytes()}};
  if (t5 != nullptr) components.push_back({"text_encoder_3", of(precision.t5), t5->weight_bytes()});
  const bool fp8_vae = vae.options().precision == VaePrecision::kFp8;
  components.push_back({"vae", fp8_vae ? "fp8" : type, vae.weight_bytes()});
  return components;
}

std::vector<ModelInfo::Component> ModelParts::Components(const Precision& precision) const {
  const TextEncoders& encoders = text.encoders();
  return ComponentsOf(precision, transformer, encoders.clip_l, encoders.clip_g, encoders.t5 ? &*encoders.t5 : nullptr,
                      vae);
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

namespace {

absl::StatusOr<ScheduleConfig> ReadSchedule(const ModelSource& source) {
  FRESCO_ASSIGN_OR_RETURN(const std::string scheduler, source.Find("scheduler"));
  return ReadScheduleConfig(scheduler + "/scheduler_config.json");
}

// The parts put together, and checked against each other.
absl::StatusOr<ModelParts> Assemble(const ModelSource& source, const Precision& precision, TextEncoders encoders,
                                    Mmdit transformer, Autoencoder vae, std::shared_ptr<SaturationCount> saturation) {
  FRESCO_ASSIGN_OR_RETURN(const ScheduleConfig schedule, ReadSchedule(source));
  FRESCO_ASSIGN_OR_RETURN(const std::string vae_dir, source.Find("vae"));
  const MmditConfig& config = transformer.config();
  FRESCO_RETURN_IF_ERROR(CheckFit(config, vae.config(), vae_dir));
  auto text = TextConditioner::Create(std::move(encoders), config.joint_attention_dim, config.pooled_projection_dim);
  if (!text.ok()) return Annotate(text.status(), source.path());
  ModelParts parts{schedule, *std::move(text), std::move(transformer), std::move(vae), std::move(saturation)};
  FRESCO_RETURN_IF_ERROR(CheckExceptions(precision, parts));
  return parts;
}

absl::StatusOr<T5Encoder> StreamT5(const ModelSource& source, const Placement& placement, const LayerTable& layers,
                                   const LinearObservers& observers) {
  FRESCO_ASSIGN_OR_RETURN(const std::string dir, source.Find("text_encoder_3"));
  FRESCO_ASSIGN_OR_RETURN(const T5Config config, ReadT5Config(dir));
  FRESCO_ASSIGN_OR_RETURN(WeightStore weights, source.OpenWeights("text_encoder_3"));
  return T5Encoder::Streamed(config, std::move(weights), placement, layers, observers);
}

// The text encoders take their kernels as they come: their result is kept, and must not depend on a measurement.
Placement TransformerPlacement(const at::Device& device, const Precision& precision) {
  return {device, precision.type, precision.kernels};
}

// Who looks on wants to know at once; the engine's own count is read with each step's result.
std::shared_ptr<SaturationCount> CountOf(const LinearObservers& observers) {
  if (observers.saturation != nullptr) return observers.saturation;
  auto count = std::make_shared<SaturationCount>();
  count->CountOnDevice(std::make_shared<DeviceCounters>());
  return count;
}

}  // namespace

absl::StatusOr<ModelParts> LoadModelParts(const ModelSource& source, const at::Device& device,
                                          const Precision& precision, const VaeOptions& vae_options,
                                          const LinearObservers& observers) {
  FRESCO_RETURN_IF_ERROR(source.CheckComplete());
  const Placement placement{device, precision.type};
  FRESCO_RETURN_IF_ERROR(ReadSchedule(source).status());
  const auto saturation = CountOf(observers);
  FRESCO_ASSIGN_OR_RETURN(
      Autoencoder vae, LoadPart<Autoencoder>(source, "vae", ReadAutoencoderConfig, placement, vae_options, saturation));
  FRESCO_ASSIGN_OR_RETURN(TextEncoders encoders,
                          LoadTextEncoders(source, placement, precision.t5, {nullptr, saturation}));
  FRESCO_ASSIGN_OR_RETURN(Mmdit transformer,
                          LoadTransformer(source, TransformerPlacement(device, precision), precision.transformer,
                                          precision.rounded, {observers.probe, saturation}));
  return Assemble(source, precision, std::move(encoders), std::move(transformer), std::move(vae), saturation);
}

absl::StatusOr<ModelParts> LoadPartsWithin(const MemoryShare& memory, const ModelSource& source,
                                           const at::Device& device, const Precision& precision, const VaeOptions& vae,
                                           const LinearObservers& observers) {
  FRESCO_RETURN_IF_ERROR(source.CheckComplete());
  const Placement placement{device, precision.type};
  FRESCO_RETURN_IF_ERROR(ReadSchedule(source).status());
  const auto saturation = CountOf(observers);
  const LinearObservers counts{nullptr, saturation};
  const auto clip = [&](const ClipConfig& config) { return ClipTextModel::Shape(config, placement); };
  const auto t5 = [&](const T5Config& config) { return T5Encoder::Shape(config, placement, precision.t5); };
  const auto decoder = [&](const AutoencoderConfig& config) { return Autoencoder::Shape(config, placement, vae); };
  FRESCO_ASSIGN_OR_RETURN(const Tokenizers tokenizers, LoadTokenizers(source));
  FRESCO_ASSIGN_OR_RETURN(auto clip_l,
                          ResidentPart<ClipTextModel>(memory, source, "text_encoder", ReadClipConfig, clip, placement));
  FRESCO_ASSIGN_OR_RETURN(
      auto clip_g, ResidentPart<ClipTextModel>(memory, source, "text_encoder_2", ReadClipConfig, clip, placement));
  FRESCO_ASSIGN_OR_RETURN(auto autoencoder, ResidentPart<Autoencoder>(memory, source, "vae", ReadAutoencoderConfig,
                                                                      decoder, placement, vae, saturation));
  TextEncoders encoders = Join(tokenizers, clip_l.shape, clip_g.shape);
  std::optional<Resident<T5Encoder>::Options> text_encoder_3;
  if (tokenizers.t5 != nullptr) {
    FRESCO_ASSIGN_OR_RETURN(text_encoder_3, ResidentPart<T5Encoder>(memory, source, "text_encoder_3", ReadT5Config, t5,
                                                                    placement, precision.t5, counts));
    text_encoder_3->stream = [source, placement, layers = precision.t5, counts] {
      return StreamT5(source, placement, layers, counts);
    };
    encoders.t5 = text_encoder_3->shape;
  }
  Autoencoder vae_shape = autoencoder.shape;
  const auto residency = std::make_shared<Residency>(
      Residency::Components{std::move(clip_l), std::move(clip_g), std::move(text_encoder_3), std::move(autoencoder)},
      memory.budget, device, at::get_num_threads());
  encoders.source = residency;
  FRESCO_ASSIGN_OR_RETURN(Mmdit transformer,
                          LoadTransformer(source, TransformerPlacement(device, precision), precision.transformer,
                                          precision.rounded, {observers.probe, saturation}));
  FRESCO_ASSIGN_OR_RETURN(ModelParts parts, Assemble(source, precision, std::move(encoders), std::move(transformer),
                                                     std::move(vae_shape), saturation));
  parts.residency = residency;
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
