// What tensors say of a configuration, held to the configurations that diffusers wrote beside them.
#include "pipeline/models/mmdit_shape.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <string>

#include "tests/pipeline/checkpoint/single_file_maker.h"

namespace fresco {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class Checkpoints : public ::testing::TestWithParam<std::string> {};

TEST_P(Checkpoints, HaveTheConfigurationThatTheirTensorsSay) {
  const std::string dir = GetParam() + "/transformer";
  const WeightStore weights = WeightStore::Open(dir, kDiffusersStem).value();
  const MmditConfig expected = ReadMmditConfig(dir).value();
  const MmditConfig inferred = InferMmditConfig(weights).value();
  EXPECT_EQ(inferred.num_layers, expected.num_layers);
  EXPECT_EQ(inferred.num_heads, expected.num_heads);
  EXPECT_EQ(inferred.head_dim, expected.head_dim);
  EXPECT_EQ(inferred.joint_attention_dim, expected.joint_attention_dim);
  EXPECT_EQ(inferred.pooled_projection_dim, expected.pooled_projection_dim);
  EXPECT_EQ(inferred.pos_embed_max_size, expected.pos_embed_max_size);
  EXPECT_EQ(inferred.patch_size, expected.patch_size);
  EXPECT_EQ(inferred.in_channels, expected.in_channels);
  EXPECT_EQ(inferred.out_channels, expected.out_channels);
  EXPECT_EQ(inferred.dual_attention_layers, expected.dual_attention_layers);
  EXPECT_EQ(inferred.qk_norm, expected.qk_norm);
  EXPECT_EQ(inferred.sample_size, 128);
  EXPECT_TRUE(CheckMmditConfig(expected, "config.json", weights).ok());
}

INSTANTIATE_TEST_SUITE_P(MmditShape, Checkpoints,
                         ::testing::Values("models/demo", "tests/reference/checkpoints/medium",
                                           "tests/reference/checkpoints/large", "tests/reference/checkpoints/sd3",
                                           "tests/reference/checkpoints/no_t5"),
                         [](const auto& info) { return std::filesystem::path(info.param).filename().string(); });

WeightStore Store(const TempFolder& folder, const MadeTensors& tensors) {
  return WeightStore::OpenFile(folder.Write("weights", SafetensorsBytes(tensors))).value();
}

// The key of a quantised weight of optimum-quanto.
TEST(MmditShape, QuantisedLinearsHaveShapesToo) {
  MadeTensors tensors = DiffusersTensors("sd3", "transformer", "");
  for (const char* name : {"context_embedder.weight", "proj_out.weight"}) {
    auto node = tensors.extract(name);
    node.key() += "._data";
    tensors.insert(std::move(node));
  }
  const TempFolder folder;
  const MmditConfig inferred = InferMmditConfig(Store(folder, tensors)).value();
  EXPECT_EQ(inferred.joint_attention_dim, 64);
  EXPECT_EQ(inferred.out_channels, 16);
}

TEST(MmditShape, WhatSaysNothingIsNamed) {
  const std::pair<const char*, std::function<void(MadeTensors&)>> kDamages[] = {
      {"transformer_blocks.N",
       [](MadeTensors& t) {
         std::erase_if(t, [](const auto& i) { return i.first.starts_with("transformer_blocks"); });
       }},
      {"\"pos_embed.proj.weight\" is missing", [](MadeTensors& t) { t.erase("pos_embed.proj.weight"); }},
      {"\"pos_embed.proj.weight\" of shape [64, 64]",
       [](MadeTensors& t) {
         t["pos_embed.proj.weight"].shape = {64, 64};
       }},
      {"\"pos_embed.pos_embed\" of shape [1, 192, 48] is not that of a square",
       [](MadeTensors& t) {
         t["pos_embed.pos_embed"].shape = {1, 192, 48};
       }},
      {"\"context_embedder.weight\" is missing", [](MadeTensors& t) { t.erase("context_embedder.weight"); }},
      {"\"proj_out.weight\" of shape [2, 2048] does not divide by 4",
       [](MadeTensors& t) {
         t["proj_out.weight"].shape = {2, 2048};
       }},
      {"\"pos_embed.proj.weight\" of shape [32, 32, 2, 2] does not divide by 64",
       [](MadeTensors& t) {
         t["pos_embed.proj.weight"].shape = {32, 32, 2, 2};
       }},
  };
  for (const auto& [message, inflict] : kDamages) {
    MadeTensors tensors = DiffusersTensors("sd3", "transformer", "");
    inflict(tensors);
    const TempFolder folder;
    const absl::Status status = InferMmditConfig(Store(folder, tensors)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << message;
    EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr(folder.path() + "/weights: "), HasSubstr(message)));
  }
}

