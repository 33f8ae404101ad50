#include "pipeline/engine/memory_plan.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <limits>
#include <optional>

#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/diffusion/text_conditioning.h"
#include "pipeline/engine/byte_allowance.h"
#include "pipeline/engine/device.h"
#include "pipeline/engine/load_precision.h"
#include "pipeline/engine/model_info.h"
#include "pipeline/engine/model_parts.h"
#include "pipeline/engine/model_source.h"
#include "pipeline/engine/precision.h"
#include "pipeline/engine/published_models.h"
#include "pipeline/engine/torch_boundary.h"
#include "pipeline/models/autoencoder.h"
#include "pipeline/models/clip.h"
#include "pipeline/models/mmdit.h"
#include "pipeline/models/t5.h"

namespace fresco {
namespace {

// A GPU's libraries keep what they multiply with: cuBLAS's and cuBLASLt's, of each stream.
constexpr int64_t kGpuWorkspaceBytes = 64 << 20;

// What is away while it is not needed, in the order in which it goes: what is large and seldom needed first.
constexpr std::array<std::string_view, 4> kGoes = {"text_encoder_3", "text_encoder_2", "text_encoder", "vae"};

struct Configs {
  MmditConfig transformer;
  ClipConfig clip_l, clip_g;
  std::optional<T5Config> t5;
  AutoencoderConfig vae;
};

absl::StatusOr<Configs> ReadConfigs(const ModelSource& source) {
  FRESCO_RETURN_IF_ERROR(source.CheckComplete());
  Configs configs;
  FRESCO_ASSIGN_OR_RETURN(configs.transformer, source.TransformerConfig());
  FRESCO_ASSIGN_OR_RETURN(const std::string clip_l, source.Find("text_encoder"));
  FRESCO_ASSIGN_OR_RETURN(configs.clip_l, ReadClipConfig(clip_l));
  FRESCO_ASSIGN_OR_RETURN(const std::string clip_g, source.Find("text_encoder_2"));
  FRESCO_ASSIGN_OR_RETURN(configs.clip_g, ReadClipConfig(clip_g));
  FRESCO_ASSIGN_OR_RETURN(const std::string vae, source.Find("vae"));
  FRESCO_ASSIGN_OR_RETURN(configs.vae, ReadAutoencoderConfig(vae));
  if (!source.Has("text_encoder_3")) return configs;
  FRESCO_ASSIGN_OR_RETURN(const std::string t5, source.Find("text_encoder_3"));
  FRESCO_ASSIGN_OR_RETURN(configs.t5, ReadT5Config(t5));
  return configs;
}

}  // namespace

struct MemoryPlanner::Model {
  Mmdit transformer;
  ClipTextModel clip_l, clip_g;
  std::optional<T5Encoder> t5;
  Autoencoder vae;
  std::vector<ComponentMemory> components;
  MemoryLoad defaults;
  std::string precision;
  int threads = 1;

  static absl::StatusOr<std::shared_ptr<Model>> Make(const LoadOptions& options, const Configs& configs,
                                                     const Placement& placement, const Precision& precision) {
    FRESCO_ASSIGN_OR_RETURN(Mmdit transformer, Mmdit::Shape(configs.transformer, placement, precision.transformer));
    FRESCO_ASSIGN_OR_RETURN(ClipTextModel clip_l, ClipTextModel::Shape(configs.clip_l, placement));
    FRESCO_ASSIGN_OR_RETURN(ClipTextModel clip_g, ClipTextModel::Shape(configs.clip_g, placement));
    std::optional<T5Encoder> t5;
    if (configs.t5) {
      FRESCO_ASSIGN_OR_RETURN(t5, T5Encoder::Shape(*configs.t5, placement, precision.t5));
    }
    FRESCO_ASSIGN_OR_RETURN(Autoencoder vae, Autoencoder::Shape(configs.vae, placement, options.vae));
    auto model = std::make_shared<Model>(Model{std::move(transformer),
                                               std::move(clip_l),
                                               std::move(clip_g),
                                               std::move(t5),
                                               std::move(vae),
                                               {},
                                               {},
                                               precision.name,
                                               1});
    model->threads = options.threads > 0 ? options.threads : at::get_num_threads();
    const T5Encoder* const has_t5 = model->t5 ? &*model->t5 : nullptr;
    for (const auto& [name, type, bytes] :
         ComponentsOf(precision, model->transformer, model->clip_l, model->clip_g, has_t5, model->vae))
      model->components.push_back(
          {.name = name,
           .precision = type,
           .weight_bytes = bytes,
           .streamed_bytes = name == "text_encoder_3" && has_t5 != nullptr ? has_t5->streamed_bytes() : 0});
    return model;
  }

  int64_t clip_tokens() const { return std::min(clip_l.config().max_positions, clip_g.config().max_positions); }
  int64_t text_tokens(const MemoryLoad& load) const { return clip_tokens() + load.max_sequence_length; }
  int64_t element() const { return static_cast<int64_t>(c10::elementSize(transformer.placement().dtype)); }
  bool on_gpu() const { return transformer.placement().device.is_cuda(); }

