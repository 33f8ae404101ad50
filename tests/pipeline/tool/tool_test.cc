// fresco-model as a process: what it prints and how it ends.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "pipeline/checkpoint/safetensors.h"
#include "pipeline/image/codec.h"
#include "tests/pipeline/checkpoint/single_file_maker.h"
#include "tests/pipeline/tool/tool_runner.h"

namespace fresco {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;

TEST_F(ToolTest, HelpTeachesAndUsageIsTwo) {
  const Result help = Run("--help");
  EXPECT_EQ(help.code, 0);
  for (const char* command : {"inspect", "draw", "verify", "quantize", "compare", "bench", "Exit codes"})
    EXPECT_THAT(help.output, HasSubstr(command));
  EXPECT_EQ(Run("").code, 2);
  const Result unknown = Run("paint");
  EXPECT_EQ(unknown.code, 2);
  EXPECT_THAT(unknown.errors, HasSubstr("unknown command 'paint'; the commands are inspect, draw, verify, quantize, "
                                        "compare, bench, profile, calibrate\n"));
  const Result nothing = Run("inspect");
  EXPECT_EQ(nothing.code, 2);
  EXPECT_THAT(nothing.errors, HasSubstr("no model: its folder or .safetensors file comes after the command\n"));
  EXPECT_EQ(Run("draw " + std::string(kMedium)).code, 2);  // without a prompt
  for (const char* seed : {"-1", "18446744073709551616", "x"})
    EXPECT_EQ(Run("draw " + std::string(kMedium) + " --prompt x --output " + File("x.png") + " --seed " + seed).code,
              2);
  EXPECT_EQ(Run("bench").code, 2);
  EXPECT_EQ(Run("bench --preset sd9").code, 2);
  EXPECT_EQ(Run("verify " + std::string(kMedium) + " --precision fp64").code, 2);
}

TEST_F(ToolTest, SaysWhoseVersionItIs) {
  const Result result = Run("--version");
  EXPECT_EQ(result.code, 0);
  EXPECT_THAT(result.output, ::testing::MatchesRegex("fresco-model [0-9]+\\.[0-9]+\\.[0-9]+\n"));
}

TEST_F(ToolTest, HelpShowsTheModelOnce) {
  for (const char* command : {"inspect", "draw", "verify", "quantize", "compare", "bench"}) {
    const std::string help = Run(std::string(command) + " --help").output;
    const std::string folder = "Diffusers folder (model_index.json";
    EXPECT_THAT(help, HasSubstr(folder)) << command;
    EXPECT_EQ(help.find(folder), help.rfind(folder)) << command;
  }
}

TEST_F(ToolTest, AGpuThatIsNotThereIsNamed) {
  const std::string draw = "draw " + std::string(kMedium) + " --prompt x --output " + File("x.png");
  for (const std::string& command :
       {draw, "verify " + std::string(kMedium), std::string("bench --preset sd3.5-medium")}) {
    const Result result = Run(command + " --device cuda:99");
    EXPECT_EQ(result.code, 1) << command;
    // On a machine with other GPUs, the engine says how many.
    EXPECT_THAT(result.errors,
                AllOf(HasSubstr("cuda:99"), AnyOf(HasSubstr("use --device cpu"), HasSubstr("usable CUDA devices"))));
  }
}

TEST_F(ToolTest, ThreadsAreNotNegative) {
  const Result result = Run("verify --threads -4 " + std::string(kMedium));
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.errors, HasSubstr("--threads"));
}

TEST_F(ToolTest, InspectListsEveryTensor) {
  const Result result = Run("inspect --json " + std::string(kMedium));
  ASSERT_EQ(result.code, 0) << result.errors;
  const Json report = result.json();
  EXPECT_EQ(report["architecture"], "mmdit 3x48");
  const Json expected = {{"name", "transformer/proj_out.weight"},
                         {"dtype", "BF16"},
                         {"shape", {64, 48}},
                         {"bytes", 64 * 48 * 2},
                         {"device", "cpu"}};
  EXPECT_THAT(report["tensors"].get<std::vector<Json>>(), ::testing::Contains(expected));
  size_t tensors = 0;
  for (const char* part : {"transformer", "vae"})
    tensors += SafetensorsFile::Open(std::string(kMedium) + "/" + part + "/diffusion_pytorch_model.safetensors")
                   .value()
                   ->entries()
                   .size();
  for (const char* part : {"text_encoder", "text_encoder_2", "text_encoder_3"})
    tensors +=
        SafetensorsFile::Open(std::string(kMedium) + "/" + part + "/model.safetensors").value()->entries().size();
  EXPECT_EQ(report["tensors"].size(), tensors);
  EXPECT_THAT(Run("inspect --tensors " + std::string(kMedium)).output,
              AllOf(HasSubstr("[64, 48]"), HasSubstr("transformer/proj_out.weight")));
}

