// Outliers that static scales were not made for: a checkpoint whose pictures are those of the demo model, exactly, but
// whose values between v and the output projection are 1024 times larger in every second channel.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <iterator>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "pipeline/base/median.h"
#include "pipeline/engine/calibration_file.h"
#include "pipeline/engine/calibrator.h"
#include "pipeline/engine/inspection.h"
#include "pipeline/engine/load.h"
#include "pipeline/image/similarity.h"
#include "tests/pipeline/engine/checkpoint_copy.h"

namespace fresco {
namespace {

using ::testing::HasSubstr;

constexpr char kDemo[] = "models/demo";
constexpr char kTransformer[] = "transformer/diffusion_pytorch_model.safetensors";
constexpr const char* kPrompts[] = {"two buses on a purple background", "a turtle, white background",
                                    "two stars on a gray background"};  // the like of which the model was trained on
constexpr int kPowerOfTwo = 10;                                         // so that nothing is rounded

// bf16 times 2^power; none of the demo model's weights leaves the type's range by it.
uint16_t Scaled(uint16_t bits, int power) {
  constexpr int kMantissaBits = 7;
  return (bits & 0x7fff) == 0 ? bits : static_cast<uint16_t>(bits + power * (1 << kMantissaBits));
}

bool EndsWithAny(std::string_view name, std::initializer_list<std::string_view> ends) {
  return std::any_of(ends.begin(), ends.end(), [&](std::string_view end) { return name.ends_with(end); });
}

// The attention's weights sum up v: what its rows gain, the columns that read it lose.
void Plant(std::string_view name, const std::vector<int64_t>& shape, std::span<char> data) {
  const bool rows = EndsWithAny(name, {".to_v.weight", ".add_v_proj.weight", ".to_v.bias", ".add_v_proj.bias"});
  const bool columns = EndsWithAny(name, {".to_out.0.weight", ".to_add_out.weight"});
  if (!rows && !columns) return;
  const auto width = static_cast<size_t>(shape.size() == 2 ? shape[1] : 1);
  for (size_t i = 0; i < data.size() / sizeof(uint16_t); ++i) {
    const size_t channel = rows ? i / width : i % width;
    if (channel % 2 != 0) continue;
    uint16_t bits = 0;
    char* const at = data.data() + i * sizeof(bits);
    std::memcpy(&bits, at, sizeof(bits));
    bits = Scaled(bits, rows ? kPowerOfTwo : -kPowerOfTwo);
    std::memcpy(at, &bits, sizeof(bits));
  }
}

class OverflowGuard : public ::testing::Test {
 protected:
  struct Drawn {
    std::vector<Image> images;
    EngineStats stats;
  };

  static LoadOptions Options(const std::string& model, const std::string& precision) {
    LoadOptions options;
    options.name = "demo";
    options.path = model;
    options.precision = precision;
    options.threads = 2;
    return options;
  }

  static Drawn Draw(const LoadOptions& options) {
    const std::unique_ptr<Engine> engine = LoadEngine(options).value();
    std::vector<std::unique_ptr<ImageJob>> jobs;
    std::vector<ImageJob*> batch;
    for (const char* prompt : kPrompts) {
      ImageSpec spec;
      spec.prompt = prompt;
      spec.width = spec.height = 128;
      spec.steps = 12;
      spec.guidance_scale = engine->info().default_guidance_scale;
      spec.seed = jobs.size();
      jobs.push_back(engine->Prepare(spec).value());
      batch.push_back(jobs.back().get());
    }
    while (!jobs.front()->done()) {
      for (const absl::Status& status : engine->Step(batch)) EXPECT_TRUE(status.ok()) << status;
    }
    Drawn drawn;
    for (const auto& job : jobs) drawn.images.push_back(engine->Finish(*job).value());
    drawn.stats = engine->stats();
    return drawn;
  }

