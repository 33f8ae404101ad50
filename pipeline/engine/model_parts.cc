#include "pipeline/engine/model_parts.h"

#include <optional>
#include <utility>

#include "absl/strings/escaping.h"
#include "pipeline/base/printable.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/checkpoint/nonfinite.h"
#include "pipeline/checkpoint/sha256.h"
#include "pipeline/checkpoint/weights.h"

namespace fresco {
namespace {

absl::StatusOr<TextEncoders> LoadTextEncoders(const ModelFolder& folder, const Placement& placement) {
  FRESCO_ASSIGN_OR_RETURN(const std::string clip_l_dir, folder.Find("text_encoder"));
  FRESCO_ASSIGN_OR_RETURN(const std::string clip_g_dir, folder.Find("text_encoder_2"));
  FRESCO_ASSIGN_OR_RETURN(const std::string clip_l_words, folder.Find("tokenizer"));
  FRESCO_ASSIGN_OR_RETURN(const std::string clip_g_words, folder.Find("tokenizer_2"));
  FRESCO_ASSIGN_OR_RETURN(auto clip_l_tokenizer, LoadClipTokenizer(clip_l_words));
  FRESCO_ASSIGN_OR_RETURN(auto clip_g_tokenizer, LoadClipTokenizer(clip_g_words));
  FRESCO_ASSIGN_OR_RETURN(auto clip_l, ClipTextModel::Load(clip_l_dir, placement));
  FRESCO_ASSIGN_OR_RETURN(auto clip_g, ClipTextModel::Load(clip_g_dir, placement));
  TextEncoders encoders{std::move(clip_l_tokenizer), std::move(clip_g_tokenizer), nullptr,
                        std::move(clip_l),           std::move(clip_g),           std::nullopt};
  if (!folder.Has("text_encoder_3")) return encoders;
  FRESCO_ASSIGN_OR_RETURN(const std::string t5_words, folder.Find("tokenizer_3"));
  FRESCO_ASSIGN_OR_RETURN(const std::string t5_dir, folder.Find("text_encoder_3"));
  FRESCO_ASSIGN_OR_RETURN(encoders.t5_tokenizer, LoadT5Tokenizer(t5_words));
  FRESCO_ASSIGN_OR_RETURN(encoders.t5, T5Encoder::Load(t5_dir, placement));
  return encoders;
}

absl::Status CheckFit(const MmditConfig& transformer, const AutoencoderConfig& vae, const std::string& dir) {
  if (transformer.in_channels == vae.latent_channels && transformer.out_channels == vae.latent_channels)
    return absl::OkStatus();
  return absl::InvalidArgumentError(StrCat(dir, "/config.json: latent_channels: ", vae.latent_channels,
                                           " does not fit the transformer's in_channels ", transformer.in_channels,
                                           " and out_channels ", transformer.out_channels));
}

}  // namespace

int ModelParts::size_multiple() const {
  return static_cast<int>(vae.config().downscale() * transformer.config().patch_size);
}

std::vector<ModelInfo::Component> ModelParts::Components(std::string_view precision) const {
  const TextEncoders& encoders = text.encoders();
  const std::string type(precision);
  std::vector<ModelInfo::Component> components = {{"transformer", type, transformer.weight_bytes()},
                                                  {"text_encoder", type, encoders.clip_l.weight_bytes()},
                                                  {"text_encoder_2", type, encoders.clip_g.weight_bytes()}};
  if (encoders.t5) components.push_back({"text_encoder_3", type, encoders.t5->weight_bytes()});
  components.push_back({"vae", type, vae.weight_bytes()});
  return components;
}

absl::StatusOr<ModelParts> LoadModelParts(const ModelFolder& folder, const Placement& placement) {
  FRESCO_ASSIGN_OR_RETURN(const std::string scheduler, folder.Find("scheduler"));
  FRESCO_ASSIGN_OR_RETURN(const ScheduleConfig schedule, ReadScheduleConfig(scheduler + "/scheduler_config.json"));
  FRESCO_ASSIGN_OR_RETURN(const std::string vae_dir, folder.Find("vae"));
  FRESCO_ASSIGN_OR_RETURN(const std::string transformer_dir, folder.Find("transformer"));
  FRESCO_ASSIGN_OR_RETURN(Autoencoder vae, Autoencoder::Load(vae_dir, placement));
  FRESCO_ASSIGN_OR_RETURN(TextEncoders encoders, LoadTextEncoders(folder, placement));
  FRESCO_ASSIGN_OR_RETURN(Mmdit transformer, Mmdit::Load(transformer_dir, placement));
  const MmditConfig& config = transformer.config();
  FRESCO_RETURN_IF_ERROR(CheckFit(config, vae.config(), vae_dir));
  auto text = TextConditioner::Create(std::move(encoders), config.joint_attention_dim, config.pooled_projection_dim);
  if (!text.ok()) return Annotate(text.status(), folder.path());
  return ModelParts{schedule, *std::move(text), std::move(transformer), std::move(vae)};
}

absl::Status CheckWeightsFinite(const ModelFolder& folder) {
  for (const WeightedPart& part : kWeightedParts) {
    if (!folder.Has(part.name)) continue;
    FRESCO_ASSIGN_OR_RETURN(const std::string dir, folder.Find(part.name));
    FRESCO_ASSIGN_OR_RETURN(const WeightStore weights, WeightStore::Open(dir, part.stem));
    const std::optional<std::string> name = FirstNonFinite(weights);
    if (!name.has_value()) continue;
    return absl::InvalidArgumentError(
        StrCat(weights.PathOf(*name), ": tensor '", PrintableName(*name), "' holds NaN or infinite weights"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> DigestWeights(const ModelFolder& folder, int threads, const std::stop_token& stop) {
  Sha256 whole;
  for (const WeightedPart& part : kWeightedParts) {
    if (!folder.Has(part.name)) continue;
    FRESCO_ASSIGN_OR_RETURN(const std::string dir, folder.Find(part.name));
    FRESCO_ASSIGN_OR_RETURN(const WeightStore weights, WeightStore::Open(dir, part.stem));
    FRESCO_ASSIGN_OR_RETURN(const std::string digest, weights.Digest(threads, stop));
    whole.Add(StrCat(part.name, " ", digest, "\n"));
  }
  const Sha256::Digest digest = whole.Finish();
  const absl::string_view bytes(reinterpret_cast<const char*>(digest.data()), digest.size());
  return StrCat("sha256:", absl::BytesToHexString(bytes));
}

}  // namespace fresco
