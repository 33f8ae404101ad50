// What a bad checkpoint makes the loaders say.
#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

#include "pipeline/models/autoencoder.h"
#include "pipeline/models/clip.h"
#include "pipeline/models/mmdit.h"
#include "pipeline/models/t5.h"
#include "tests/pipeline/checkpoint/file_maker.h"
#include "tests/support/reference.h"

namespace fresco {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using Json = nlohmann::json;

const Placement kFp32{at::kCPU, at::kFloat};

std::string ReadAll(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// A copy of a reference component, to be damaged.
class Load : public ::testing::Test {
 protected:
  const std::string& Copy(const std::string& component) {
    std::filesystem::copy(ReferencePath("checkpoints/" + component), folder_.path());
    for (const auto& entry : std::filesystem::directory_iterator(folder_.path())) {
      std::filesystem::permissions(entry.path(), std::filesystem::perms::owner_all);
    }
    return folder_.path();
  }

  // Sets keys of config.json.
  void Configure(const Json& changes) {
    Json config = Json::parse(ReadAll(folder_.path() + "/config.json"));
    config.update(changes);
    folder_.Write("config.json", config.dump());
  }

  // Rewrites the header of a weights file through `change`, and makes its length odd, so that all data are misaligned.
  template <typename Change>
  void Rewrite(const std::string& file, const Change& change) {
    const std::string bytes = ReadAll(folder_.path() + "/" + file);
    uint64_t length = 0;
    std::memcpy(&length, bytes.data(), sizeof(length));
    Json header = Json::parse(bytes.substr(sizeof(length), length));
    change(header);
    std::string text = header.dump();
    if (text.size() % 2 == 0) text += ' ';
    folder_.Write(file, SafetensorsBytes(text, std::string_view(bytes).substr(sizeof(length) + length)));
  }

  TempFolder folder_;
  const c10::InferenceMode inference_;
};

std::string Message(const absl::Status& status) {
  return std::string(status.message());
}

TEST_F(Load, MissingFolderAndWeights) {
  EXPECT_EQ(Mmdit::Load(folder_.path() + "/none", kFp32).status().code(), absl::StatusCode::kNotFound);
  Copy("medium/vae");
  std::filesystem::remove(folder_.path() + "/diffusion_pytorch_model.safetensors");
  const absl::Status status = Autoencoder::Load(folder_.path(), kFp32).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Message(status), HasSubstr("diffusion_pytorch_model.safetensors"));
}

TEST_F(Load, MissingTensorIsNamed) {
  Copy("medium/transformer");
  Configure({{"num_layers", 4}});
  const absl::Status status = Mmdit::Load(folder_.path(), kFp32).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(status),
              AllOf(HasSubstr(folder_.path()), HasSubstr("transformer_blocks."), HasSubstr("missing")));
}

TEST_F(Load, WrongShapeIsNamedWithBothShapes) {
  Copy("medium/transformer");
  Configure({{"pos_embed_max_size", 25}});
  const absl::Status status = Mmdit::Load(folder_.path(), kFp32).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(status), AllOf(HasSubstr("diffusion_pytorch_model.safetensors"), HasSubstr("pos_embed.pos_embed"),
                                     HasSubstr("[1, 576, 48]"), HasSubstr("[1, 625, 48]")));
}

TEST_F(Load, TruncatedFileIsSaidToBe) {
  Copy("medium/text_encoder");
  const std::string file = folder_.path() + "/model.safetensors";
  std::filesystem::resize_file(file, std::filesystem::file_size(file) - 1);
  const absl::Status status = ClipTextModel::Load(folder_.path(), kFp32).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(status), AllOf(HasSubstr(file), HasSubstr("truncated")));
}

TEST_F(Load, UnknownTypeIsUnimplemented) {
  Copy("medium/text_encoder");
  Rewrite("model.safetensors", [](Json& header) { header["text_projection.weight"]["dtype"] = "F3"; });
  const absl::Status status = ClipTextModel::Load(folder_.path(), kFp32).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(Message(status), AllOf(HasSubstr("text_projection.weight"), HasSubstr("F3")));
}

// Integers need a scale: taken as numbers they would draw noise.
TEST_F(Load, IntegerWeightsAreUnimplemented) {
  Copy("medium/text_encoder");
  Rewrite("model.safetensors", [](Json& header) { header["text_projection.weight"]["dtype"] = "I16"; });
  const absl::Status status = ClipTextModel::Load(folder_.path(), kFp32).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(Message(status), AllOf(HasSubstr("text_projection.weight"), HasSubstr("I16")));
}