TEST_F(ToolTest, InspectListsATypeThatItDoesNotKnow) {
  std::filesystem::copy(kMedium, File("model"), std::filesystem::copy_options::recursive);
  const std::string path = File("model/vae/diffusion_pytorch_model.safetensors");
  std::string bytes = ReadFile(path);
  bytes.replace(bytes.find("\"BF16\""), 6, "\"BF17\"");
  std::ofstream(path, std::ios::binary) << bytes;
  const Result result = Run("inspect --json " + File("model"));
  ASSERT_EQ(result.code, 0) << result.errors;
  const auto tensors = result.json()["tensors"].get<std::vector<Json>>();
  EXPECT_EQ(std::count_if(tensors.begin(), tensors.end(), [](const Json& tensor) { return tensor["dtype"] == "BF17"; }),
            1);
  EXPECT_THAT(Run("inspect --tensors " + File("model")).output, HasSubstr("BF17"));
}

// How many weights of two dimensions a part of the medium checkpoint has.
int64_t Matrices(const std::string& part) {
  const WeightStore store = OpenReferencePart("medium", part);
  int64_t count = 0;
  for (const std::string& name : store.Names()) count += store.FindEntry(name)->shape.size() == 2 ? 1 : 0;
  return count;
}

TEST_F(ToolTest, InspectListsASingleFileAsItIs) {
  MadeTensors tensors = OriginalTensors("medium", "transformer", "model.diffusion_model.");
  tensors.merge(OriginalTensors("medium", "vae", "first_stage_model."));
  tensors["model_ema.decay"] = {"F32", {}, "1234"};
  WriteFile("model.safetensors", SafetensorsBytes(tensors));
  const Result result = Run("inspect --json " + File("model.safetensors"));
  ASSERT_EQ(result.code, 0) << result.errors;
  const Json report = result.json();
  EXPECT_EQ(report["architecture"], "mmdit 3x48");
  std::map<std::string, Json> listed;
  for (const Json& tensor : report["tensors"]) listed[tensor["name"]] = tensor;
  EXPECT_EQ(listed.size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    EXPECT_EQ(listed[name]["dtype"], tensor.dtype) << name;
    EXPECT_EQ(listed[name]["shape"], tensor.shape) << name;
    EXPECT_EQ(listed[name]["bytes"], tensor.data.size()) << name;
  }
  ASSERT_EQ(report["parts"].size(), 3u);
  EXPECT_EQ(report["parts"][0]["name"], "transformer");
  EXPECT_EQ(report["parts"][0]["path"], File("model.safetensors"));
  EXPECT_EQ(report["parts"][0]["parameters"], 317920);  // as of the folder
  EXPECT_EQ(report["parts"][0]["stored"], Json({{"plain", Matrices("transformer")}}));
  EXPECT_EQ(report["parts"][1]["name"], "vae");
  EXPECT_EQ(report["parts"][2]["name"], "(not used)");
  EXPECT_EQ(report["parts"][2]["bytes"], 4);
  EXPECT_THAT(Run("inspect --tensors " + File("model.safetensors")).output,
              AllOf(HasSubstr("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"),
                    HasSubstr("model_ema.decay"), HasSubstr("(not used)")));
}

