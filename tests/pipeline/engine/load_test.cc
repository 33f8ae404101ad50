// What is wrong with a checkpoint is said in one message that names the file, and the tensor or key.
#include "pipeline/engine/load.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>

#include "absl/strings/ascii.h"
#include "pipeline/base/strings.h"
#include "pipeline/checkpoint/sha256.h"
#include "pipeline/checkpoint/text_file.h"
#include "pipeline/engine/calibration_file.h"
#include "tests/pipeline/engine/checkpoint_copy.h"

namespace fresco {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::Contains;
using ::testing::HasSubstr;

constexpr char kMedium[] = "tests/reference/checkpoints/medium";
constexpr char kTransformer[] = "transformer/diffusion_pytorch_model.safetensors";

LoadOptions Options(const std::string& path) {
  LoadOptions options;
  options.name = "tested";
  options.path = path;
  options.precision = "fp32";
  options.threads = 1;
  return options;
}

struct Damage {
  std::string name;
  std::function<void(const CheckpointCopy&)> inflict;
  std::vector<std::string> named;  // in the message
  absl::StatusCode code = absl::StatusCode::kInvalidArgument;
};

class BadCheckpoint : public ::testing::TestWithParam<Damage> {};

TEST_P(BadCheckpoint, IsRefusedWithOneClearMessage) {
  const CheckpointCopy copy(kMedium);
  GetParam().inflict(copy);
  const auto engine = LoadEngine(Options(copy.path()));
  ASSERT_FALSE(engine.ok());
  EXPECT_EQ(engine.status().code(), GetParam().code) << engine.status();
  const std::string message(engine.status().message());
  for (const std::string& word : GetParam().named) EXPECT_THAT(message, HasSubstr(word));
  EXPECT_TRUE(std::none_of(message.begin(), message.end(), absl::ascii_iscntrl)) << message;
  EXPECT_LT(message.size(), 600u) << message.substr(0, 600);
}

std::string HeaderOfLength(uint64_t length) {
  return std::string(reinterpret_cast<const char*>(&length), sizeof(length));
}

INSTANTIATE_TEST_SUITE_P(
    Damages, BadCheckpoint,
    ::testing::Values(
        Damage{"NoIndex",
               [](const auto& c) { c.Remove("model_index.json"); },
               {"model_index.json"},
               absl::StatusCode::kNotFound},
        Damage{"IndexIsNotJson", [](const auto& c) { c.Write("model_index.json", "{"); }, {"model_index.json"}},
        Damage{"AnotherPipeline",
               [](const auto& c) { c.Replace("model_index.json", "StableDiffusion3Pipeline", "FluxPipeline"); },
               {"model_index.json", "FluxPipeline"}},
        Damage{"NoTransformer",
               [](const auto& c) { c.Remove("transformer"); },
               {"transformer"},
               absl::StatusCode::kNotFound},
        Damage{"NoTransformerConfig",
               [](const auto& c) { c.Remove("transformer/config.json"); },
               {"transformer/config.json"},
               absl::StatusCode::kNotFound},
        Damage{"NoTransformerWeights",
               [](const auto& c) { c.Remove(kTransformer); },
               {"transformer"},
               absl::StatusCode::kNotFound},
        Damage{"NoVocabulary",
               [](const auto& c) { c.Remove("tokenizer/vocab.json"); },
               {"tokenizer", "vocab.json"},
               absl::StatusCode::kNotFound},
        Damage{"NoScheduler",
               [](const auto& c) { c.Remove("scheduler/scheduler_config.json"); },
               {"scheduler_config.json"},
               absl::StatusCode::kNotFound},
        Damage{"AnotherSchedule",
               [](const auto& c) { c.Write("scheduler/scheduler_config.json", R"({"use_karras_sigmas": true})"); },
               {"scheduler_config.json", "use_karras_sigmas"},
               absl::StatusCode::kUnimplemented},
        Damage{"Truncated",
               [](const auto& c) { c.Write(kTransformer, c.Read(kTransformer).substr(0, 20'000)); },
               {kTransformer}},
        Damage{"Empty", [](const auto& c) { c.Write(kTransformer, ""); }, {kTransformer}},
        Damage{"HeaderLongerThanTheFile",
               [](const auto& c) { c.Write(kTransformer, HeaderOfLength(1 << 20) + "{}"); },
               {kTransformer}},
        Damage{"HeaderOfAllBits",
               [](const auto& c) { c.Write(kTransformer, HeaderOfLength(~uint64_t{0}) + "{}"); },
               {kTransformer}},
        Damage{"UnknownType",
               [](const auto& c) { c.Replace(kTransformer, "\"BF16\"", "\"BF17\""); },
               {kTransformer, "BF17"},
               absl::StatusCode::kUnimplemented},
        Damage{"MissingTensor",
               [](const auto& c) { c.Replace(kTransformer, "\"proj_out.bias\"", "\"proj_uot.bias\""); },
               {kTransformer, "proj_out.bias"}},
        Damage{"WrongShape",
               [](const auto& c) {
                 c.Replace("transformer/config.json", "\"joint_attention_dim\": 64", "\"joint_attention_dim\": 65");
               },
               {kTransformer, "context_embedder.weight", "[48, 64]", "[48, 65]"}},
        Damage{"ControlCharactersInAConfig",
               [](const auto& c) { c.Replace("transformer/config.json", "\"rms_norm\"", R"("rms\u001b[2J\u007f\n")"); },
               {"transformer/config.json", "qk_norm", R"("rms\x1b[2J\x7f\n")"}},
        Damage{"MegabytesInAConfig",
               [](const auto& c) {
                 c.Replace("text_encoder/config.json", "quick_gelu", "quicker" + std::string(4 << 20, 'u'));
               },
               {"text_encoder/config.json", "hidden_act", "quickeruuu", "…\" is neither"}},
        Damage{"MegabytesInAVocabulary",
               [](const auto& c) { c.Write("tokenizer/vocab.json", "{\"" + std::string(4 << 20, 'v') + "\": -1}"); },
               {"tokenizer/vocab.json", "the id of \"vvv", "-1"}},
        Damage{"EncodersDoNotFit",
               [](const auto& c) {
                 c.Remove("text_encoder_2");
                 std::filesystem::copy(c.path("text_encoder"), c.path("text_encoder_2"));
               },
               {"text_encoder_2", "pooled_projection_dim"}},
        Damage{"DefaultsOfNonsense",
               [](const auto& c) { c.Write("fresco.yaml", "steps: 20\nguidence: 3\n"); },
               {"fresco.yaml:2", "guidence"}},
        Damage{"DefaultSizeThatCannotBeDrawn",
               [](const auto& c) { c.Write("fresco.yaml", "width: 120\n"); },
               {"fresco.yaml", "width", "120", "16"}}),
    [](const auto& info) { return info.param.name; });

TEST(Load, FolderThatIsNotThere) {
  const auto engine = LoadEngine(Options("no/such/model"));
  EXPECT_EQ(engine.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(engine.status().message()), HasSubstr("no/such/model"));
}

TEST(Load, BaseSuppliesWhatIsMissing) {
  const CheckpointCopy copy(kMedium);
  for (const char* part :
       {"text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "vae", "scheduler", "model_index.json"})
    copy.Remove(part);
  EXPECT_FALSE(LoadEngine(Options(copy.path())).ok());
  LoadOptions options = Options(copy.path());
  options.base = kMedium;
  const auto engine = LoadEngine(options);
  ASSERT_TRUE(engine.ok()) << engine.status();
  EXPECT_EQ((*engine)->info().weights_digest, LoadEngine(Options(kMedium)).value()->info().weights_digest);
}

TEST(Load, ATensorOfUnknownTypeThatNobodyUsesIsNoObstacle) {
  const CheckpointCopy copy(kMedium);
  std::string text = copy.Read(kTransformer);
  const std::string entry = R"("unused":{"dtype":"F4","shape":[0],"data_offsets":[0,0]},)";
  uint64_t header = 0;
  std::memcpy(&header, text.data(), sizeof(header));
  header += entry.size();
  std::memcpy(text.data(), &header, sizeof(header));
  copy.Write(kTransformer, text.insert(sizeof(header) + 1, entry));
  const auto engine = LoadEngine(Options(copy.path()));
  ASSERT_TRUE(engine.ok()) << engine.status();
  EXPECT_NE((*engine)->info().weights_digest, LoadEngine(Options(kMedium)).value()->info().weights_digest);
}

TEST(Load, FolderHasItsOwnDefaults) {
  const CheckpointCopy copy(kMedium);
  copy.Write("fresco.yaml", "steps: 20\nguidance_scale: 4.5\nwidth: 192\nheight: 64\nmax_sequence_length: 16\n");
  const ModelInfo info = LoadEngine(Options(copy.path())).value()->info();
  EXPECT_EQ(info.default_steps, 20);
  EXPECT_EQ(info.default_guidance_scale, 4.5f);
  EXPECT_EQ(info.default_width, 192);
  EXPECT_EQ(info.default_height, 64);
  EXPECT_EQ(info.default_max_sequence_length, 16);
}

TEST(Load, AnUnknownPrecisionIsRefused) {
  LoadOptions options = Options(kMedium);
  options.precision = "fp12";
  const absl::Status status = LoadEngine(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("fp12"), HasSubstr("fp8-weight-only")));
}

TEST(Load, QuantisedPrecisionsSayWhatTheyAre) {
  const int64_t plain = LoadEngine(Options(kMedium)).value()->info().components.front().weight_bytes;
  for (const char* precision : {"fp8", "fp8-weight-only", "int8"}) {
    LoadOptions options = Options(kMedium);
    options.precision = precision;
    const auto engine = LoadEngine(options);
    ASSERT_TRUE(engine.ok()) << engine.status();
    const ModelInfo& info = (*engine)->info();
    EXPECT_EQ(info.precision, precision);
    EXPECT_EQ(info.components.front().precision, precision);
    EXPECT_LT(info.components.front().weight_bytes, plain / 2);
    EXPECT_THAT(info.notes, Contains(HasSubstr(StrCat(precision, ":"))));
    EXPECT_THAT(info.notes, Contains(AllOf(HasSubstr("transformer: "), HasSubstr("quantised at load from plain"))));
  }
}

// Ranges of one layer of the medium checkpoint, and nothing else.
std::string CalibrationOf(const CheckpointCopy& copy, const std::string& layer) {
  Calibration calibration;
  calibration.weights_digest = "sha256:00";
  calibration.prompts = calibration.steps = 1;
  calibration.width = calibration.height = 64;
  calibration.buckets.upper = {1};
  LayerCalibration own;
  own.names = {layer};
  own.outputs = 48;
  own.ranges = {{7, -1, 1, {0.5F, 0.5F, 0.5F}}};
  own.scheme = {{"int8", LinearScheme::kHigh}};
  calibration.layers = {own};
  std::string path = copy.path("ranges.json");
  EXPECT_TRUE(WriteCalibration(calibration, path).ok());
  return path;
}

TEST(Load, StaticScalesNeedACalibration) {
  LoadOptions options = Options(kMedium);
  options.precision = "fp8";
  options.static_scales = true;
  const absl::Status status = LoadEngine(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("static_scales"), HasSubstr("medium/calibration.json")));
}

TEST(Load, SettingsWithoutEffectAreTold) {
  const CheckpointCopy copy(kMedium);
  LoadOptions options = Options(kMedium);
  options.precision = "fp8";
  options.calibration = CalibrationOf(copy, "transformer_blocks.0.ff.net.2");
  options.static_scales = true;
  options.noise_correction = true;
  EXPECT_THAT(LoadEngine(options).value()->info().notes,
              AllOf(Contains(AllOf(HasSubstr("static_scales: the calibration has none for"),
                                   HasSubstr("transformer_blocks.0.attn.to_q"))),
                    Contains(HasSubstr("noise_correction: there is no calibration with one for fp8"))));
  options.precision = "fp8-weight-only";
  EXPECT_THAT(LoadEngine(options).value()->info().notes,
              Contains(HasSubstr("static_scales: fp8-weight-only quantises no activations")));
}

TEST(Load, ACalibratedModelSaysWhichFile) {
  const CheckpointCopy copy(kMedium);
  LoadOptions options = Options(kMedium);
  options.precision = "int8";
  EXPECT_EQ(LoadEngine(options).value()->info().calibration_digest, "");
  options.calibration = CalibrationOf(copy, "transformer_blocks.0.ff.net.2");
  Sha256 hash;
  hash.Add(ReadTextFile(options.calibration, 1 << 20).value());
  EXPECT_EQ(LoadEngine(options).value()->info().calibration_digest, StrCat("sha256:", hash.FinishHex()));
  options.precision = "fp32";
  EXPECT_EQ(LoadEngine(options).value()->info().calibration_digest, "") << "nothing is quantised: not used";
}

TEST(Load, ACalibrationOfAnotherModelIsNamed) {
  const CheckpointCopy copy(kMedium);
  LoadOptions options = Options(kMedium);
  options.precision = "int8";
  options.calibration = CalibrationOf(copy, "transformer_blocks.37.ff.net.2");
  EXPECT_THAT(std::string(LoadEngine(options).status().message()),
              AllOf(HasSubstr("ranges.json: layers: 'transformer_blocks.37.ff.net.2' matches no linear")));
}

TEST(Load, LayersAreExceptedByPattern) {
  LoadOptions options = Options(kMedium);
  options.precision = "fp8";
  const int64_t whole = LoadEngine(options).value()->info().components.front().weight_bytes;
  options.layers = {{"transformer_blocks.0.ff.net.2", LinearScheme::kHigh}};
  EXPECT_GT(LoadEngine(options).value()->info().components.front().weight_bytes, whole);
  options.layers = {{"transformer_blocks.0.*", LinearScheme::kHigh}, {"*", LinearScheme::kFp8}};
  EXPECT_LT(LoadEngine(options).value()->info().components.front().weight_bytes, whole);
}

TEST(Load, TheFoldersOwnExceptionsComeBeforeTheConfigurations) {
  const CheckpointCopy copy(kMedium);
  LoadOptions options = Options(copy.path());
  options.precision = "fp8";
  const int64_t whole = LoadEngine(options).value()->info().components.front().weight_bytes;
  copy.Write("fresco.yaml", "layers:\n  transformer_blocks.0.ff.net.2: high\n");
  EXPECT_GT(LoadEngine(options).value()->info().components.front().weight_bytes, whole);
  options.layers = {{"*.ff.net.2", LinearScheme::kFp8}};
  EXPECT_EQ(LoadEngine(options).value()->info().components.front().weight_bytes, whole);
}

TEST(Load, AnExceptionThatMatchesNothingIsAMistake) {
  LoadOptions options = Options(kMedium);
  options.precision = "fp8";
  options.layers = {{"transformer_blocks.*.mlp.*", LinearScheme::kHigh}};
  const absl::Status status = LoadEngine(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("'transformer_blocks.*.mlp.*' matches no linear"));
}

TEST(Load, AutoSaysWhatItChoseAndWhy) {
  LoadOptions options = Options(kMedium);
  options.precision = "auto";
  const ModelInfo info = LoadEngine(options).value()->info();
  EXPECT_THAT(info.precision, AnyOf("fp32", "bf16"));
  EXPECT_THAT(info.notes, Contains(HasSubstr("auto: " + info.precision)));
}

TEST(Load, Fp16DrawsToo) {
  LoadOptions options = Options(kMedium);
  options.precision = "fp16";
  const auto engine = LoadEngine(options);
  ASSERT_TRUE(engine.ok()) << engine.status();
  EXPECT_EQ((*engine)->info().precision, "fp16");
}

TEST(Load, DevicesThatAreNotThere) {
  LoadOptions options = Options(kMedium);
  options.device = "tpu";
  EXPECT_EQ(LoadEngine(options).status().code(), absl::StatusCode::kInvalidArgument);
  options.device = "cuda:99";
  EXPECT_EQ(LoadEngine(options).status().code(), absl::StatusCode::kUnavailable);
}

TEST(AvailableDevices, EndWithTheCpu) {
  EXPECT_EQ(AvailableDevices().back(), "cpu");
}

}  // namespace
}  // namespace fresco
