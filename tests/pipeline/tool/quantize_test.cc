// `fresco-model quantize`: what it writes, and that it is read back and drawn as the model itself is.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "pipeline/checkpoint/single_file.h"
#include "pipeline/checkpoint/stored_weight.h"
#include "pipeline/checkpoint/weights.h"
#include "pipeline/image/codec.h"
#include "tests/pipeline/checkpoint/single_file_maker.h"
#include "tests/pipeline/tool/tool_runner.h"

namespace fresco {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

// By docs/PRECISION.md, not by the program's table: all linears of the transformer's blocks, its last modulation, all
// of T5's but wo.
bool IsQuantised(const std::string& part, const std::string& layer) {
  static const std::regex transformer(
      R"(norm_out\.linear|transformer_blocks\.\d+\.(attn2?\.(to_[qkv]|add_[qkv]_proj|to_out\.0|to_add_out)|)"
      R"((ff|ff_context)\.net\.(0\.proj|2)|norm1\.linear|norm1_context\.linear))");
  static const std::regex t5(R"(encoder\.block\.\d+\.layer\.(0\.SelfAttention\.[qkvo]|1\.DenseReluDense\.wi_[01]))");
  return (part == "transformer" && std::regex_match(layer, transformer)) ||
         (part == "text_encoder_3" && std::regex_match(layer, t5));
}

std::string LayerOf(const std::string& tensor) {
  return tensor.ends_with(".weight") ? tensor.substr(0, tensor.size() - 7) : "";
}

WeightStore OpenPart(const std::string& model, const std::string& part) {
  return WeightStore::Open(model + "/" + part, part.starts_with("text") ? kTransformersStem : kDiffusersStem).value();
}

std::string DataOf(const WeightStore& store, const std::string& name) {
  const TensorView tensor = store.Find(name).value();
  return std::string(reinterpret_cast<const char*>(tensor.data), tensor.bytes);
}

// Of a BF16 tensor.
std::vector<float> Floats(const TensorView& tensor) {
  EXPECT_EQ(tensor.dtype, DType::kBF16);
  std::vector<float> values(static_cast<size_t>(tensor.numel()));
  for (size_t i = 0; i < values.size(); ++i) {
    const uint32_t bits = uint32_t{static_cast<uint8_t>(tensor.data[2 * i])} << 16 |
                          uint32_t{static_cast<uint8_t>(tensor.data[2 * i + 1])} << 24;
    std::memcpy(&values[i], &bits, sizeof(bits));
  }
  return values;
}

// E4M3: 1 sign, 4 exponent with bias 7, 3 mantissa.
float FromE4M3(uint8_t code) {
  const int exponent = code >> 3 & 15, mantissa = code & 7;
  const float magnitude = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                                        : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  return (code & 0x80) != 0 ? -magnitude : magnitude;
}

// How far the neighbours of a value's code are at most.
float StepOf(StoredWeight::Codes codes, float value) {
  if (codes == StoredWeight::Codes::kInt8) return 1;
  int exponent = 0;
  std::frexp(value, &exponent);
  return std::ldexp(1.0F, std::max(exponent - 4, -9));
}

float AbsMax(const std::vector<float>& values, size_t begin, size_t end) {
  float largest = 0;
  for (size_t i = begin; i < end; ++i) largest = std::max(largest, std::abs(values[i]));
  return largest;
}

// Every code is the nearest to its weight, by the scales that are stored.
void ExpectNearestCodes(const StoredWeight& stored, const std::vector<float>& weights, const std::string& layer) {
  const size_t columns = stored.weight.shape[1];
  for (size_t i = 0; i < weights.size(); ++i) {
    const float scale = stored.scale.size() == 1 ? stored.scale[0] : stored.scale[i / columns];
    const auto code = static_cast<uint8_t>(stored.weight.data[i]);
    const float value = stored.codes == StoredWeight::Codes::kInt8 ? static_cast<int8_t>(code) : FromE4M3(code);
    const float step = StepOf(stored.codes, weights[i] / scale);
    ASSERT_LE(std::abs(value - weights[i] / scale), 0.5001F * step) << layer << ", element " << i;
  }
}

class QuantizeTest : public ToolTest {
 protected:
  Result Quantize(const std::string& arguments, const std::string& model = kMedium) const {
    return Run("quantize " + model + " --threads 1 " + arguments);
  }