TEST_F(ToolTest, InspectSaysHowWeightsAreStored) {
  MadeTensors tensors = OriginalTensors("medium", "transformer", "");
  const std::string layer = "joint_blocks.0.x_block.mlp.fc1";
  MadeTensor& weight = tensors.at(layer + ".weight");
  weight.dtype = "F8_E4M3";
  weight.data.resize(weight.data.size() / 2);
  const std::string format = R"({"format": "float8_e4m3fn"})";
  tensors[layer + ".comfy_quant"] = {"U8", {static_cast<int64_t>(format.size())}, format};
  tensors[layer + ".weight_scale"] = {"F32", {}, std::string("\0\0\x80\x3f", 4)};
  WriteFile("fp8.safetensors", SafetensorsBytes(tensors));
  const std::string stored = std::to_string(Matrices("transformer") - 1) + " plain";
  EXPECT_THAT(Run("inspect " + File("fp8.safetensors")).output,
              HasSubstr("transformer      1 comfy_quant float8_e4m3fn, " + stored + "\n"));
  tensors[layer + ".weight_scale"].data = std::string("\0\0\xc0\x7f", 4);  // NaN
  WriteFile("nan.safetensors", SafetensorsBytes(tensors));
  const Json part = Run("inspect --json " + File("nan.safetensors")).json()["parts"][0];
  EXPECT_EQ(part["unreadable"], 1);
  EXPECT_THAT(part["first_error"].get<std::string>(), HasSubstr("transformer_blocks.0.ff.net.0.proj.weight_scale"));
}

TEST_F(ToolTest, ASingleFileIsDrawnWithABase) {
  WriteFile("medium.safetensors", SafetensorsBytes(OriginalTensors("medium", "transformer", "")));
  const std::string request =
      " --prompt 'a fox' --width 32 --height 32 --steps 1 --max-sequence-length 16 --precision fp32 --threads 1 "
      "--json ";
  const Result file =
      Run("draw " + File("medium.safetensors") + " --base " + kMedium + request + "--output " + File("file.png"));
  ASSERT_EQ(file.code, 0) << file.errors;
  const Result folder = Run("draw " + std::string(kMedium) + request + "--output " + File("folder.png"));
  ASSERT_EQ(folder.code, 0) << folder.errors;
  EXPECT_EQ(file.json()["weights_digest"], folder.json()["weights_digest"]);
  EXPECT_TRUE(DecodeImage(ReadFile(File("file.png")))->image.rgb ==
              DecodeImage(ReadFile(File("folder.png")))->image.rgb);
  const Result alone = Run("draw " + File("medium.safetensors") + request + "--output " + File("alone.png"));
  EXPECT_EQ(alone.code, 1);
  EXPECT_THAT(alone.errors, AllOf(HasSubstr("lacks text_encoder, "), HasSubstr("tokenizer"), HasSubstr("base")));
}

TEST_F(ToolTest, BenchNeedsNoBaseForASingleFile) {
  WriteFile("medium.safetensors", SafetensorsBytes(OriginalTensors("medium", "transformer", "")));
  const Result result = Run("bench --model " + File("medium.safetensors") +
                            " --precision fp32 --threads 1 --width 32 --height 32 --steps 1 --text-tokens 16 --json");
  ASSERT_EQ(result.code, 0) << result.errors;
  EXPECT_EQ(result.json()["weight_bytes"], (317920 - 24 * 24 * 48) * 4);
}

TEST_F(ToolTest, FailuresSayWhatIsWrongAndEndWithOne) {
  for (const char* command : {"inspect", "draw --prompt x", "bench", "verify", "quantize -o x", "compare"}) {
    const Result result = Run(std::string(command) + " --model no/such/model");
    EXPECT_EQ(result.code, 1) << command;
    EXPECT_THAT(result.errors, HasSubstr("no/such/model")) << command;
  }
}

TEST_F(ToolTest, DrawWritesAPictureThatSaysHowItWasMade) {
  const Result result = Run("draw " + std::string(kMedium) +
                            " --prompt 'a fox' --width 64 --height 48 --steps 2 --max-sequence-length 16 --seed 5 " +
                            "--precision fp32 --threads 1 --json --output " + File("fox.png"));
  ASSERT_EQ(result.code, 0) << result.errors;
  EXPECT_EQ(result.json()["seed"], 5);
  const DecodedImage picture = DecodeImage(ReadFile(File("fox.png"))).value();
  EXPECT_EQ(picture.image.width, 64);
  EXPECT_EQ(picture.image.height, 48);
  const std::map<std::string, std::string> texts(picture.metadata.begin(), picture.metadata.end());
  // As a picture of the server's says it.
  ASSERT_TRUE(texts.contains("fresco:provenance"));
  const auto provenance = nlohmann::json::parse(texts.at("fresco:provenance"));
  EXPECT_EQ(provenance["prompt"], "a fox");
  EXPECT_EQ(provenance["seed"], 5);
  EXPECT_EQ(provenance["steps"], 2);
  EXPECT_EQ(provenance["precision"], "fp32");
  EXPECT_EQ(provenance["weights_digest"], result.json()["weights_digest"]);
  ASSERT_TRUE(texts.contains("parameters"));
  EXPECT_THAT(texts.at("parameters"),
              AllOf(::testing::StartsWith("a fox\nSteps: 2, Sampler: flow-match-euler, CFG scale: "),
                    HasSubstr(", Seed: 5, Size: 64x48, Model: "), HasSubstr(", Version: fresco ")));
}

