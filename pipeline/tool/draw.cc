#include "pipeline/tool/draw.h"

#include <chrono>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "pipeline/base/clock.h"
#include "pipeline/base/format_bytes.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/checkpoint/text_file.h"
#include "pipeline/engine/memory_budget.h"
#include "pipeline/engine/picture_metadata.h"
#include "pipeline/image/codec.h"
#include "pipeline/tool/json_print.h"
#include "pipeline/tool/progress_line.h"

namespace fresco {
namespace {

using Steady = std::chrono::steady_clock;

double Seconds(Steady::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

absl::StatusOr<Image> Draw(Engine& engine, ImageJob& job) {
  for (const Warning& warning : job.warnings()) std::fprintf(stderr, "warning: %s\n", warning.message.c_str());
  ProgressLine progress;
  while (!job.done()) {
    FRESCO_RETURN_IF_ERROR(engine.Step({&job}).front());
    progress.Show(StrCat("step ", job.step(), "/", job.spec().steps), job.done());
  }
  return engine.Finish(job);
}

ImageMetadata Metadata(const ModelInfo& info, const ImageSpec& spec) {
  ImageProvenance provenance = ProvenanceOf(info, "fresco " FRESCO_VERSION);
  provenance.spec = spec;
  provenance.batch_size_min = provenance.batch_size_max = 1;
  return PictureMetadata(provenance, {});
}

// What was loaded when it was needed, where there is a budget.
void PrintResidency(const EngineStats& stats) {
  for (const EngineStats::Residency& component : stats.residency)
    std::printf("%-16s %10s, loaded %lld %s: %s in %.2f s%s\n", component.component.c_str(),
                FormatBytes(component.weight_bytes).c_str(), static_cast<long long>(component.loads),
                component.loads == 1 ? "time" : "times", FormatBytes(component.loaded_bytes).c_str(),
                component.load_seconds, component.there ? ", still there" : "");
  if (!stats.residency.empty()) std::printf("peak memory %s\n", FormatBytes(stats.peak_bytes).c_str());
}

nlohmann::ordered_json ToJson(const std::vector<EngineStats::Residency>& residency) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const EngineStats::Residency& component : residency)
    list.push_back({{"component", component.component},
                    {"weight_bytes", component.weight_bytes},
                    {"there", component.there},
                    {"loads", component.loads},
                    {"loaded_bytes", component.loaded_bytes},
                    {"load_seconds", component.load_seconds}});
  return list;
}

void Report(const ModelInfo& info, const EngineStats& stats, const ImageSpec& spec, const std::string& output,
            double seconds, bool json) {
  if (!json) {
    std::printf("%s: %dx%d, seed %llu, %d steps, %s on %s, %.2f s\n", output.c_str(), spec.width, spec.height,
                static_cast<unsigned long long>(spec.seed), spec.steps, info.precision.c_str(), info.device.c_str(),
                seconds);
    PrintResidency(stats);
    return;
  }
  const nlohmann::ordered_json report = {{"file", output},
                                         {"width", spec.width},
                                         {"height", spec.height},
                                         {"seed", spec.seed},
                                         {"steps", spec.steps},
                                         {"guidance_scale", spec.guidance_scale},
                                         {"precision", info.precision},
                                         {"device", info.device},
                                         {"seconds", seconds},
                                         {"peak_memory_bytes", stats.peak_bytes},
                                         {"residency", ToJson(stats.residency)},
                                         {"weights_digest", info.weights_digest}};
  PrintJson(report);
}

}  // namespace

ImageSpec SpecOf(const DrawOptions& options, const ModelInfo& info) {
  ImageSpec spec;
  spec.prompt = options.prompt.value_or("");
  spec.negative_prompt = options.negative.value_or("");
  spec.width = options.width.value_or(info.default_width);
  spec.height = options.height.value_or(info.default_height);
  spec.steps = options.steps.value_or(info.default_steps);
  spec.guidance_scale = options.guidance.value_or(info.default_guidance_scale);
  spec.max_sequence_length = options.max_sequence_length.value_or(info.default_max_sequence_length);
  spec.seed = options.seed;
  spec.noise_correction = options.noise_correction;
  return spec;
}

std::vector<ImageSpec> SpecsOf(const std::vector<std::string>& prompts, DrawOptions options, const ModelInfo& info) {
  std::vector<ImageSpec> specs;
  for (const std::string& prompt : prompts) {
    options.prompt = prompt;
    specs.push_back(SpecOf(options, info));
    ++options.seed;
  }
  return specs;
}

LoadOptions LoadOptionsOf(const ModelOptions& model) {
  LoadOptions options;
  options.name = options.path = model.model;
  options.base = model.base;
  options.device = model.device;
  options.precision = model.precision;
  options.vae = model.vae;
  options.calibration = model.calibration;
  options.attention = model.attention;
  options.static_scales = model.static_scales;
  options.overflow_guard = model.overflow_guard;
  options.threads = model.threads;
  options.kernel_choices = model.kernel_choices;
  return options;
}

absl::Status RunDraw(const ModelOptions& model, const DrawOptions& draw, const std::string& output) {
  const SystemClock clock;
  LoadOptions options = LoadOptionsOf(model);
  if (model.budget > 0) options.memory = std::make_shared<MemoryBudget>(model.budget, &clock);
  FRESCO_ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine, LoadEngine(options));
  const Steady::time_point begin = Steady::now();
  FRESCO_ASSIGN_OR_RETURN(const std::unique_ptr<ImageJob> job, engine->Prepare(SpecOf(draw, engine->info())));
  FRESCO_ASSIGN_OR_RETURN(const Image image, Draw(*engine, *job));
  const double seconds = Seconds(Steady::now() - begin);
  EncodeOptions encoding;
  encoding.metadata = Metadata(engine->info(), job->spec());
  FRESCO_ASSIGN_OR_RETURN(const std::string bytes, EncodeImage(image, encoding));
  FRESCO_RETURN_IF_ERROR(WriteFileWhole(output, bytes));
  Report(engine->info(), engine->stats(), job->spec(), output, seconds, model.json);
  return absl::OkStatus();
}

}  // namespace fresco
