#include "pipeline/precision/layer_table.h"

#include <gtest/gtest.h>

#include <string>

namespace fresco {
namespace {

TEST(LayerTable, QuantisesWhatItsPageSays) {  // docs/PRECISION.md
  const LayerTable table = LayerTable::ForTransformer("fp8");
  for (const char* layer : {"attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "attn.add_q_proj",
                            "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out", "attn2.to_q", "attn2.to_out.0",
                            "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"}) {
    EXPECT_EQ(table.Of("transformer_blocks.17." + std::string(layer)), LinearScheme::kFp8) << layer;
  }
  for (const char* layer :
       {"transformer_blocks.0.norm1.linear", "transformer_blocks.0.norm1_context.linear", "norm_out.linear"}) {
    EXPECT_EQ(table.Of(layer), LinearScheme::kFp8WeightOnly) << layer;
  }
  for (const char* layer : {"context_embedder", "proj_out", "pos_embed.proj",
                            "time_text_embed.timestep_embedder.linear_1", "time_text_embed.text_embedder.linear_2"}) {
    EXPECT_EQ(table.Of(layer), LinearScheme::kHigh) << layer;
  }
}

TEST(LayerTable, LeavesTheDownProjectionsOfT5High) {
  const LayerTable table = LayerTable::ForT5("fp8");
  EXPECT_EQ(table.Of("encoder.block.3.layer.0.SelfAttention.q"), LinearScheme::kFp8);
  EXPECT_EQ(table.Of("encoder.block.3.layer.1.DenseReluDense.wi_0"), LinearScheme::kFp8);
  EXPECT_EQ(table.Of("encoder.block.3.layer.1.DenseReluDense.wo"), LinearScheme::kHigh);
}

TEST(LayerTable, PrecisionsWithoutQuantisationHaveNoRules) {
  for (const char* precision : {"fp32", "bf16", "fp16"}) {
    EXPECT_TRUE(LayerTable::ForTransformer(precision).rules().empty()) << precision;
    EXPECT_TRUE(LayerTable::ForT5(precision).rules().empty()) << precision;
  }
}

TEST(LayerTable, StoresModulationsInTheTypeOfEachPrecision) {
  EXPECT_EQ(LayerTable::ForTransformer("int8").Of("transformer_blocks.1.norm1.linear"), LinearScheme::kInt8WeightOnly);
  EXPECT_EQ(LayerTable::ForTransformer("fp8-weight-only").Of("transformer_blocks.1.ff.net.2"),
            LinearScheme::kFp8WeightOnly);
}

TEST(LayerTable, TheLastRuleThatMatchesWins) {
  LayerTable table = LayerTable::ForTransformer("fp8");
  table.Override({{"*.ff.net.2", LinearScheme::kHigh}, {"transformer_blocks.3.*", LinearScheme::kInt8}});
  EXPECT_EQ(table.Of("transformer_blocks.2.ff.net.2"), LinearScheme::kHigh);
  EXPECT_EQ(table.Of("transformer_blocks.3.ff.net.2"), LinearScheme::kInt8);
  EXPECT_EQ(table.Of("transformer_blocks.2.ff.net.0.proj"), LinearScheme::kFp8);
}

TEST(MatchesPattern, StarsStandForAnyCharacters) {
  EXPECT_TRUE(MatchesPattern("*", "anything"));
  EXPECT_TRUE(MatchesPattern("a*c*", "abcbc"));
  EXPECT_TRUE(MatchesPattern("a*bc", "abcbc"));
  EXPECT_TRUE(MatchesPattern("**", ""));
  EXPECT_FALSE(MatchesPattern("a*bd", "abcbc"));
  EXPECT_FALSE(MatchesPattern("a", "ab"));
  EXPECT_FALSE(MatchesPattern("", "a"));
  EXPECT_FALSE(MatchesPattern("blocks.1.*", "blocks.11.attn"));  // a dot is a dot
}

TEST(Scheme, NamesAreReadBack) {
  for (const LinearScheme scheme : {LinearScheme::kHigh, LinearScheme::kFp8, LinearScheme::kFp8WeightOnly,
                                    LinearScheme::kInt8, LinearScheme::kInt8WeightOnly}) {
    EXPECT_EQ(ParseScheme(SchemeName(scheme)), scheme);
  }
  EXPECT_EQ(ParseScheme("fp4"), std::nullopt);
  EXPECT_EQ(SchemeNames(), "high, fp8, fp8-weight-only, int8 or int8-weight-only");
}

}  // namespace
}  // namespace fresco