TEST_F(ToolTest, DrawRefusesWhatCanNotBeDrawn) {
  const std::string draw = "draw " + std::string(kMedium) + " --prompt x --threads 1 --output " + File("x.png");
  for (const auto& [option, field] : {std::pair{" --guidance nan", "guidance_scale"},
                                      {" --guidance -1", "guidance_scale"},
                                      {" --width -64", "width"},
                                      {" --steps -1", "steps"},
                                      {" --max-sequence-length -1", "max_sequence_length"}}) {
    const Result result = Run(draw + option);
    EXPECT_EQ(result.code, 1) << option;
    EXPECT_THAT(result.errors, HasSubstr(field)) << option;
  }
  const Result jpeg = Run("draw " + std::string(kMedium) + " --prompt x --output " + File("x.jpg"));
  EXPECT_EQ(jpeg.code, 2);
  EXPECT_THAT(jpeg.errors, HasSubstr("does not end in .png"));
}

TEST_F(ToolTest, APathThatIsNotUtf8IsDrawnTo) {
  const Result result = Run("draw " + std::string(kMedium) +
                            " --prompt 'a fox' --width 32 --height 32 --steps 1 --max-sequence-length 16 " +
                            "--precision fp32 --threads 1 --json --output " + File("caf\xe9.png"));
  ASSERT_EQ(result.code, 0) << result.errors;
  EXPECT_EQ(result.json()["width"], 32);
  EXPECT_TRUE(DecodeImage(ReadFile(File("caf\xe9.png"))).ok());
}

TEST_F(ToolTest, BenchMeasuresAModel) {
  const Result result = Run("bench --model " + std::string(kMedium) +
                            " --precision fp32 --threads 1 --width 64 --height 48 --steps 3 --json");
  ASSERT_EQ(result.code, 0) << result.errors;
  const Json report = result.json();
  EXPECT_EQ(report["device"], "cpu");
  EXPECT_EQ(report["precision"], "fp32");
  EXPECT_EQ(report["width"], 64);
  EXPECT_EQ(report["height"], 48);
  EXPECT_EQ(report["batch"], 1);
  EXPECT_EQ(report["guidance"], 4.5);
  EXPECT_EQ(report["steps_measured"], 3);
  EXPECT_GT(report["step_seconds"], 0.0);
  // Every parameter in four bytes, but for the stored position table of 24 x 24 x 48.
  EXPECT_EQ(report["weight_bytes"], (317920 - 24 * 24 * 48) * 4);
  EXPECT_GE(report["peak_memory_bytes"], report["weight_bytes"]);
}

double SumOf(const Json& rows, const char* field) {
  double sum = 0;
  for (const Json& row : rows) sum += row[field].get<double>();
  return sum;
}

// Of the layer of that name; -1: there is none.
int64_t BytesOf(const Json& report, const std::string& name) {
  for (const Json& layer : report["layers"])
    if (layer["name"] == name) return layer["bytes"];
  return -1;
}

