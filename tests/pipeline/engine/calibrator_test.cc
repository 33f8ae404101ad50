// Calibration by drawing: what the probe sees, what a run learns, and that an interruption changes nothing.
#include "pipeline/engine/calibrator.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/norm.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/stack.h>
#include <c10/core/InferenceMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "pipeline/checkpoint/weights.h"
#include "pipeline/engine/calibration_file.h"
#include "pipeline/engine/calibration_probe.h"
#include "pipeline/engine/load.h"
#include "pipeline/models/mmdit.h"
#include "tests/pipeline/checkpoint/file_maker.h"

namespace fresco {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kMedium[] = "tests/reference/checkpoints/medium";  // small, of random weights
constexpr char kTransformer[] = "tests/reference/checkpoints/medium/transformer";
constexpr char kDemo[] = "models/demo";

struct Inputs {
  at::Tensor latents, text, pooled, timesteps;
};

class ProbeTest : public ::testing::Test {
 protected:
  Inputs MakeInputs() const {
    const MmditConfig& config = model_.config();
    return {at::randn({2, config.in_channels, 8, 8}), at::randn({2, 20, config.joint_attention_dim}),
            at::randn({2, config.pooled_projection_dim}), at::rand({2}) * 1000};
  }
  at::Tensor Forward(const Inputs& in, const Observer& observer = {}) const {
    return model_.Forward(in.latents, in.text, in.pooled, in.timesteps, observer);
  }
  // The entry that names `layer`.
  static const LayerStatistics& Find(const std::vector<LayerStatistics>& layers, const std::string& layer) {
    for (const LayerStatistics& entry : layers) {
      for (const std::string& name : entry.names) {
        if (name == layer) return entry;
      }
    }
    throw std::runtime_error("no " + layer);
  }

  static void ExpectCounted(const LayerStatistics& layer, const at::Tensor& input) {
    const ActivationRange range = layer.buckets[1].Range();
    EXPECT_EQ(range.count, input.numel()) << layer.names.front();
    EXPECT_EQ(range.min, input.min().item<float>()) << layer.names.front();
    EXPECT_EQ(range.max, input.max().item<float>()) << layer.names.front();
    EXPECT_EQ(layer.buckets[0].Range().count, 0);
    const at::Tensor rows = input.reshape({-1, input.size(-1)});
    const at::Tensor largest = rows.abs().amax({0}), mean = rows.to(at::kDouble).mean({0}).to(at::kFloat);
    const std::vector<float> means = layer.channels.Mean();
    for (int64_t i = 0; i < rows.size(1); ++i) {
      EXPECT_EQ(layer.channels.absmax[static_cast<size_t>(i)], largest[i].item<float>());
      EXPECT_NEAR(means[static_cast<size_t>(i)], mean[i].item<float>(), 1e-6);
    }
  }