  std::vector<uint8_t> Draw(const std::string& model, const std::string& precision) const {
    const Result result =
        Run("draw " + model + " --width 64 --height 48 --steps 2 --guidance 3 --max-sequence-length 16 --threads 1 " +
            "--prompt 'a fox' --seed 5 --precision " + precision + " -o " + File("picture.png"));
    EXPECT_EQ(result.code, 0) << result.errors;
    return DecodeImage(ReadFile(File("picture.png"))).value().image.rgb;
  }

  // What loading says of the transformer's linears.
  std::string Notes(const std::string& model, const std::string& precision) const {
    std::ofstream(File("prompts.txt")) << "a fox\n";
    const Result result =
        Run("compare " + model + " --json --width 32 --height 32 --steps 1 --max-sequence-length 16 " +
            "--threads 1 --precisions " + precision + " --prompts " + File("prompts.txt"));
    EXPECT_EQ(result.code, 0) << result.errors;
    return result.json()[0]["notes"].dump();
  }

  // A copy of the model, to be changed.
  std::string Copy() const {
    fs::copy(kMedium, File("model"), fs::copy_options::recursive);
    return File("model");
  }
};

class QuantizePrecisionTest : public QuantizeTest, public ::testing::WithParamInterface<const char*> {};

TEST_P(QuantizePrecisionTest, AFolderHoldsTheNearestCodes) {
  const std::string precision = GetParam();
  const bool int8 = precision == "int8";
  const Result result = Quantize("--json --precision " + precision + " -o " + File("q"));
  ASSERT_EQ(result.code, 0) << result.errors;
  int64_t quantised = 0, bytes = 0;
  for (const std::string part : {"transformer", "text_encoder", "text_encoder_2", "text_encoder_3", "vae"}) {
    const WeightStore source = OpenPart(kMedium, part), store = OpenPart(File("q"), part);
    std::set<std::string> expected;
    for (const std::string& name : source.Names()) {
      const std::string layer = LayerOf(name);
      expected.insert(name);
      const std::vector<int64_t> shape = source.FindEntry(name)->shape;
      if (!IsQuantised(part, layer)) {
        EXPECT_EQ(store.Find(name)->dtype, source.Find(name)->dtype) << name;
        EXPECT_EQ(store.FindEntry(name)->shape, shape) << name;
        EXPECT_EQ(DataOf(store, name), DataOf(source, name)) << name;
        continue;
      }
      expected.insert({layer + ".weight_scale", layer + ".comfy_quant"});
      const auto stored = FindStoredWeight(store, {}, layer, shape[0], shape[1]);
      ASSERT_TRUE(stored.ok()) << stored.status();
      EXPECT_EQ(stored->source, int8 ? "comfy_quant int8_tensorwise" : "comfy_quant float8_e4m3fn");
      EXPECT_EQ(store.FindEntry(layer + ".weight_scale")->shape, (std::vector<int64_t>{shape[0], 1}));
      const std::vector<float> weights = Floats(*source.Find(name));
      for (int64_t row = 0; row < shape[0]; ++row) {
        EXPECT_EQ(stored->scale[row], AbsMax(weights, row * shape[1], (row + 1) * shape[1]) / (int8 ? 127 : 448));
      }
      ExpectNearestCodes(*stored, weights, layer);
      ++quantised;
    }
    EXPECT_EQ(store.Names(), std::vector<std::string>(expected.begin(), expected.end()));
    bytes += store.total_bytes();
  }
  const Json report = result.json();
  EXPECT_EQ(report["path"], File("q"));
  EXPECT_EQ(report["precision"], precision);
  EXPECT_EQ(report["layers_quantized"], quantised);
  EXPECT_EQ(report["bytes"], bytes);
  EXPECT_GE(report["seconds"], 0.0);
}

TEST_P(QuantizePrecisionTest, DrawsWhatTheModelDraws) {
  const std::string precision = GetParam();
  ASSERT_EQ(Quantize("--precision " + precision + " -o " + File("q")).code, 0);
  EXPECT_EQ(Draw(File("q"), precision), Draw(kMedium, precision));
  EXPECT_THAT(Notes(kMedium, precision), HasSubstr("quantised at load"));
  EXPECT_THAT(Notes(File("q"), precision), AllOf(HasSubstr("as stored"), Not(HasSubstr("quantised at load"))));
}

INSTANTIATE_TEST_SUITE_P(All, QuantizePrecisionTest, ::testing::Values("fp8", "fp8-weight-only", "int8"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// Codes that the model computes with as one lie one after the other, and every tensor where it can be used.
TEST_F(QuantizeTest, StacksAreViews) {
  ASSERT_EQ(Quantize("--precision fp8 -o " + File("q")).code, 0);
  const WeightStore transformer = OpenPart(File("q"), "transformer"), t5 = OpenPart(File("q"), "text_encoder_3");
  for (const auto& [store, layers] : {
           std::pair<const WeightStore*, std::vector<std::string>>{
               &transformer,
               {"transformer_blocks.1.attn.to_q", "transformer_blocks.1.attn.to_k", "transformer_blocks.1.attn.to_v"}},
           {&transformer,
            {"transformer_blocks.2.attn.add_q_proj", "transformer_blocks.2.attn.add_k_proj",
             "transformer_blocks.2.attn.add_v_proj"}},
           {&transformer,
            {"transformer_blocks.0.norm1.linear", "transformer_blocks.0.norm1_context.linear",
             "transformer_blocks.1.norm1.linear", "transformer_blocks.1.norm1_context.linear",
             "transformer_blocks.2.norm1.linear", "transformer_blocks.2.norm1_context.linear"}},
           {&t5, {"encoder.block.0.layer.1.DenseReluDense.wi_0", "encoder.block.0.layer.1.DenseReluDense.wi_1"}},
       }) {
    for (size_t i = 1; i < layers.size(); ++i) {
      EXPECT_EQ(store->FindEntry(layers[i] + ".weight")->begin, store->FindEntry(layers[i - 1] + ".weight")->end)
          << layers[i];
    }
  }
  for (const std::string& name : transformer.Names()) {
    const TensorView tensor = transformer.Find(name).value();
    EXPECT_TRUE(tensor.AlignedToElement()) << name;
    const size_t beyond = reinterpret_cast<uintptr_t>(tensor.data) % 64;
    EXPECT_TRUE(beyond == 0 || tensor.bytes % 64 != 0) << name;
  }
}

TEST_F(QuantizeTest, AFolderIsComplete) {
  std::ofstream(fs::path(Copy()) / "fresco.yaml") << "steps: 3\nguidance_scale: 2.5\n";
  // The base supplies what the model lacks: here all but the transformer.
  for (const char* part : {"text_encoder", "text_encoder_2", "text_encoder_3", "vae", "scheduler", "tokenizer",
                           "tokenizer_2", "tokenizer_3", "model_index.json"}) {
    fs::remove_all(fs::path(File("model")) / part);
  }
  const Result result = Quantize("--base " + std::string(kMedium) + " -o " + File("q"), File("model"));
  ASSERT_EQ(result.code, 0) << result.errors;
  for (const auto& entry : fs::recursive_directory_iterator(kMedium)) {
    const fs::path written = File("q") / fs::relative(entry.path(), kMedium);
    ASSERT_TRUE(fs::exists(written)) << written;
    if (!entry.is_regular_file() || written.extension() == ".safetensors") continue;
    EXPECT_EQ(ReadFile(written), ReadFile(entry.path())) << written;
  }
  EXPECT_EQ(ReadFile(File("q/fresco.yaml")), "steps: 3\nguidance_scale: 2.5\n");
  EXPECT_EQ(Draw(File("q"), "fp8"), Draw(kMedium, "fp8"));
}

TEST_F(QuantizeTest, DefaultsInBracesTakeLayersToo) {
  std::ofstream(fs::path(Copy()) / "fresco.yaml") << "{steps: 3, guidance_scale: 2.5}\n";
  ASSERT_EQ(Quantize("-o " + File("q") + " --layer 'transformer_blocks.0.*=high'", File("model")).code, 0);
  EXPECT_EQ(ReadFile(File("q/fresco.yaml")),
            "steps: 3\nguidance_scale: 2.5\nlayers:\n  'transformer_blocks.0.*': high\n");
}

TEST_F(QuantizeTest, ShardsAndVariantsBecomeOneFile) {
  const std::string large = "tests/reference/checkpoints/large";
  ASSERT_EQ(Quantize("--base " + std::string(kMedium) + " -o " + File("q"), large).code, 0);
  std::set<std::string> files;
  for (const auto& entry : fs::directory_iterator(File("q/transformer"))) files.insert(entry.path().filename());
  EXPECT_EQ(files, (std::set<std::string>{"config.json", "diffusion_pytorch_model.safetensors"}));
}

TEST_F(QuantizeTest, ALayerKeptHighStaysHigh) {
  const Result result =
      Quantize("-o " + File("q") + " --layer 'transformer_blocks.*=high' --layer 'transformer_blocks.1.ff.net.2=fp8'");
  ASSERT_EQ(result.code, 0) << result.errors;
  const WeightStore store = OpenPart(File("q"), "transformer");
  EXPECT_EQ(store.Find("transformer_blocks.0.ff.net.2.weight")->dtype, DType::kBF16);
  EXPECT_EQ(store.Find("transformer_blocks.1.ff.net.2.weight")->dtype, DType::kF8E4M3);
  EXPECT_EQ(ReadFile(File("q/fresco.yaml")),
            "layers:\n  'transformer_blocks.*': high\n  'transformer_blocks.1.ff.net.2': fp8\n");
  EXPECT_THAT(Notes(File("q"), "fp8"), AllOf(HasSubstr("1 linears fp8 (as stored"), Not(HasSubstr("at load"))));
  // Quantised once more: the folder's own exceptions come first.
  ASSERT_EQ(Quantize("-o " + File("again") + " --layer 'transformer_blocks.2.attn.*=fp8'", File("q")).code, 0);
  EXPECT_THAT(ReadFile(File("again/fresco.yaml")),
              "layers:\n  'transformer_blocks.*': high\n  'transformer_blocks.1.ff.net.2': fp8\n"
              "  'transformer_blocks.2.attn.*': fp8\n");
  EXPECT_EQ(OpenPart(File("again"), "transformer").Find("transformer_blocks.2.attn.to_q.weight")->dtype,
            DType::kF8E4M3);
}

TEST_F(QuantizeTest, WhatIsQuantisedAlreadyStaysAsItIs) {
  ASSERT_EQ(Quantize("-o " + File("q")).code, 0);
  ASSERT_EQ(Quantize("-o " + File("again"), File("q")).code, 0);
  for (const char* file : {"transformer/diffusion_pytorch_model.safetensors", "text_encoder_3/model.safetensors"}) {
    EXPECT_EQ(ReadFile(fs::path(File("again")) / file), ReadFile(fs::path(File("q")) / file)) << file;
  }
}

TEST_F(QuantizeTest, ReplacesOnlyAModelAndOnlyWhenItMay) {
  ASSERT_EQ(Quantize("-o " + File("q")).code, 0);
  const Result there = Quantize("-o " + File("q"));
  EXPECT_EQ(there.code, 1);
  EXPECT_THAT(there.errors, AllOf(HasSubstr(File("q")), HasSubstr("is there already")));
  EXPECT_EQ(Quantize("--force --precision int8 -o " + File("q") + "/").code, 0);
  EXPECT_EQ(OpenPart(File("q"), "transformer").Find("transformer_blocks.0.attn.to_q.weight")->dtype, DType::kI8);
  fs::create_directory(File("mine"));
  std::ofstream(File("mine/letter.txt")) << "dear";
  EXPECT_THAT(Quantize("--force -o " + File("mine")).errors, HasSubstr("holds no model"));
  EXPECT_EQ(ReadFile(File("mine/letter.txt")), "dear");
  EXPECT_THAT(Quantize("--force -o " + File("q"), File("q")).errors, HasSubstr("is what is read from"));
  EXPECT_TRUE(fs::exists(File("q/model_index.json")));
}

// --force is for what was written before, not for what is being read.
TEST_F(QuantizeTest, NeverReplacesWhatItReads) {
  const std::string model = Copy(), transformer = model + "/transformer/diffusion_pytorch_model.safetensors";
  fs::copy_file(model + "/model_index.json", File("model_index.json"));  // a model around the model
  const std::string before = ReadFile(transformer);
  EXPECT_THAT(Quantize("--force -o " + File("."), model).errors,
              AllOf(HasSubstr("holds what is read"), HasSubstr(model)));
  EXPECT_THAT(Quantize("--force -o " + transformer, model).errors,
              AllOf(HasSubstr(transformer), HasSubstr("is part of what is read")));
  ASSERT_EQ(Quantize("-o " + File("q.safetensors")).code, 0);
  EXPECT_THAT(Quantize("--force -o " + transformer + " --base " + model, File("q.safetensors")).errors,
              HasSubstr("is part of what is read"));
  fs::create_directory_symlink(model, File("link"));
  EXPECT_THAT(Quantize("--force -o " + transformer, File("link")).errors, HasSubstr("is part of what is read"));
  EXPECT_EQ(ReadFile(transformer), before);
  EXPECT_THAT(Quantize("-o ''", model).errors, HasSubstr("no name"));
  EXPECT_EQ(Quantize("-o " + model + "/within.safetensors", model).code, 0);  // a new file loses nothing
}

// A process that was killed leaves its folder, and one of the same number comes: in containers all have the same.
TEST_F(QuantizeTest, TakesNothingOverFromAFolderThatWasLeft) {
  const Result result = Shell("mkdir " + File("q") + ".part-$$ && echo x > " + File("q") + ".part-$$/left && exec " +
                              FRESCO_MODEL_BINARY + " quantize " + kMedium + " --threads 1 -o " + File("q"));
  EXPECT_EQ(result.code, 0) << result.errors;
  EXPECT_TRUE(fs::exists(File("q/transformer")));
  EXPECT_FALSE(fs::exists(File("q/left")));
}

TEST_F(QuantizeTest, RefusesWhatItCanNotWrite) {
  EXPECT_EQ(Quantize("").code, 2);
  EXPECT_EQ(Quantize("--precision bf16 -o " + File("q")).code, 2);
  const Result scheme = Quantize("-o " + File("q") + " --layer 'transformer_blocks.*=fp4'");
  EXPECT_EQ(scheme.code, 2);
  EXPECT_THAT(scheme.errors, HasSubstr("PATTERN=SCHEME"));
  const Result pattern = Quantize("-o " + File("q") + " --layer 'transformer_block.*=high'");
  EXPECT_EQ(pattern.code, 1);
  EXPECT_THAT(pattern.errors, AllOf(HasSubstr("'transformer_block.*'"), HasSubstr("no linear")));
  EXPECT_THAT(Quantize("-o /proc/none/q").errors, HasSubstr("/proc/none"));
  EXPECT_FALSE(fs::exists(File("q")));
}

// Writes over the first bytes of a tensor of the transformer.
void Damage(const std::string& model, const std::string& tensor, std::string_view bytes) {
  const auto entry = *OpenPart(model, "transformer").FindEntry(tensor);
  std::fstream file(model + "/transformer/diffusion_pytorch_model.safetensors",
                    std::ios::binary | std::ios::in | std::ios::out);
  uint64_t header = 0;
  file.read(reinterpret_cast<char*>(&header), sizeof(header));
  file.seekp(static_cast<std::streamoff>(sizeof(header) + header + entry.begin));
  file.write(bytes.data(), std::ssize(bytes));
}

TEST_F(QuantizeTest, AWeightThatIsNotFiniteIsNamed) {
  ASSERT_EQ(Quantize("-o " + File("fp8")).code, 0);
  struct Case {
    std::string model, tensor, nan;
  };
  for (const auto& [model, tensor, nan] : {Case{kMedium, "transformer_blocks.1.ff.net.0.proj.weight", "\xc0\x7f"},
                                           Case{kMedium, "transformer_blocks.1.ff.net.0.proj.bias", "\xc0\x7f"},
                                           Case{kMedium, "proj_out.weight", "\x80\xff"},
                                           Case{File("fp8"), "transformer_blocks.1.ff.net.0.proj.weight", "\xff"}}) {
    fs::remove_all(File("model"));
    fs::copy(model, File("model"), fs::copy_options::recursive);
    Damage(File("model"), tensor, nan);
    for (const char* output : {"q", "q.safetensors"}) {
      const Result result = Quantize("-o " + File(output), File("model"));
      EXPECT_EQ(result.code, 1) << tensor;
      EXPECT_THAT(result.errors, AllOf(HasSubstr(File("model/transformer")), HasSubstr("\"" + tensor + "\""),
                                       HasSubstr("NaN or infinite")));
      EXPECT_FALSE(fs::exists(File(output)));
    }
  }
  for (const auto& left : fs::directory_iterator(folder_)) {
    EXPECT_THAT(left.path().string(), Not(HasSubstr(".part-")));
  }
}

// ---- calibration ----------------------------------------------------------------------------------------------------

constexpr char kSmall[] = " --threads 1 --width 64 --height 48 --steps 2 --guidance 3";

class QuantizeCalibratedTest : public QuantizeTest, public ::testing::WithParamInterface<const char*> {
 protected:
  // A calibration of the model, beside it.
  std::string Calibrate() const {
    WriteFile("prompts.txt", "a red apple\na fox\n");
    const Result result =
        Run("calibrate " + std::string(kMedium) + kSmall + " --precision " + GetParam() + " --prompts " +
            File("prompts.txt") + " --output " + File("c.json") + " --rounding-samples 2 --sensitivity-samples 1");
    EXPECT_EQ(result.code, 0) << result.errors;
    return File("c.json");
  }

  std::vector<uint8_t> DrawWith(const std::string& model, const std::string& options) const {
    const Result result = Run("draw " + model + kSmall + " --max-sequence-length 16 --prompt 'a fox' --precision " +
                              GetParam() + options + " -o " + File("picture.png"));
    EXPECT_EQ(result.code, 0) << result.errors;
    return DecodeImage(ReadFile(File("picture.png"))).value().image.rgb;
  }
};

TEST_P(QuantizeCalibratedTest, DrawsWhatTheCalibratedModelDraws) {
  const std::string calibration = " --calibration " + Calibrate(), precision = GetParam();
  ASSERT_EQ(Quantize("--precision " + precision + calibration + " -o " + File("q")).code, 0);
  fs::remove(File("c." + precision + ".safetensors"));  // the rounded weights are in the folder
  const std::vector<uint8_t> calibrated = DrawWith(File("q"), "");
  EXPECT_NE(calibrated, DrawWith(kMedium, ""));
  ASSERT_EQ(Quantize("--precision " + precision + " -o " + File("plain")).code, 0);
  EXPECT_NE(calibrated, DrawWith(File("plain"), ""));
  Calibrate();
  EXPECT_EQ(calibrated, DrawWith(kMedium, calibration));
  EXPECT_THAT(Notes(File("q"), precision), AllOf(HasSubstr("calibrated with 2 prompts"), Not(HasSubstr("at load")),
                                                 Not(HasSubstr("other weights"))));
}

INSTANTIATE_TEST_SUITE_P(All, QuantizeCalibratedTest, ::testing::Values("fp8", "int8"),
                         [](const auto& info) { return std::string(info.param); });

using QuantizeFp8CalibratedTest = QuantizeCalibratedTest;
using QuantizeInt8CalibratedTest = QuantizeCalibratedTest;
INSTANTIATE_TEST_SUITE_P(All, QuantizeFp8CalibratedTest, ::testing::Values("fp8"));
INSTANTIATE_TEST_SUITE_P(All, QuantizeInt8CalibratedTest, ::testing::Values("int8"));

TEST_P(QuantizeFp8CalibratedTest, KeepsLayersHighForAQuality) {
  const std::string calibration = " --calibration " + Calibrate();
  const auto quantize = [&](const std::string& psnr) {
    // After two steps the calibrated model is as near as bf16, and all that keeping layers can do is chance.
    return Quantize("--force --json -o " + File("q") + calibration + " --width 64 --height 48 --steps 6 --guidance 3" +
                    " --prompts " + File("prompts.txt") + " --keep-psnr " + psnr);
  };
  const Result low = quantize("1");
  ASSERT_EQ(low.code, 0) << low.errors;
  EXPECT_TRUE(low.json()["kept_layers"].empty());
  const double without = low.json()["psnr_without"];
  const Result more = quantize(std::to_string(without + 0.1));
  ASSERT_EQ(more.code, 0) << more.errors;
  const Json report = more.json();
  EXPECT_DOUBLE_EQ(report["psnr_without"], without);
  EXPECT_GE(report["psnr"].get<double>(), without + 0.1);
  ASSERT_FALSE(report["kept_layers"].empty());
  const std::string kept = report["kept_layers"][0];
  EXPECT_EQ(OpenPart(File("q"), "transformer").Find(kept + ".weight")->dtype, DType::kBF16);
  EXPECT_EQ(quantize("99").code, 1);
}

TEST_P(QuantizeFp8CalibratedTest, RefusesAQualityBeforeHoursOfWork) {
  const std::string calibration = " --calibration " + Calibrate(), prompts = " --prompts " + File("prompts.txt");
  const std::string keep = calibration + prompts + " --keep-psnr ";
  fs::create_directory(File("there"));
  const Result there = Quantize("-o " + File("there") + keep + "1");
  EXPECT_EQ(there.code, 1);
  EXPECT_THAT(there.errors, AllOf(HasSubstr("is there already"), Not(HasSubstr("layers high"))));  // no trial
  EXPECT_THAT(Quantize("-o " + File("x.safetensors") + keep + "1").errors, HasSubstr("--keep-psnr is for folders"));
  const std::string output = "-o " + File("x");
  EXPECT_EQ(Quantize(output + calibration + " --keep-psnr 30").code, 2);  // of which prompts?
  for (const char* psnr : {"nan", "inf", "-1"}) EXPECT_EQ(Quantize(output + keep + psnr).code, 2) << psnr;
  for (const std::string& idle : {prompts, std::string(" --steps 2"), std::string(" --static-scales")})
    EXPECT_EQ(Quantize(output + calibration + idle).code, 2) << idle;  // nothing is drawn
  const Result none = Quantize(output + prompts + " --keep-psnr 30");
  EXPECT_EQ(none.code, 1);
  EXPECT_THAT(none.errors, AllOf(HasSubstr("chosen by a calibration"), HasSubstr("calibration.json: no such file")));
  EXPECT_FALSE(fs::exists(File("x")));
}

TEST_P(QuantizeInt8CalibratedTest, ScaledInputsAreForFoldersOnly) {
  const std::string calibration = " --calibration " + Calibrate();
  EXPECT_EQ(Quantize("--precision int8" + calibration + " -o " + File("q.safetensors")).code, 0);  // not rounded
  ASSERT_EQ(Quantize("--precision int8" + calibration + " -o " + File("q")).code, 0);
  const Result file = Quantize("--precision int8 -o " + File("again.safetensors"), File("q"));
  EXPECT_EQ(file.code, 1);
  EXPECT_THAT(file.errors, AllOf(HasSubstr("input_multiplier"), HasSubstr("no place")));
}

// ---- single files ---------------------------------------------------------------------------------------------------

TEST_F(QuantizeTest, ASingleFileHasComfyUisNames) {
  const Result result = Quantize("--with-encoders -o " + File("q.safetensors"));
  ASSERT_EQ(result.code, 0) << result.errors;
  std::set<std::string> expected;
  for (const auto& [part, prefix] :
       {std::pair<std::string, std::string>{"transformer", "model.diffusion_model."},
        {"text_encoder", "text_encoder."},  // it has a projection, which nobody reads under the other name
        {"text_encoder_2", "text_encoders.clip_g.transformer."},
        {"text_encoder_3", "text_encoders.t5xxl.transformer."},
        {"vae", "first_stage_model."}}) {
    for (const OriginalName& name : OriginalNames("medium", part)) {
      expected.insert(prefix + name.original);
      if (!IsQuantised(part, LayerOf(name.name))) continue;
      expected.insert(prefix + name.original + "_scale");
      expected.insert(prefix + LayerOf(name.original) + ".comfy_quant");
    }
  }
  std::set<std::string> names;
  const auto file = SafetensorsFile::Open(File("q.safetensors")).value();
  for (const auto& [name, entry] : file->entries()) names.insert(name);
  EXPECT_EQ(names, expected);
  // Codes of one scale, as ComfyUI's FP8 has it; a layer that only saves memory says so.
  EXPECT_TRUE(file->Find("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight_scale")->shape.empty());
  const auto quant = [&](const char* layer) {
    const TensorView text = file->Find(std::string("model.diffusion_model.joint_blocks.0.x_block.") + layer).value();
    return Json::parse(std::string(reinterpret_cast<const char*>(text.data), text.bytes));
  };
  EXPECT_EQ(quant("attn.qkv.comfy_quant"), (Json{{"format", "float8_e4m3fn"}}));
  EXPECT_EQ(quant("adaLN_modulation.1.comfy_quant"),
            (Json{{"format", "float8_e4m3fn"}, {"full_precision_matrix_mult", true}}));
}

class QuantizeFileTest : public QuantizeTest, public ::testing::WithParamInterface<const char*> {};

TEST_P(QuantizeFileTest, IsReadBack) {
  const bool int8 = std::string(GetParam()) == "int8";
  ASSERT_EQ(Quantize("--with-encoders --precision " + std::string(GetParam()) + " -o " + File("q.safetensors")).code,
            0);
  const SingleFile file = SingleFile::Open(File("q.safetensors")).value();
  for (const std::string part : {"transformer", "text_encoder", "text_encoder_2", "text_encoder_3", "vae"}) {
    const WeightStore source = OpenPart(kMedium, part), store = file.Component(part).value();
    for (const std::string& name : source.Names()) {
      const std::string layer = LayerOf(name);
      const std::vector<int64_t> shape = source.FindEntry(name)->shape;
      if (!IsQuantised(part, layer)) {
        ASSERT_TRUE(store.Contains(name)) << name;
        EXPECT_EQ(store.FindEntry(name)->shape, shape) << name;
        EXPECT_EQ(DataOf(store, name), DataOf(source, name)) << name;
        continue;
      }
      const auto stored = FindStoredWeight(store, {}, layer, shape[0], shape[1]);
      ASSERT_TRUE(stored.ok()) << stored.status();
      ASSERT_EQ(stored->scale.size(), int8 ? shape[0] : 1u) << layer;
      ExpectNearestCodes(*stored, Floats(*source.Find(name)), layer);
    }
  }
  // The one scale of q, k and v is that of their largest weight.
  if (int8) return;
  float largest = 0;
  const WeightStore source = OpenPart(kMedium, "transformer");
  for (const char* layer : {"to_q", "to_k", "to_v"}) {
    const std::vector<float> weights =
        Floats(*source.Find("transformer_blocks.0.attn." + std::string(layer) + ".weight"));
    largest = std::max(largest, AbsMax(weights, 0, weights.size()));
  }
  const int64_t dim = source.FindEntry("transformer_blocks.0.attn.to_k.weight")->shape[0];
  const WeightStore store = file.Component("transformer").value();
  EXPECT_EQ(FindStoredWeight(store, {}, "transformer_blocks.0.attn.to_k", dim, dim)->scale[0], largest / 448);
}

INSTANTIATE_TEST_SUITE_P(All, QuantizeFileTest, ::testing::Values("fp8", "int8"),
                         [](const auto& info) { return std::string(info.param); });

TEST_F(QuantizeTest, AFileHoldsTheTransformerAlone) {
  ASSERT_EQ(Quantize("-o " + File("q.safetensors")).code, 0);
  EXPECT_THAT(SingleFile::Open(File("q.safetensors"))->Components(), ::testing::ElementsAre("transformer"));
  EXPECT_THAT(Quantize("-o " + File("q.safetensors")).errors, HasSubstr("is there already"));
  EXPECT_EQ(Quantize("--force -o " + File("q.safetensors")).code, 0);
}

// Of a fused layer all parts stay high when one does; what the source stores as codes is written as weights then.
TEST_F(QuantizeTest, AFileKeepsFusedLayersTogether) {
  ASSERT_EQ(Quantize("-o " + File("q")).code, 0);
  for (const std::string& model : {std::string(kMedium), File("q")}) {
    const Result result =
        Quantize("--force -o " + File("q.safetensors") + " --layer 'transformer_blocks.0.attn.to_k=high'", model);
    ASSERT_EQ(result.code, 0) << result.errors;
    const auto file = SafetensorsFile::Open(File("q.safetensors")).value();
    EXPECT_EQ(file->Find("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight")->dtype, DType::kBF16);
    EXPECT_FALSE(file->Contains("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.comfy_quant"));
    EXPECT_EQ(file->Find("model.diffusion_model.joint_blocks.1.x_block.attn.qkv.weight")->dtype, DType::kF8E4M3);
  }
}

}  // namespace
}  // namespace fresco