TEST_F(ToolTest, BenchSaysWhatEachLayerTakesBesideWhatTheDeviceCould) {
  const std::string bench =
      "bench --model " + std::string(kMedium) + " --precision fp32 --threads 1 --width 64 --height 48 --steps 1";
  const Result result = Run(bench + " --recorded 1 --json");
  ASSERT_EQ(result.code, 0) << result.errors;
  const Json report = result.json();
  EXPECT_GT(report["bandwidth_bytes_per_second"], 0.0);
  const double peak = report["peak_flops_per_second"]["fp32"];
  ASSERT_GT(report["layers"].size(), 10u);
  for (const Json& layer : report["layers"]) {
    const double seconds = layer["seconds"], bytes = layer["bytes"], flops = layer["flops"];
    const double in_memory = bytes / report["bandwidth_bytes_per_second"].get<double>();
    EXPECT_NEAR(layer["of_bandwidth"], in_memory / seconds, 1e-6 * in_memory / seconds) << layer;
    EXPECT_EQ(layer["bound"], flops / peak > in_memory ? "compute" : "memory") << layer;
    const double of_peak = flops / peak / seconds;  // null where it is 0
    EXPECT_NEAR(layer["of_peak"].is_null() ? 0 : layer["of_peak"].get<double>(), of_peak, 1e-6 * of_peak) << layer;
  }
  // Two samples of 4 by 3 patches, 48 wide, in fp32.
  const int64_t tokens = 2 * 12 * 48 * 4, modulation = 2 * 48 * 4, norm = 24 * 4;
  EXPECT_EQ(BytesOf(report, "transformer.transformer_blocks.0.norm2"), 2 * tokens + 2 * modulation);
  EXPECT_EQ(BytesOf(report, "transformer.transformer_blocks.0.ff.gelu"), 2 * 4 * tokens);
  // Queries and keys, not values, are read and written.
  EXPECT_EQ(BytesOf(report, "transformer.transformer_blocks.0.attn2.qk_norm"), 2 * 2 * tokens + 2 * norm);
  // A step is its layers and what lies between them, which is what is lost to gaps.
  EXPECT_NEAR(SumOf(report["kinds"], "share") + report["between_layers_share"].get<double>(), 1, 1e-6);
  EXPECT_NEAR(SumOf(report["gaps"], "share"), report["between_layers_share"], 1e-6);
  EXPECT_FALSE(report.contains("idle_share"));  // a GPU's
  EXPECT_THAT(Run(bench + " --recorded 1 --top 2").output,
              AllOf(HasSubstr("the longest of"), HasSubstr("of memory"), HasSubstr("lost to gaps: ")));
  const Result alone = Run(bench + " --recorded 0 --json");
  ASSERT_EQ(alone.code, 0) << alone.errors;
  EXPECT_FALSE(alone.json().contains("layers"));
  EXPECT_EQ(Run(bench + " --recorded -1").code, 2);
}

TEST_F(ToolTest, BenchLetsPrecisionsTakeTurns) {
  const std::string bench = "bench --model " + std::string(kMedium) +
                            " --precision fp32 --threads 1 --width 32 --height 32 --steps 3 --text-tokens 16 --json";
  const Json alone = Run(bench).json();
  const Result result = Run(bench + " --beside int8");
  ASSERT_EQ(result.code, 0) << result.errors;
  const Json report = result.json();
  EXPECT_EQ(report["precision"], "fp32");
  EXPECT_EQ(report["beside"]["precision"], "int8");
  EXPECT_GT(report["beside"]["step_seconds"], 0.0);
  EXPECT_GT(report["beside"]["speed"], 0.0);
  // The other's weights are not counted.
  EXPECT_EQ(report["weight_bytes"], alone["weight_bytes"]);
  EXPECT_EQ(report["peak_memory_bytes"], alone["peak_memory_bytes"]);
  EXPECT_FALSE(alone.contains("beside"));
  const Result unknown = Run(bench + " --beside fp64");
  EXPECT_NE(unknown.code, 0);
  EXPECT_THAT(unknown.errors, HasSubstr("fp64"));
}

TEST_F(ToolTest, BenchMakesAKnownShapeWithRandomWeights) {
  const Result result =
      Run("bench --preset sd3.5-medium --layers 1 --precision bf16 --width 32 --height 32 --text-tokens 16 --steps 1 "
          "--json");
  ASSERT_EQ(result.code, 0) << result.errors;
  // docs/facts/sd35.md's shape with one layer, which is then the last. d = 1536; a linear is in * out + out.
  const int64_t d = 1536;
  const auto linear = [](int64_t in, int64_t out) { return in * out + out; };
  const int64_t embedders =
      linear(64, d) + linear(256, d) + linear(d, d) + linear(2048, d) + linear(d, d) + linear(4096, d);
  const int64_t image = linear(d, 9 * d) + 2 * (4 * linear(d, d) + 2 * 64) + linear(d, 4 * d) + linear(4 * d, d);
  const int64_t text = linear(d, 2 * d) + 3 * linear(d, d) + 2 * 64;
  const int64_t out = linear(d, 2 * d) + linear(d, 64);
  EXPECT_EQ(result.json()["weight_bytes"], 2 * (embedders + image + text + out));
}