// Only a linear's weight can have a scale; beside any other it is not left out in silence.
TEST_F(Load, AScaleBesideANormIsUnimplemented) {
  for (const std::string scale : {"weight_scale", "scale_weight", "weight._scale", "comfy_quant"}) {
    std::filesystem::remove_all(folder_.path());
    std::filesystem::create_directory(folder_.path());
    Copy("medium/transformer");
    Rewrite("diffusion_pytorch_model.safetensors", [&](Json& header) {
      header["transformer_blocks.0.attn.norm_q." + scale] = {
          {"dtype", "F32"}, {"shape", {0}}, {"data_offsets", {0, 0}}};
    });
    const absl::Status status = Mmdit::Load(folder_.path(), kFp32).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << scale;
    EXPECT_THAT(Message(status), AllOf(HasSubstr("norm_q.weight\""), HasSubstr("norm_q." + scale)));
  }
}

TEST_F(Load, MisalignedWeightsGiveTheSameResult) {
  Copy("medium/text_encoder");
  const at::Tensor ids = at::ones({1, 8}, at::kLong);
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const auto aligned = ClipTextModel::Load(ReferencePath("checkpoints/medium/text_encoder"), {at::kCPU, dtype});
    Rewrite("model.safetensors", [](Json&) {});
    const auto misaligned = ClipTextModel::Load(folder_.path(), {at::kCPU, dtype});
    ASSERT_TRUE(misaligned.ok()) << misaligned.status();
    EXPECT_TRUE(at::equal(aligned->Encode(ids, 0).pooled, misaligned->Encode(ids, 0).pooled));
  }
}

struct BadConfig {
  const char* component;
  Json changes;
  const char* key;
};

TEST_F(Load, BadConfigurationsNameTheKey) {
  const BadConfig kBad[] = {
      {"medium/transformer", {{"qk_norm", "layer_norm"}}, "qk_norm"},
      {"medium/transformer", {{"num_layers", 0}}, "num_layers"},
      {"medium/transformer", {{"num_layers", "3"}}, "num_layers"},
      {"medium/transformer", {{"num_attention_heads", 1 << 30}}, "num_attention_heads"},
      {"medium/transformer", {{"dual_attention_layers", {0, 7}}}, "dual_attention_layers"},
      {"medium/transformer", {{"caption_projection_dim", 64}}, "caption_projection_dim"},
      {"medium/text_encoder", {{"hidden_act", "relu"}}, "hidden_act"},
      {"medium/text_encoder", {{"num_attention_heads", 7}}, "num_attention_heads"},
      {"medium/text_encoder_3", {{"feed_forward_proj", "relu"}}, "feed_forward_proj"},
      {"medium/vae", {{"norm_num_groups", 7}}, "norm_num_groups"},
      {"medium/vae", {{"block_out_channels", Json::array()}}, "block_out_channels"},
      {"medium/vae", {{"act_fn", "relu"}}, "act_fn"},
      {"medium/vae", {{"scaling_factor", 0}}, "scaling_factor"},
      {"medium/vae", {{"up_block_types", {"AttnUpDecoderBlock2D"}}}, "up_block_types"},
  };
  for (const BadConfig& bad : kBad) {
    std::filesystem::remove_all(folder_.path());
    Copy(bad.component);
    Configure(bad.changes);
    const std::string component = bad.component;
    absl::Status status = component == "medium/transformer"      ? Mmdit::Load(folder_.path(), kFp32).status()
                          : component == "medium/vae"            ? Autoencoder::Load(folder_.path(), kFp32).status()
                          : component == "medium/text_encoder_3" ? T5Encoder::Load(folder_.path(), kFp32).status()
                                                                 : ClipTextModel::Load(folder_.path(), kFp32).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bad.changes;
    EXPECT_THAT(Message(status), AllOf(HasSubstr("config.json"), HasSubstr(bad.key)));
  }
}

TEST_F(Load, AnImageBeyondThePositionTableThrows) {
  const Mmdit model = Mmdit::Load(ReferencePath("checkpoints/medium/transformer"), kFp32).value();
  const MmditConfig& config = model.config();
  const int64_t side = (config.pos_embed_max_size + 1) * config.patch_size;
  EXPECT_THROW(model.Forward(at::zeros({1, config.in_channels, 2, side}), at::zeros({1, 4, config.joint_attention_dim}),
                             at::zeros({1, config.pooled_projection_dim}), at::zeros({1})),
               c10::Error);
}

}  // namespace
}  // namespace fresco
