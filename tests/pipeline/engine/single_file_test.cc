// A model from a single file is the folder's, bit for bit; and what a file lacks is said in one message.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "pipeline/base/strings.h"
#include "pipeline/engine/load.h"
#include "tests/pipeline/checkpoint/single_file_maker.h"
#include "tests/pipeline/engine/checkpoint_copy.h"

namespace fresco {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

namespace fs = std::filesystem;

const std::string kCheckpoints = "tests/reference/checkpoints/";

// Stability AI's prefixes.
const std::map<std::string, std::string> kOriginal = {{"transformer", "model.diffusion_model."},
                                                      {"text_encoder", "text_encoders.clip_l.transformer."},
                                                      {"text_encoder_2", "text_encoders.clip_g.transformer."},
                                                      {"text_encoder_3", "text_encoders.t5xxl.transformer."},
                                                      {"vae", "first_stage_model."}};

// The checkpoint that has a component of another's, which may lack its T5.
std::string OwnerOf(const std::string& checkpoint, const std::string& component) {
  return fs::exists(kCheckpoints + checkpoint + "/" + component) ? checkpoint : "medium";
}

// A copy of a whole checkpoint whose CLIP-L projects with the identity, as the one in an original file is understood
// to.
class Folder : public CheckpointCopy {
 public:
  explicit Folder(const std::string& name) : CheckpointCopy(kCheckpoints + name) {
    for (const char* part : {"text_encoder_3", "tokenizer_3"}) {
      if (!fs::exists(path(part))) fs::copy(kCheckpoints + OwnerOf(name, part) + "/" + part, path(part));
    }
    EditTensor("text_encoder/model.safetensors", "text_projection.weight", [](char* data, size_t bytes) {
      int64_t width = 1;
      while (2 * width * width < static_cast<int64_t>(bytes)) ++width;
      const std::string identity = IdentityProjection(width).data;
      std::copy(identity.begin(), identity.end(), data);
    });
  }