// A safetensors file of the tensors that two others hold, the second's under another name, without `omitted`.
std::string Merge(const SafetensorsFile& stages, const SafetensorsFile& images, const std::string& image,
                  const std::string& omitted) {
  Json header;
  std::string data;
  const auto add = [&](const SafetensorsFile& file, const std::string& from, const std::string& to) {
    const TensorView view = file.Find(from).value();
    header[to] = {{"dtype", std::string(DTypeName(view.dtype))},
                  {"shape", view.shape},
                  {"data_offsets", {data.size(), data.size() + view.bytes}}};
    data.append(reinterpret_cast<const char*>(view.data), view.bytes);
  };
  for (const auto& [name, entry] : stages.entries())
    if (name != omitted) add(stages, name, name);
  add(images, image, "image");
  const std::string text = header.dump();
  const uint64_t length = text.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + text + data;
}

// `verify` beside the committed results: a "Python" that hands them out in place of computing them anew.
class VerifyTest : public ToolTest {
 protected:
  VerifyTest() {
    stages_ = Stages();
    std::ofstream(File("python"))
        << "#!/bin/sh\necho noise on standard output\n"
           "while [ $# -gt 0 ]; do case $1 in --output) out=$2;; --request) request=$2;; esac; shift; done\n"
           "cp $request "
        << File("request.json") << "\ncp " << File("stages.safetensors") << " $out\n";
    std::filesystem::permissions(File("python"), std::filesystem::perms::owner_all);
  }

  static std::string Stages(const std::string& omitted = "") {
    const auto stages = SafetensorsFile::Open("tests/reference/results/medium.fp32.safetensors").value();
    const auto images = SafetensorsFile::Open("tests/reference/results/images.safetensors").value();
    return Merge(*stages, *images, "medium.fp32", omitted);
  }

  Result Verify(const std::string& arguments = "", const std::string& prompts = kPrompts) const {
    std::ofstream(File("stages.safetensors"), std::ios::binary) << stages_;
    return Run("verify " + std::string(kMedium) + " --python " + File("python") +
               " --width 64 --height 48 --steps 3 --guidance 4 --seed 7 --max-sequence-length 16 --threads 1 " +
               prompts + " " + arguments);
  }

  // Makes the first value of a stage a large one.
  void Damage(const std::string& stage) {
    const uint64_t header = *reinterpret_cast<const uint64_t*>(stages_.data());
    const Json entries = Json::parse(stages_.substr(8, header));
    const size_t begin = 8 + header + entries[stage]["data_offsets"][0].get<size_t>();
    stages_[begin + 3] = '\x47';  // the exponent
  }

  Json Request() const { return Json::parse(ReadFile(File("request.json"))); }

  static constexpr char kPrompts[] = "--prompt 'a red apple on a light blue background' --negative 'a robot'";

  std::string stages_;
};

TEST_F(VerifyTest, EqualStagesEndWithZero) {
  const Result result = Verify("--json");
  ASSERT_EQ(result.code, 0) << result.output << result.errors;
  const Json report = result.json();
  EXPECT_EQ(report["equal"], true);
  std::vector<std::string> stages;
  for (const Json& stage : report["stages"]) stages.push_back(stage["stage"]);
  EXPECT_THAT(stages,
              ::testing::IsSupersetOf({"positive.clip_l.ids", "negative.t5.hidden", "sigmas", "noise",
                                       "transformer.temb", "transformer.block.0.image", "transformer.block.1.context",
                                       "velocity.0", "latents.1", "vae.decode.output", "vae.encode.mean", "image"}));
  const Json request = Request();
  EXPECT_EQ(request["negative_prompt"], "a robot");
  EXPECT_EQ(request["dtype"], "fp32");
  EXPECT_EQ(request["seed"], 7);
}

TEST_F(VerifyTest, AStageThatDiffersIsNamedAndEndsWithOne) {
  // Only this stage can differ, the others have inputs of their own.
  Damage("transformer.block.1.image");
  const Result result = Verify();
  EXPECT_EQ(result.code, 1);
  EXPECT_THAT(result.output, AllOf(HasSubstr("1 of"), HasSubstr("differ from diffusers")));
  for (std::istringstream lines(result.output); !lines.eof();) {
    std::string line;
    std::getline(lines, line);
    EXPECT_EQ(line.find("<- differs") != std::string::npos, line.rfind("transformer.block.1.image", 0) == 0) << line;
  }
}