  const c10::InferenceMode inference_;
  const std::shared_ptr<CalibrationProbe> probe_ = std::make_shared<CalibrationProbe>();
  const Mmdit model_ =
      Mmdit::Load(ReadMmditConfig(kTransformer).value(), WeightStore::Open(kTransformer, kDiffusersStem).value(),
                  {at::kCPU, at::kFloat}, {}, {.probe = probe_, .saturation = nullptr})
          .value();
};

// Those inputs that are known from outside: the model's own, and stages that the model shows.
TEST_F(ProbeTest, CountsWhatEachLinearIsGiven) {
  const Inputs in = MakeInputs();
  std::vector<LayerStatistics> layers;
  probe_->Measure(&layers, /*bucket=*/1, /*buckets=*/2);
  std::map<std::string, at::Tensor, std::less<>> stages;
  Forward(in, [&](std::string_view name, const at::Tensor& value) { stages[std::string(name)] = value.clone(); });
  ExpectCounted(Find(layers, "context_embedder"), in.text);
  ExpectCounted(Find(layers, "time_text_embed.text_embedder.linear_1"), in.pooled);
  ExpectCounted(Find(layers, "proj_out"), stages["norm_out"]);
  // One by one: ATen's vector and scalar SiLU differ in the last bit, and where each is used depends on where the
  // threads share out a tensor of both samples.
  ExpectCounted(Find(layers, "transformer_blocks.2.norm1_context.linear"),
                at::stack({at::silu(stages["temb"][0]), at::silu(stages["temb"][1])}));
  EXPECT_THAT(Find(layers, "transformer_blocks.1.attn.to_k").names,
              ElementsAre("transformer_blocks.1.attn.to_q", "transformer_blocks.1.attn.to_k",
                          "transformer_blocks.1.attn.to_v"));
}

TEST_F(ProbeTest, ChangesNothingUnlessAskedTo) {
  const Inputs in = MakeInputs();
  const Mmdit plain = Mmdit::Load(kTransformer, {at::kCPU, at::kFloat}).value();
  const at::Tensor expected = plain.Forward(in.latents, in.text, in.pooled, in.timesteps);
  EXPECT_TRUE(at::equal(Forward(in), expected));
  std::vector<LayerStatistics> layers;
  probe_->Measure(&layers, 0, 1);
  EXPECT_TRUE(at::equal(Forward(in), expected));
}

// As a model that was loaded with those linears alone quantised.
TEST_F(ProbeTest, QuantisesLinearsOfOneInputAsALoadedModelDoes) {
  const Inputs in = MakeInputs();
  const at::Tensor exact = Forward(in);
  for (const std::vector<std::string>& layers : std::vector<std::vector<std::string>>{
           {"transformer_blocks.1.ff.net.2"},
           {"transformer_blocks.0.attn.to_q", "transformer_blocks.0.attn.to_k", "transformer_blocks.0.attn.to_v"}}) {
    std::vector<LayerTable::Rule> rules;
    for (const std::string& layer : layers) rules.push_back({layer, LinearScheme::kFp8});
    const Mmdit loaded = Mmdit::Load(kTransformer, {at::kCPU, at::kFloat}, LayerTable(rules)).value();
    probe_->Quantise(layers.front(), LinearScheme::kFp8);
    const at::Tensor quantised = Forward(in);
    EXPECT_TRUE(at::equal(quantised, loaded.Forward(in.latents, in.text, in.pooled, in.timesteps))) << layers.front();
    EXPECT_FALSE(at::equal(quantised, exact)) << layers.front();
  }
}

TEST_F(ProbeTest, QuantisesInputsAlone) {
  const Inputs in = MakeInputs();
  const std::string layer = "transformer_blocks.1.ff.net.2";
  probe_->QuantiseInputs(layer, LinearScheme::kFp8);
  const at::Tensor inputs = Forward(in);
  probe_->Quantise(layer, LinearScheme::kFp8);
  const at::Tensor both = Forward(in);
  probe_->Quantise(layer, LinearScheme::kFp8WeightOnly);
  const at::Tensor weight = Forward(in);
  probe_->Rest();
  const at::Tensor exact = Forward(in);
  const auto error = [&](const at::Tensor& velocity) { return (velocity - exact).norm().item<double>(); };
  EXPECT_GT(error(inputs), 0);
  EXPECT_LT(error(inputs), error(both));
  // The two errors are independent, so that their squares add up.
  EXPECT_NEAR(error(both), std::hypot(error(inputs), error(weight)), 0.2 * error(both));
}

std::string Bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

CalibrationOptions Options() {
  CalibrationOptions options;
  options.model = kMedium;
  options.threads = 1;
  options.prompts = {"a red apple on a light blue background", "a fox on a white background"};
  options.steps = 4;
  options.width = options.height = 32;
  options.buckets = 2;
  options.sensitivity_samples = 1;
  return options;
}

TEST(CalibratorTest, RefusesBeforeItBegins) {
  const auto refusal = [](const auto& change) {
    CalibrationOptions options = Options();
    change(options);
    const auto result = Calibrate(options, [](const CalibrationProgress&) { FAIL() << "it began"; });
    return std::string(result.status().message());
  };
  EXPECT_THAT(refusal([](auto& options) { options.prompts.clear(); }), HasSubstr("no prompts"));
  EXPECT_THAT(refusal([](auto& options) { options.precision = "bf16"; }), HasSubstr("'bf16' quantises nothing"));
  EXPECT_THAT(refusal([](auto& options) { options.rounding_samples = 2000000000; }), HasSubstr("not from 0 to"));
  EXPECT_THAT(refusal([](auto& options) { options.high = "fp8"; }), HasSubstr("'fp8' is none to measure against"));
  EXPECT_THAT(refusal([](auto& options) { options.width = 65; }), HasSubstr("width: 65 is not a multiple of 16"));
  EXPECT_THAT(refusal([](auto& options) { options.model = "no/such/model"; }), HasSubstr("no/such/model"));
}

// What it learns of itself, and the same file however often it is interrupted.
TEST(CalibratorTest, AnInterruptedRunGoesOnToTheSameResult) {
  struct Interruption : std::runtime_error {
    using std::runtime_error::runtime_error;
  };
  const TempFolder folder;
  CalibrationOptions options = Options();
  options.rounded = folder.path() + "/resumed.safetensors";
  options.rounding_samples = 2;
  const auto whole = Calibrate(options, [](const CalibrationProgress&) {});
  ASSERT_TRUE(whole.ok()) << whole.status();

  options.state = folder.path() + "/state";
  options.rounded = folder.path() + "/resumed.safetensors";
  options.resume = true;
  int interrupted = 0;
  const std::string rounded = Bytes(options.rounded);
  std::ofstream(options.rounded) << "an earlier calibration's";
  for (const char* phase : {"ranges", "sensitivity", "rounding", "noise"}) {
    int reports = 0;
    const auto result = Calibrate(options, [&](const CalibrationProgress& progress) {
      // In the middle of the phase, with some of it done.
      if (progress.phase == phase && ++reports == 6) throw Interruption("interrupted");
    });
    if (!result.ok()) ++interrupted;
  }
  EXPECT_EQ(interrupted, 4);
  EXPECT_EQ(Bytes(options.rounded), "an earlier calibration's");
  int64_t first = -1, last = 0, total = 0;
  const auto resumed = Calibrate(options, [&](const CalibrationProgress& progress) {
    if (first < 0) first = progress.done;
    last = progress.done;
    total = progress.total;
  });
  ASSERT_TRUE(resumed.ok()) << resumed.status();
  EXPECT_EQ(resumed->calibration, whole->calibration);
  EXPECT_EQ(resumed->corrected_noise, whole->corrected_noise);
  EXPECT_EQ(Bytes(options.rounded), rounded);
  EXPECT_GT(first, total / 2);  // the ranges were not drawn again
  EXPECT_EQ(last, total);

  options.seed = 1;
  const auto other = Calibrate(options, [](const CalibrationProgress&) {});
  EXPECT_THAT(std::string(other.status().message()), AllOf(HasSubstr("/state"), HasSubstr("another run")));
}

TEST(CalibratorTest, RoundedWeightsMakeLessNoise) {
  const TempFolder folder;
  for (const char* precision : {"fp8", "fp8-weight-only", "int8"}) {
    CalibrationOptions options = Options();
    options.precision = precision;
    options.sensitivity_samples = 0;
    options.rounding_samples = 8;
    const auto nearest = Calibrate(options, [](const CalibrationProgress&) {});
    options.rounded = folder.path() + "/" + precision + ".safetensors";
    const auto rounded = Calibrate(options, [](const CalibrationProgress&) {});
    ASSERT_TRUE(nearest.ok() && rounded.ok()) << nearest.status() << rounded.status();
    EXPECT_LT(rounded->noise, nearest->noise) << precision;
    EXPECT_LT(rounded->corrected_noise, rounded->noise) << precision;
  }
}

// int8's inputs are multiplied by what its weights were divided by, also where a layer is computed in high precision.
TEST(CalibratorTest, SmoothedWeightsStandForTheSameProducts) {
  const TempFolder folder;
  CalibrationOptions options = Options();
  options.precision = "int8";
  options.sensitivity_samples = 0;
  options.rounding_samples = 4;
  options.rounded = folder.path() + "/int8.safetensors";
  ASSERT_TRUE(Calibrate(options, [](const CalibrationProgress&) {}).ok());
  const WeightStore rounded = WeightStore::OpenFile(options.rounded).value();
  ASSERT_TRUE(rounded.Contains("transformer_blocks.0.attn.to_q.input_multiplier"));
  const MmditConfig config = ReadMmditConfig(kTransformer).value();
  const WeightStore exact = WeightStore::Open(kTransformer, kDiffusersStem).value();
  const WeightStore mixed = exact.WithLayersOf(rounded, [](std::string_view) { return true; });

  const c10::InferenceMode inference;
  const at::Tensor latents = at::randn({1, config.in_channels, 8, 8});
  const at::Tensor text = at::randn({1, 20, config.joint_attention_dim});
  const at::Tensor pooled = at::randn({1, config.pooled_projection_dim}), timestep = at::full({1}, 500.0F);
  const auto velocity = [&](const WeightStore& weights, const LayerTable& layers) {
    return Mmdit::Load(config, weights, {at::kCPU, at::kFloat}, layers)
        .value()
        .Forward(latents, text, pooled, timestep);
  };
  const at::Tensor expected = velocity(exact, {});
  for (const LayerTable& layers :
       {LayerTable(), LayerTable::ForTransformer("int8"), LayerTable({{"*", LinearScheme::kInt8WeightOnly}})}) {
    const at::Tensor error = velocity(mixed, layers) - expected;
    EXPECT_LT(error.norm().item<double>(), 0.05 * expected.norm().item<double>());
  }
}

TEST(CalibratorTest, SaysWhatItIsUsedForAndThatItIsOfOtherWeights) {
  const TempFolder folder;
  CalibrationOptions options = Options();
  options.sensitivity_samples = 0;
  options.steps = 1;
  auto result = Calibrate(options, [](const CalibrationProgress&) {});
  ASSERT_TRUE(result.ok()) << result.status();
  LoadOptions load;
  load.path = kMedium;
  load.precision = "fp8";
  load.threads = 1;
  load.calibration = folder.path() + "/c.json";
  ASSERT_TRUE(WriteCalibration(result->calibration, load.calibration).ok());
  const auto own = LoadEngine(load);
  ASSERT_TRUE(own.ok()) << own.status();
  EXPECT_THAT((*own)->info().notes, Contains("calibrated with 2 prompts: with noise correction for fp8"));

  result->calibration.weights_digest = "sha256:other";
  ASSERT_TRUE(WriteCalibration(result->calibration, load.calibration).ok());
  EXPECT_THAT(LoadEngine(load).value()->info().notes, Contains(HasSubstr("it was made for other weights")));

  load.precision = "int8";
  const auto other = LoadEngine(load).value();
  EXPECT_THAT(other->info().notes, Contains("calibrated with 2 prompts: without noise correction for int8; it was made "
                                            "for other weights (tests/reference/checkpoints/medium, sha256:other)"));
  ImageSpec spec;
  spec.width = spec.height = 32;
  spec.steps = 1;
  spec.max_sequence_length = 16;
  EXPECT_TRUE(other->Prepare(spec).value()->warnings().empty());
  spec.noise_correction = true;
  const auto job = other->Prepare(spec).value();
  ASSERT_EQ(job->warnings().size(), 1u);
  EXPECT_EQ(job->warnings()[0].field, "noise_correction");
}

TEST(CalibratorTest, WeightsRoundedForAnotherModelAreRefused) {
  const TempFolder folder;
  CalibrationOptions options = Options();
  options.sensitivity_samples = 0;
  options.rounding_samples = 1;
  options.steps = 1;
  options.rounded = folder.path() + "/c.fp8.safetensors";
  auto result = Calibrate(options, [](const CalibrationProgress&) {});
  ASSERT_TRUE(result.ok()) << result.status();
  result->calibration.weights_digest = "sha256:other";
  LoadOptions load;
  load.path = kMedium;
  load.precision = "fp8";
  load.threads = 1;
  load.calibration = folder.path() + "/c.json";
  ASSERT_TRUE(WriteCalibration(result->calibration, load.calibration).ok());
  EXPECT_THAT(std::string(LoadEngine(load).status().message()),
              AllOf(HasSubstr("c.fp8.safetensors: holds the weights of another model"), HasSubstr("sha256:other")));
  load.precision = "int8";  // for which the file has none
  EXPECT_TRUE(LoadEngine(load).ok());
}

double SquaredError(const Image& a, const Image& b) {
  double sum = 0;
  for (size_t i = 0; i < a.rgb.size(); ++i) sum += std::pow(static_cast<double>(a.rgb[i]) - b.rgb[i], 2);
  return sum;
}

Image Draw(Engine& engine, std::optional<bool> correct, int steps, const std::string& prompt) {
  ImageSpec spec;
  spec.prompt = prompt;
  spec.width = spec.height = 64;
  spec.steps = steps;
  spec.guidance_scale = 3;
  spec.max_sequence_length = 16;
  spec.noise_correction = correct;
  const auto job = engine.Prepare(spec).value();
  while (!job->done()) EXPECT_TRUE(engine.Step({job.get()}).front().ok());
  return engine.Finish(*job).value();
}

std::unique_ptr<Engine> Load(const std::string& precision, const std::string& calibration) {
  LoadOptions options;
  options.path = kDemo;
  options.precision = precision;
  options.calibration = calibration;
  options.threads = 1;
  return LoadEngine(options).value();
}

TEST(CalibratorTest, ACalibratedPictureIsNearerToTheExactOne) {
  const TempFolder folder;
  CalibrationOptions options = Options();
  options.model = kDemo;
  options.width = options.height = 64;
  options.steps = 8;
  options.sensitivity_samples = 4;
  options.rounding_samples = 16;
  options.rounded = folder.path() + "/calibration.fp8.safetensors";
  const auto result = Calibrate(options, [](const CalibrationProgress&) {});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_LT(result->corrected_noise, result->noise);
  const LayerCalibration* const down = result->calibration.Find("transformer_blocks.3.ff.net.2");
  ASSERT_NE(down, nullptr);
  EXPECT_GT(down->sensitivity.at("fp8"), 1e-5);
  EXPECT_LT(down->sensitivity.at("fp8"), 0.1);
  EXPECT_LT(down->input_sensitivity.at("fp8"), down->sensitivity.at("fp8"));
  const std::string file = folder.path() + "/calibration.json";
  ASSERT_TRUE(WriteCalibration(result->calibration, file).ok());

  const auto exact = Load("fp32", ""), plain = Load("fp8", ""), calibrated = Load("fp8", file);
  double plain_error = 0, calibrated_error = 0;
  for (const char* prompt : {"a penguin on a pink background", "a pizza on a yellow background", "cityscape at dusk",
                             "a sunflower on a blue background"}) {
    const Image target = Draw(*exact, std::nullopt, 8, prompt);
    plain_error += SquaredError(Draw(*plain, std::nullopt, 8, prompt), target);
    calibrated_error += SquaredError(Draw(*calibrated, std::nullopt, 8, prompt), target);
  }
  EXPECT_LT(calibrated_error, plain_error);
}

}  // namespace
}  // namespace fresco