  static double MedianPsnr(const Drawn& drawn, const Drawn& exact) {
    std::vector<double> each;
    for (size_t i = 0; i < exact.images.size(); ++i) each.push_back(Psnr(drawn.images[i], exact.images[i]).value());
    return Median(std::move(each));
  }

  static Inspection Inspect(const LoadOptions& options) {
    InspectionOptions inspect;
    inspect.load = options;
    inspect.against = "fp32";
    inspect.specs = [](const ModelInfo& info) {
      ImageSpec spec;
      spec.prompt = kPrompts[0];
      spec.width = spec.height = 128;
      spec.steps = 4;
      spec.guidance_scale = info.default_guidance_scale;
      return std::vector<ImageSpec>{spec};
    };
    return InspectActivations(inspect).value();
  }

  // Of the demo model's own activations.
  void Calibrate() {
    CalibrationOptions options;
    options.model = kDemo;
    options.threads = 2;
    options.prompts = {std::begin(kPrompts), std::end(kPrompts)};
    options.steps = 6;
    options.sensitivity_samples = 0;
    const auto result = fresco::Calibrate(options, [](const CalibrationProgress&) {});
    ASSERT_TRUE(result.ok()) << result.status();
    ASSERT_TRUE(WriteCalibration(result->calibration, planted_.path("ranges.json")).ok());
  }

  const CheckpointCopy planted_{kDemo};
};

TEST_F(OverflowGuard, KeepsThePictureThatClampingRuins) {
  planted_.EditTensors(kTransformer, Plant);
  Calibrate();
  const Drawn exact = Draw(Options(kDemo, "fp32"));
  ASSERT_GE(MedianPsnr(Draw(Options(planted_.path(), "fp32")), exact), 80);  // the plant changes nothing

  LoadOptions options = Options(planted_.path(), "fp8");
  options.calibration = planted_.path("ranges.json");
  options.static_scales = true;
  options.noise_correction = false;
  const Drawn guarded = Draw(options);
  EXPECT_GE(MedianPsnr(guarded, exact), 30);
  EXPECT_EQ(guarded.stats.saturated_activations, 0);
  EXPECT_GT(guarded.stats.guarded_activations, 0);
  ASSERT_FALSE(guarded.stats.saturated_layers.empty());
  EXPECT_THAT(guarded.stats.saturated_layers.front().name, HasSubstr("transformer.transformer_blocks."));

  options.overflow_guard = false;
  const Drawn naive = Draw(options);
  EXPECT_LE(MedianPsnr(naive, exact), 20);
  EXPECT_GT(naive.stats.saturated_activations, 0);
  EXPECT_EQ(naive.stats.guarded_activations, 0);
  ASSERT_FALSE(naive.stats.saturated_layers.empty());
  EXPECT_THAT(naive.stats.saturated_layers.front().name,
              ::testing::AnyOf(HasSubstr(".to_out.0"), HasSubstr(".to_add_out")));

  // Whoever looks for the layer finds it, and with the guard none.
  const Inspection ruined = Inspect(options);
  const InspectedLayer* const fallen = FirstToFall(ruined);
  ASSERT_NE(fallen, nullptr);
  EXPECT_EQ(fallen->name, "transformer.transformer_blocks.0.attn.to_out.0");
  EXPECT_GT(fallen->all().saturated, 0);
  for (const InspectedLayer* layer : ByOwnNoise(ruined)) {
    // Of a step's own elements, and none while the autoencoder decodes: the reference, which computes with these
    // linears too, does not count.
    for (const InspectedStep& step : layer->steps)
      EXPECT_LE(step.saturated + step.guarded, step.values.counts().count) << layer->name;
    if (layer->all().own.decibels() < 10) {
      EXPECT_THAT(layer->name, ::testing::AnyOf(HasSubstr(".to_out.0"), HasSubstr(".to_add_out")));
    }
  }
  options.overflow_guard = true;
  const Inspection kept = Inspect(options);
  EXPECT_EQ(FirstToFall(kept), nullptr);
}

}  // namespace
}  // namespace fresco