  Mmdit::ForwardShape ShapeOf(const MemoryLoad& load) const {
    const int64_t pixels = vae.config().downscale();
    return {int64_t{load.batch} * (load.guided ? 2 : 1), load.height / pixels, load.width / pixels, text_tokens(load)};
  }
  int64_t TextBytes(int64_t texts, const MemoryLoad& load) const {
    const MmditConfig& config = transformer.config();
    return texts * (text_tokens(load) * config.joint_attention_dim + config.pooled_projection_dim) * element();
  }
  // Of all steps of the images, where they are computed ahead (DenoiserOptions).
  int64_t ModulationBytes(const MemoryLoad& load) const {
    if (!on_gpu()) return 0;
    return ShapeOf(load).samples * load.steps * transformer.modulation_bytes();
  }
  // The images' latents and last velocities, the texts' embeddings, these as the forward has them in one tensor, and
  // the positions.
  int64_t StateBytes(const MemoryLoad& load) const {
    const Mmdit::ForwardShape shape = ShapeOf(load);
    const int64_t latents = load.batch * transformer.config().in_channels * shape.height * shape.width * element();
    return 2 * latents + 2 * TextBytes(shape.samples, load) + transformer.KeptBytes(shape);
  }
};

namespace {

MemoryLoad DefaultsOf(const ModelInfo& info) {
  MemoryLoad load;
  load.width = info.default_width;
  load.height = info.default_height;
  load.guided = info.default_guidance_scale > 1;
  load.max_sequence_length = info.default_max_sequence_length;
  load.steps = info.default_steps;
  return load;
}

// The stages of one plan.
class Stages {
 public:
  Stages(const MemoryPlanner& planner, const MemoryLoad& load, int64_t overhead)
      : planner_(planner), load_(load), overhead_(overhead) {}

  // `needed`: the component that it is there for, if it is not kept.
  void Add(MemoryPlan* plan, std::string_view stage, std::string_view needed, int64_t state,
           int64_t activations) const {
    StageMemory added{std::string(stage), 0, state, activations + overhead_};
    for (const ComponentMemory& component : plan->components)
      if (component.kept || component.name == needed) added.weight_bytes += component.needed_bytes();
    plan->stages.push_back(std::move(added));
  }
  void AddEncoder(MemoryPlan* plan, std::string_view encoder) const {
    const int texts = std::min(load_.batch * (load_.guided ? 2 : 1), TextConditioner::kMaxTexts);
    Add(plan, encoder, encoder, load_.cached_texts_bytes,
        planner_.EncodeBytes(encoder, texts, load_.max_sequence_length));
  }