TEST_F(VerifyTest, AnEmptyPromptIsEmptyAndAnAbsentOneTheDefault) {
  Verify("", "--prompt '' --negative ''");
  EXPECT_EQ(Request()["prompt"], "");
  EXPECT_EQ(Request()["negative_prompt"], "");
  Verify("", "");
  EXPECT_EQ(Request()["prompt"], "a red apple on a light blue background");
  EXPECT_EQ(Request()["negative_prompt"], "blurry");
}

// Beside diffusers' fp32, which is farther from our bf16 than its bf16 is, and of which every stage is kept.
TEST_F(VerifyTest, Bf16HasALimitOfItsOwn) {
  const Result near = Verify("--precision bf16 --json");
  ASSERT_EQ(near.code, 0) << near.output << near.errors;
  EXPECT_EQ(Request()["dtype"], "bf16");
  const auto stages = near.json()["stages"].get<std::vector<Json>>();
  const auto beyond_fp32 = [](const Json& stage) { return stage["measure"] == "relative" && stage["value"] > 1e-4; };
  EXPECT_TRUE(std::any_of(stages.begin(), stages.end(), beyond_fp32)) << "nothing was computed in bf16";
  Damage("transformer.block.1.image");
  EXPECT_EQ(Verify("--precision bf16").code, 1);
}

TEST_F(VerifyTest, AStageThatTheReferenceLacksIsNotEqual) {
  for (const char* stage : {"transformer.block.1.context", "negative.t5.hidden", "sigmas", "vae.encode.mean"}) {
    stages_ = Stages(stage);
    const Result result = Verify();
    EXPECT_EQ(result.code, 1) << stage;
    EXPECT_THAT(result.output, AllOf(HasSubstr("1 of"), HasSubstr("not compared"),
                                     ::testing::Not(HasSubstr("equal to")), ::testing::Not(HasSubstr("<- differs"))));
    const size_t line = result.output.find(std::string("\n") + stage + " ");
    ASSERT_NE(line, std::string::npos) << result.output;
    EXPECT_THAT(result.output.substr(line + 1, result.output.find('\n', line + 1) - line),
                HasSubstr("<- not compared"));
  }
  stages_ = Stages("positive.clip_g.pooled");
  const Result result = Verify("--json");
  EXPECT_EQ(result.code, 1);
  EXPECT_EQ(result.json()["equal"], false);
  EXPECT_THAT(result.json()["stages"].get<std::vector<Json>>(),
              ::testing::Contains(Json({{"stage", "positive.clip_g.pooled"},
                                        {"measure", "none"},
                                        {"value", nullptr},
                                        {"limit", 0.0},
                                        {"ok", false}})));
}

TEST_F(VerifyTest, APythonThatFailsIsNamed) {
  const Result failing = Run("verify " + std::string(kMedium) + " --python false");
  EXPECT_EQ(failing.code, 1);
  EXPECT_THAT(failing.errors, AllOf(HasSubstr("false"), HasSubstr("FRESCO_PYTHON")));
  const Result missing = Run("verify " + std::string(kMedium) + " --python no-such-python");
  EXPECT_EQ(missing.code, 1);
  EXPECT_THAT(missing.errors, HasSubstr("no-such-python"));
}

// How OpenMP's threads wait is in the environment, which the Python of `verify` inherits.
TEST_F(VerifyTest, OpenMpsThreadsSleepWhileTheyWait) {
  WriteFile("python", "#!/bin/sh\necho waits: $OMP_WAIT_POLICY >&2\nexit 2\n");
  const std::string verify =
      " " + std::string(FRESCO_MODEL_BINARY) + " verify " + kMedium + " --python " + File("python");
  EXPECT_THAT(Shell("env -u OMP_WAIT_POLICY -u GOMP_SPINCOUNT" + verify).errors, HasSubstr("waits: passive\n"));
  EXPECT_THAT(Shell("env OMP_WAIT_POLICY=active" + verify).errors, HasSubstr("waits: active\n"));
}