struct Change {
  const char* key;
  const char* tensor;
  std::function<void(MmditConfig&)> make;
};

// Also where every tensor that the configuration asks for is there, in its shape: a model with fewer blocks, or without
// norms, would be drawn in silence.
TEST(MmditShape, AnotherModelsConfigurationIsRefused) {
  const WeightStore weights = OpenReferencePart("medium", "transformer");
  const MmditConfig own = ReadMmditConfig("tests/reference/checkpoints/medium/transformer").value();
  const Change kChanges[] = {
      {"num_layers is 2", "transformer_blocks.2.", [](MmditConfig& c) { c.num_layers = 2; }},
      {"num_layers is 4", "transformer_blocks.2.", [](MmditConfig& c) { c.num_layers = 4; }},
      {"num_attention_heads times attention_head_dim is 72", "pos_embed.proj.weight\" of shape [48, 16, 2, 2] says 48",
       [](MmditConfig& c) { c.num_heads = 3; }},
      {"attention_head_dim is 16", "transformer_blocks.0.attn.norm_q.weight\" of shape [24] says 24",
       [](MmditConfig& c) { c.num_heads = 3, c.head_dim = 16; }},
      {"joint_attention_dim is 4096", "context_embedder.weight", [](MmditConfig& c) { c.joint_attention_dim = 4096; }},
      {"pooled_projection_dim is 2048", "time_text_embed.text_embedder.linear_1.weight",
       [](MmditConfig& c) { c.pooled_projection_dim = 2048; }},
      {"pos_embed_max_size is 192", "pos_embed.pos_embed", [](MmditConfig& c) { c.pos_embed_max_size = 192; }},
      {"patch_size is 4", "pos_embed.proj.weight", [](MmditConfig& c) { c.patch_size = 4; }},
      {"in_channels is 4", "pos_embed.proj.weight", [](MmditConfig& c) { c.in_channels = 4; }},
      {"out_channels is 4", "proj_out.weight", [](MmditConfig& c) { c.out_channels = 4; }},
      {"qk_norm leaves it out", "transformer_blocks.0.attn.norm_q.weight\" of shape [24] is there",
       [](MmditConfig& c) { c.qk_norm = false; }},
      {"dual_attention_layers leaves it out", "transformer_blocks.1.attn2.to_q.weight\" of shape [48, 48] is there",
       [](MmditConfig& c) { c.dual_attention_layers = {0}; }},
      {"dual_attention_layers asks for it", "transformer_blocks.2.attn2.to_q.weight\" is missing",
       [](MmditConfig& c) {
         c.dual_attention_layers = {0, 1, 2};
       }},
  };
  for (const Change& change : kChanges) {
    MmditConfig config = own;
    change.make(config);
    const absl::Status status = CheckMmditConfig(config, "base/config.json", weights);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << change.key;
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr("medium/transformer/diffusion_pytorch_model.safetensors: tensor \""),
                      HasSubstr(change.tensor), HasSubstr(std::string("base/config.json: ") + change.key)));
  }
}

}  // namespace
}  // namespace fresco