 private:
  const MemoryPlanner& planner_;
  const MemoryLoad& load_;
  const int64_t overhead_;
};

}  // namespace

const StageMemory& MemoryPlan::peak() const {
  return *std::max_element(stages.begin(), stages.end(), [](const StageMemory& a, const StageMemory& b) {
    return a.total_bytes() < b.total_bytes();
  });
}

int64_t MemoryPlan::weight_bytes() const {
  int64_t bytes = 0;
  for (const ComponentMemory& component : components) bytes += component.weight_bytes;
  return bytes;
}

const StageMemory* MemoryPlan::Find(std::string_view stage) const {
  const auto found = std::find_if(stages.begin(), stages.end(), [&](const auto& each) { return each.name == stage; });
  return found == stages.end() ? nullptr : &*found;
}

MemoryPlan MemoryPlanner::Plan(const MemoryLoad& load) const {
  return PlanWithout({}, /*streamed=*/false, std::numeric_limits<int64_t>::max(), load);
}

MemoryPlan MemoryPlanner::PlanWithout(const std::vector<std::string_view>& away, bool streamed, int64_t ahead,
                                      const MemoryLoad& load) const {
  MemoryPlan plan;
  plan.components = model_->components;
  for (ComponentMemory& component : plan.components) {
    component.kept = std::find(away.begin(), away.end(), component.name) == away.end();
    component.streamed = streamed && !component.kept && component.streamed_bytes > 0;
  }
  const Stages stages(*this, load, model_->on_gpu() ? kGpuWorkspaceBytes : 0);
  stages.Add(&plan, "load", "", load.cached_texts_bytes, model_->transformer.loading_bytes());
  // What comes when it is needed comes after it.
  if (!away.empty()) plan.stages.back().weight_bytes = plan.components.front().weight_bytes;
  for (const ComponentMemory& component : model_->components)
    if (component.name.starts_with("text_encoder")) stages.AddEncoder(&plan, component.name);
  const int64_t modulations = std::min(ahead, model_->ModulationBytes(load));
  const int64_t state = model_->StateBytes(load) + modulations + load.cached_texts_bytes;
  stages.Add(&plan, "step", "", state, StepBytes(load));
  stages.Add(&plan, "decode", "vae", state, DecodeBytes(load.width, load.height));
  return plan;
}

MemoryPlan MemoryPlanner::PlanWithin(int64_t budget, const MemoryLoad& load) const {
  std::vector<std::string_view> away;
  const int64_t ahead = ModulationAllowance(budget);
  MemoryPlan plan = PlanWithout(away, /*streamed=*/false, ahead, load);
  for (const std::string_view component : kGoes) {
    if (plan.peak().total_bytes() <= budget) break;
    if (component == "text_encoder_3" && !model_->t5) continue;
    away.push_back(component);
    plan = PlanWithout(away, /*streamed=*/false, ahead, load);
  }
  const bool too_large = plan.peak().total_bytes() > budget && plan.peak().name == "text_encoder_3";
  return too_large ? PlanWithout(away, /*streamed=*/true, ahead, load) : plan;
}

int64_t MemoryPlanner::EncodeBytes(std::string_view encoder, int texts, int max_sequence_length) const {
  if (encoder == "text_encoder_3")
    return model_->t5 ? model_->t5->EncodeBytes(texts, max_sequence_length, model_->threads) : 0;
  const ClipTextModel& clip = encoder == "text_encoder" ? model_->clip_l : model_->clip_g;
  return clip.EncodeBytes(texts, model_->clip_tokens(), model_->threads);
}

int64_t MemoryPlanner::StepBytes(const MemoryLoad& load) const {
  return model_->transformer.ForwardBytes(model_->ShapeOf(load), model_->threads);
}

int64_t MemoryPlanner::DecodeBytes(int width, int height) const {
  return model_->vae.DecodeBytes(height, width, model_->threads);
}

MemoryLoad MemoryPlanner::default_load() const {
  return model_->defaults;
}

const std::string& MemoryPlanner::precision() const {
  return model_->precision;
}

int MemoryPlanner::size_multiple() const {
  return static_cast<int>(model_->vae.config().downscale() * model_->transformer.config().patch_size);
}

int MemoryPlanner::max_size() const {
  return static_cast<int>(model_->transformer.config().pos_embed_max_size) * size_multiple();
}

MemoryNeed LeastNeed(const MemoryPlanner& planner) {
  const MemoryPlan plan = planner.PlanWithin(0, planner.default_load());
  MemoryNeed need;
  for (const ComponentMemory& component : plan.components)
    if (component.kept) need.kept_bytes += component.weight_bytes;
  need.working_bytes = plan.peak().total_bytes() - need.kept_bytes;
  return need;
}

absl::StatusOr<MemoryNeed> LeastMemoryNeed(const LoadOptions& options) {
  FRESCO_ASSIGN_OR_RETURN(const MemoryPlanner planner, MemoryPlanner::Open(options));
  return LeastNeed(planner);
}

absl::StatusOr<MemoryPlanner> MemoryPlanner::Open(const LoadOptions& options) {
  return CatchTorch(options.path, [&]() -> absl::StatusOr<MemoryPlanner> {
    FRESCO_ASSIGN_OR_RETURN(const at::Device device, ParseDevice(options.device));
    FRESCO_ASSIGN_OR_RETURN(const ModelSource source, ModelSource::Open(options.path, options.base));
    FRESCO_ASSIGN_OR_RETURN(const LoadPrecision decided, DecidePrecision(options, source, device));
    FRESCO_ASSIGN_OR_RETURN(const Configs configs, ReadConfigs(source));
    const ModelShape shape{configs.transformer, configs.vae, configs.t5.has_value()};
    FRESCO_ASSIGN_OR_RETURN(const ModelInfo info, DescribeModel(options, source, shape, decided.precision));
    FRESCO_ASSIGN_OR_RETURN(auto model,
                            Model::Make(options, configs, {device, decided.precision.type}, decided.precision));
    model->defaults = DefaultsOf(info);
    return MemoryPlanner(std::move(model));
  });
}

absl::StatusOr<MemoryPlanner> MemoryPlanner::ForPreset(std::string_view preset, const LoadOptions& options) {
  return CatchTorch(preset, [&]() -> absl::StatusOr<MemoryPlanner> {
    FRESCO_ASSIGN_OR_RETURN(const at::Device device, ParseDevice(options.device));
    FRESCO_ASSIGN_OR_RETURN(const PublishedModel published, FindPublishedModel(preset));
    FRESCO_ASSIGN_OR_RETURN(Precision precision, ChoosePrecision(options.precision, device, options.layers));
    SetAttention(options.attention.value_or(AttentionScheme::kHigh), &precision);
    const Configs configs{published.transformer, published.clip_l, published.clip_g, published.t5, published.vae};
    FRESCO_ASSIGN_OR_RETURN(auto model, Model::Make(options, configs, {device, precision.type}, precision));
    return MemoryPlanner(std::move(model));
  });
}

}  // namespace fresco