// As the arguments of a short run.
std::string Calibrate(const std::string& prompts, const std::string& output) {
  return "calibrate " + std::string(kMedium) + " --prompts " + prompts + " --output " + output +
         " --steps 2 --width 32 --height 32 --sensitivity-samples 1 --rounding-samples 1";
}

TEST_F(ToolTest, CalibrateWritesWhatDrawTakes) {
  std::ofstream(File("prompts")) << "a red apple\n\n  a robot  \n";
  const Result result = Run(Calibrate(File("prompts"), File("c.json")) + " --json");
  ASSERT_EQ(result.code, 0) << result.errors;
  const Json report = result.json();
  EXPECT_EQ(report["prompts"], 2);
  EXPECT_EQ(report["precision"], "fp8");
  EXPECT_GT(report["noise"], report["corrected_noise"]);
  EXPECT_GT(report["sensitivity"][0]["error"], report["sensitivity"].back()["error"]);
  EXPECT_THAT(result.errors, HasSubstr("100 %"));
  EXPECT_FALSE(std::filesystem::exists(File("c.json.state")));
  const Json file = Json::parse(ReadFile(File("c.json")));
  EXPECT_EQ(file["format"], "fresco-calibration");
  EXPECT_EQ(file["rounded_weights"]["fp8"], "c.fp8.safetensors");
  const auto rounded = SafetensorsFile::Open(File("c.fp8.safetensors"));
  ASSERT_TRUE(rounded.ok()) << rounded.status();
  EXPECT_TRUE((*rounded)->entries().contains("transformer_blocks.0.attn.to_q.weight_scale"));
}

TEST_F(ToolTest, NoiseIsCorrectedUnlessAskedNotTo) {
  std::ofstream(File("prompts")) << "a red apple\n";
  ASSERT_EQ(Run(Calibrate(File("prompts"), File("c.json"))).code, 0);
  const auto draw = [&](const std::string& options) {
    const Result result = Run("draw " + std::string(kMedium) + " --prompt fox --steps 2 --width 32 --height 32" +
                              " --calibration " + File("c.json") + options + " -o " + File("x.png"));
    EXPECT_EQ(result.code, 0) << result.errors;
    return DecodeImage(ReadFile(File("x.png"))).value();
  };
  const auto said = [](const DecodedImage& picture) {
    const std::map<std::string, std::string> texts(picture.metadata.begin(), picture.metadata.end());
    return Json::parse(texts.at("fresco:provenance")).value("noise_correction", Json());
  };
  const DecodedImage unasked = draw(" --precision fp8"), asked = draw(" --precision fp8 --noise-correction");
  const DecodedImage refused = draw(" --precision fp8 --no-noise-correction");
  EXPECT_EQ(unasked.image.rgb, asked.image.rgb);
  EXPECT_NE(unasked.image.rgb, refused.image.rgb);
  // The picture says what was done, not what was asked for.
  EXPECT_EQ(said(unasked), true);
  EXPECT_EQ(said(refused), false);
  EXPECT_EQ(said(draw(" --precision fp32 --noise-correction")), Json());
}

TEST_F(ToolTest, CalibrateRefusesBeforeHoursOfWork) {
  std::ofstream(File("empty")) << "\n  \n";
  std::ofstream(File("prompts")) << "a red apple\n";
  const Result empty = Run(Calibrate(File("empty"), File("c.json")));
  EXPECT_EQ(empty.code, 2);
  EXPECT_THAT(empty.errors, HasSubstr("empty: holds no prompt"));
  std::ofstream(File("latin")) << "a red apple\ncaf\xe9\n";
  const Result latin = Run(Calibrate(File("latin"), File("c.json")));
  EXPECT_EQ(latin.code, 2);
  EXPECT_THAT(latin.errors, HasSubstr("latin:2: is not UTF-8"));
  const Result unwritable = Run(Calibrate(File("prompts"), File("no/such/c.json")));
  EXPECT_EQ(unwritable.code, 2);
  EXPECT_THAT(unwritable.errors, HasSubstr("no/such/c.json: cannot be written"));
  EXPECT_EQ(Run(Calibrate(File("none"), File("c.json"))).code, 2);
  const Result high = Run(Calibrate(File("prompts"), File("c.json")) + " --precision bf16");
  EXPECT_EQ(high.code, 1);
  EXPECT_THAT(high.errors, HasSubstr("'bf16' quantises nothing"));
}

}  // namespace
}  // namespace fresco