  // Of one part, or of all: leaves configurations, tokenizers and the scheduler.
  void RemoveWeights(const std::string& part = "") const {
    std::vector<fs::path> files;
    for (const auto& entry : fs::recursive_directory_iterator(path(part))) {
      if (entry.path().string().find(".safetensors") != std::string::npos) files.push_back(entry.path());
    }
    for (const fs::path& file : files) fs::remove(file);
  }
};

std::string FullFile(const std::string& checkpoint) {
  MadeTensors tensors;
  for (const auto& [component, prefix] : kOriginal) {
    tensors.merge(OriginalTensors(OwnerOf(checkpoint, component), component, prefix));
  }
  return SafetensorsBytes(tensors);
}

LoadOptions Options(const std::string& path, const std::string& base = "", const std::string& precision = "fp32") {
  LoadOptions options;
  options.name = "tested";
  options.path = path;
  options.base = base;
  options.precision = precision;
  options.threads = 1;
  return options;
}

struct Drawn {
  std::string digest;
  std::vector<uint8_t> rgb;
};

Drawn Draw(const LoadOptions& options) {
  const auto engine = LoadEngine(options);
  if (!engine.ok()) throw std::runtime_error(engine.status().ToString());
  ImageSpec spec;
  spec.prompt = "a fox";
  spec.negative_prompt = "two";
  spec.width = 64;
  spec.height = 48;
  spec.steps = 2;
  spec.guidance_scale = 4.5;
  spec.max_sequence_length = (*engine)->info().max_sequence_length_limit == 0 ? 0 : 16;
  spec.seed = 7;
  const auto job = (*engine)->Prepare(spec);
  if (!job.ok()) throw std::runtime_error(job.status().ToString());
  while (!(*job)->done()) {
    if (absl::Status status = (*engine)->Step({job->get()}).front(); !status.ok())
      throw std::runtime_error(status.ToString());
  }
  return {(*engine)->info().weights_digest, (*engine)->Finish(**job).value().rgb};
}

void ExpectSamePicture(const LoadOptions& a, const LoadOptions& b) {
  const Drawn first = Draw(a), second = Draw(b);
  EXPECT_TRUE(first.rgb == second.rgb) << "the pictures differ";
  EXPECT_EQ(first.digest, second.digest);
}

std::string Refusal(const LoadOptions& options, absl::StatusCode code) {
  const auto engine = LoadEngine(options);
  EXPECT_EQ(engine.status().code(), code) << engine.status();
  return std::string(engine.status().message());
}

// --- Pictures ---

class SameImage : public ::testing::TestWithParam<std::tuple<const char*, const char*>> {};

TEST_P(SameImage, ThroughAFullFileWithConfigurationsAlone) {
  const auto& [checkpoint, precision] = GetParam();
  const TempFolder files;
  const std::string file = files.Write("full.safetensors", FullFile(checkpoint));
  const Folder folder(checkpoint), base(checkpoint);
  base.RemoveWeights();
  ExpectSamePicture(Options(folder.path(), "", precision), Options(file, base.path(), precision));
}

TEST_P(SameImage, ThroughATransformerWithABase) {
  const auto& [checkpoint, precision] = GetParam();
  const TempFolder files;
  const std::string original =
      files.Write("original.safetensors", SafetensorsBytes(OriginalTensors(checkpoint, "transformer", "")));
  const std::string diffusers =
      files.Write("diffusers.safetensors", SafetensorsBytes(DiffusersTensors(checkpoint, "transformer", "")));
  const Folder folder(checkpoint), base(checkpoint), without_transformer(checkpoint);
  base.RemoveWeights("transformer");
  without_transformer.Remove("transformer");
  ExpectSamePicture(Options(folder.path(), "", precision), Options(original, base.path(), precision));
  ExpectSamePicture(Options(folder.path(), "", precision), Options(diffusers, without_transformer.path(), precision));
}

INSTANTIATE_TEST_SUITE_P(SingleFile, SameImage,
                         ::testing::Combine(::testing::Values("medium", "large"), ::testing::Values("fp32", "bf16")),
                         [](const auto& info) {
                           return StrCat(std::get<0>(info.param), "_", std::get<1>(info.param));
                         });

// The heads of a model without norms are 64 wide.
TEST(SingleFile, ATransformerWithoutNormsNeedsNoConfiguration) {
  const TempFolder files;
  const std::string file =
      files.Write("sd3.safetensors", SafetensorsBytes(OriginalTensors("sd3", "transformer", "model.diffusion_model.")));
  const CheckpointCopy folder(kCheckpoints + "medium"), base(kCheckpoints + "medium");
  folder.Remove("transformer");
  base.Remove("transformer");
  fs::copy(kCheckpoints + "sd3/transformer", folder.path("transformer"));
  ExpectSamePicture(Options(folder.path()), Options(file, base.path()));
}

TEST(SingleFile, AVaeAloneReplacesTheBases) {
  const TempFolder files;
  const std::string file =
      files.Write("vae.safetensors", SafetensorsBytes(OriginalTensors("sd3", "vae", "first_stage_model.")));
  const CheckpointCopy folder(kCheckpoints + "medium"), base(kCheckpoints + "medium");
  folder.Remove("vae");
  fs::copy(kCheckpoints + "sd3/vae", folder.path("vae"));
  fs::copy_file(kCheckpoints + "sd3/vae/config.json", base.path("vae/config.json"),
                fs::copy_options::overwrite_existing);
  ExpectSamePicture(Options(folder.path()), Options(file, base.path()));
}

TEST(SingleFile, AProjectionOfClipLThatTheFileHoldsIsNotUsed) {
  MadeTensors tensors = OriginalTensors("medium", "text_encoder", kOriginal.at("text_encoder"));
  const TempFolder files;
  const std::string with = files.Write("with.safetensors", SafetensorsBytes(tensors));
  ASSERT_EQ(tensors.erase(kOriginal.at("text_encoder") + "text_projection.weight"), 1u);
  const std::string without = files.Write("without.safetensors", SafetensorsBytes(tensors));
  ExpectSamePicture(Options(with, kCheckpoints + "medium"), Options(without, kCheckpoints + "medium"));
  EXPECT_TRUE(Draw(Options(with, kCheckpoints + "medium")).rgb != Draw(Options(kCheckpoints + "medium")).rgb);
}

// --- What is lacking ---

TEST(SingleFile, WithoutABaseEverythingThatIsMissingIsNamed) {
  const TempFolder files;
  const std::string transformer =
      files.Write("transformer.safetensors", SafetensorsBytes(OriginalTensors("medium", "transformer", "")));
  EXPECT_EQ(Refusal(Options(transformer), absl::StatusCode::kNotFound),
            transformer +
                ": holds transformer and lacks text_encoder, text_encoder_2, vae, tokenizer, tokenizer_2, "
                "scheduler: set `base` to a diffusers folder that has it");
  const std::string full = files.Write("full.safetensors", FullFile("medium"));
  EXPECT_EQ(Refusal(Options(full), absl::StatusCode::kNotFound),
            full +
                ": holds text_encoder, text_encoder_2, text_encoder_3, transformer, vae and lacks the configuration "
                "of text_encoder, the configuration of text_encoder_2, the configuration of vae, tokenizer, "
                "tokenizer_2, scheduler, the configuration of text_encoder_3, tokenizer_3: set `base` to a diffusers "
                "folder that has it");
}

TEST(SingleFile, WhatTheBaseLacksTooIsNamed) {
  const TempFolder files;
  const std::string file =
      files.Write("transformer.safetensors", SafetensorsBytes(OriginalTensors("medium", "transformer", "")));
  const CheckpointCopy base(kCheckpoints + "medium");
  base.Remove("vae");
  base.Remove("tokenizer_3");
  EXPECT_EQ(Refusal(Options(file, base.path()), absl::StatusCode::kNotFound),
            file + ": holds transformer and lacks vae, tokenizer_3, as does " + base.path());
}

TEST(SingleFile, AFileWithT5NeedsABaseWithItsTokenizer) {
  const TempFolder files;
  const std::string file = files.Write("full.safetensors", FullFile("medium"));
  const CheckpointCopy base(kCheckpoints + "medium");
  base.Remove("text_encoder_3");
  base.Remove("tokenizer_3");
  base.Write("model_index.json", R"({"_class_name": "StableDiffusion3Pipeline", "text_encoder_3": [null, null]})");
  EXPECT_THAT(Refusal(Options(file, base.path()), absl::StatusCode::kNotFound),
              HasSubstr("lacks the configuration of text_encoder_3, tokenizer_3, as does"));
}

TEST(SingleFile, ABaseIsAFolder) {
  const TempFolder files;
  const std::string file =
      files.Write("transformer.safetensors", SafetensorsBytes(OriginalTensors("medium", "transformer", "")));
  EXPECT_THAT(Refusal(Options(file, file), absl::StatusCode::kInvalidArgument),
              AllOf(HasSubstr(file), HasSubstr("a base is a diffusers folder")));
  EXPECT_THAT(Refusal(Options(file, "no/such/base"), absl::StatusCode::kNotFound), HasSubstr("no/such/base"));
}

// --- The wrong base ---

struct WrongBase {
  const char* name;
  const char* file;  // in the base
  const char* from;
  const char* to;
  std::vector<std::string> named;  // in the message, besides both paths
};

void PrintTo(const WrongBase& wrong, std::ostream* out) {
  *out << wrong.name;
}

class WrongBases : public ::testing::TestWithParam<WrongBase> {};

TEST_P(WrongBases, AreRefusedWithTensorFileAndConfiguration) {
  const WrongBase& wrong = GetParam();
  const TempFolder files;
  const std::string file = files.Write("full.safetensors", FullFile("medium"));
  const CheckpointCopy base(kCheckpoints + "medium");
  base.Replace(wrong.file, wrong.from, wrong.to);
  const std::string message = Refusal(Options(file, base.path()), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(message, AllOf(HasSubstr(file), HasSubstr(base.path(wrong.file))));
  for (const std::string& word : wrong.named) EXPECT_THAT(message, HasSubstr(word));
}

INSTANTIATE_TEST_SUITE_P(
    SingleFile, WrongBases,
    ::testing::Values(
        WrongBase{"Layers",
                  "transformer/config.json",
                  "\"num_layers\": 3",
                  "\"num_layers\": 2",
                  {"transformer_blocks.2.", "num_layers is 2"}},
        WrongBase{"Norms",
                  "transformer/config.json",
                  "\"rms_norm\"",
                  "null",
                  {"transformer_blocks.0.attn.norm_q.weight", "qk_norm"}},
        WrongBase{"Text",
                  "transformer/config.json",
                  "\"joint_attention_dim\": 64",
                  "\"joint_attention_dim\": 65",
                  {"context_embedder.weight", "[48, 64]", "joint_attention_dim is 65"}},
        WrongBase{"ClipVocabulary",
                  "text_encoder/config.json",
                  "\"vocab_size\": ",
                  "\"vocab_size\": 1",
                  {"text_model.embeddings.token_embedding.weight"}},
        WrongBase{"ClipLayers",
                  "text_encoder_2/config.json",
                  "\"num_hidden_layers\": ",
                  "\"num_hidden_layers\": 1, \"was\": ",
                  {"text_model.encoder.layers.", "where the configuration has 1"}},
        WrongBase{"T5", "text_encoder_3/config.json", "\"d_ff\": ", "\"d_ff\": 1", {"DenseReluDense.wi_0.weight"}},
        WrongBase{"Vae",
                  "vae/config.json",
                  "\"layers_per_block\": 2",
                  "\"layers_per_block\": 3",
                  {"down_blocks.0.resnets.2."}}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(SingleFile, AnotherModelAsBaseIsRefused) {
  const TempFolder files;
  const std::string file =
      files.Write("medium.safetensors", SafetensorsBytes(OriginalTensors("medium", "transformer", "")));
  const Folder base("large");
  EXPECT_THAT(Refusal(Options(file, base.path()), absl::StatusCode::kInvalidArgument),
              AllOf(HasSubstr(file), HasSubstr("transformer_blocks.2."),
                    HasSubstr(base.path("transformer/config.json") + ": num_layers is 2")));
}

// --- What is no single file ---

TEST(SingleFile, WhatIsNotSafetensorsIsSaidToBe) {
  const TempFolder files;
  for (const auto& [name, bytes] :
       {std::pair<std::string, std::string>{"pickle.ckpt", "PK\3\4" + std::string(100, 'x')},
        {"model.gguf", "GGUF" + std::string(100, '\3')},
        {"readme.txt", "This is a text and no model."},
        {"empty.safetensors", ""}}) {
    const std::string file = files.Write(name, bytes);
    EXPECT_THAT(Refusal(Options(file, kCheckpoints + "medium"), absl::StatusCode::kInvalidArgument),
                AllOf(HasSubstr(file), ::testing::AnyOf(HasSubstr("not a safetensors file"), HasSubstr("truncated"))));
  }
}

TEST(SingleFile, AnotherKindOfModelIsSaidToBe) {
  const TempFolder files;
  const std::string file =
      files.Write("flux.safetensors", SafetensorsBytes({{"double_blocks.0.img_attn.qkv.weight", {"U8", {1}, "x"}}}));
  EXPECT_THAT(Refusal(Options(file, kCheckpoints + "medium"), absl::StatusCode::kInvalidArgument),
              AllOf(HasSubstr(file), HasSubstr("no part of Stable Diffusion 3")));
}

// With a base, all would else come from there.
TEST(SingleFile, AFolderWithASingleFileInsideSaysHowToUseIt) {
  const TempFolder files;
  const std::string file =
      files.Write("medium.safetensors", SafetensorsBytes(OriginalTensors("medium", "transformer", "")));
  for (const std::string& base : {std::string(), kCheckpoints + "medium"}) {
    EXPECT_EQ(Refusal(Options(files.path(), base), absl::StatusCode::kNotFound),
              files.path() +
                  ": not a diffusers folder: there is no model_index.json, no transformer, no other part of a "
                  "model; to use the single file in it, give its path: " +
                  file);
  }
  const TempFolder empty;
  EXPECT_THAT(Refusal(Options(empty.path(), kCheckpoints + "medium"), absl::StatusCode::kNotFound),
              AllOf(HasSubstr("not a diffusers folder"), Not(HasSubstr("single file"))));
}

// --- Everything else that is the folder's ---

TEST(SingleFile, ItsDefaultsLieBesideItOrInTheBase) {
  const TempFolder files;
  const std::string file =
      files.Write("turbo.safetensors", SafetensorsBytes(OriginalTensors("medium", "transformer", "")));
  const CheckpointCopy base(kCheckpoints + "medium");
  base.Write("fresco.yaml", "steps: 20\nwidth: 64\n");
  EXPECT_EQ(LoadEngine(Options(file, base.path())).value()->info().default_steps, 20);
  files.Write("turbo.fresco.yaml", "steps: 4\n");
  const ModelInfo info = LoadEngine(Options(file, base.path())).value()->info();
  EXPECT_EQ(info.default_steps, 4);
  EXPECT_EQ(info.default_width, 128);  // the base's fresco.yaml counts no more
}

TEST(SingleFile, AWeightThatIsNoNumberIsNamed) {
  MadeTensors tensors = OriginalTensors("medium", "transformer", "");
  tensors.at("final_layer.linear.bias").data.replace(0, 2, "\xc0\x7f");
  const TempFolder files;
  const std::string file = files.Write("nan.safetensors", SafetensorsBytes(tensors));
  EXPECT_THAT(Refusal(Options(file, kCheckpoints + "medium"), absl::StatusCode::kInvalidArgument),
              AllOf(HasSubstr(file), HasSubstr("proj_out.bias"), HasSubstr("NaN")));
}

}  // namespace
}  // namespace fresco
