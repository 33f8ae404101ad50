#include "pipeline/checkpoint/single_file_names.h"

#include <gtest/gtest.h>

#include <string>

#include "tests/pipeline/checkpoint/single_file_maker.h"

namespace fresco {
namespace {

struct Rows {
  LayerForm form;
  int part;
};

// As tests/reference/single_file_names.txt says it.
Rows RowsOf(const OriginalName& name) {
  if (name.rows.ends_with("/3")) return {LayerForm::kFused, name.rows.front() - '0'};
  if (name.rows == "1/2+0/2") return {LayerForm::kSwapped, 0};
  return {name.pointwise ? LayerForm::kPointwise : LayerForm::kSame, 0};
}

struct Case {
  const char* checkpoint;
  const char* component;
  int64_t blocks;
  const char* root;
};

class ToSingleFileTest : public ::testing::TestWithParam<Case> {};

// The table is what diffusers' own converters make of a file.
TEST_P(ToSingleFileTest, IsWhereDiffusersLooksForIt) {
  const auto& [checkpoint, component, blocks, root] = GetParam();
  const SingleFileLayout* const layout = SingleFileLayoutOf(component);
  ASSERT_NE(layout, nullptr);
  EXPECT_EQ(layout->root, root);
  for (const OriginalName& expected : OriginalNames(checkpoint, component)) {
    // Of CLIP-L the file has no projection that anybody reads (DiffusersLayoutOf).
    if (layout->identity_projection && expected.name == "text_projection.weight") continue;
    const auto name = ToSingleFile(*layout, blocks, expected.name);
    ASSERT_TRUE(name.has_value()) << expected.name;
    EXPECT_EQ(name->layer + name->rest, root + expected.original) << expected.name;
    const Rows rows = RowsOf(expected);
    EXPECT_EQ(name->part, rows.part) << expected.name;
    // A layer's form is its weight's; the table has one for each tensor. A tensor of its own name changes as little.
    const bool whole = name->form == LayerForm::kPointwise || name->form == LayerForm::kTensor;
    EXPECT_TRUE(name->form == rows.form || (whole && rows.form == LayerForm::kSame)) << expected.name;
  }
}

INSTANTIATE_TEST_SUITE_P(All, ToSingleFileTest,
                         ::testing::Values(Case{"medium", "transformer", 3, "model.diffusion_model."},
                                           Case{"large", "transformer", 2, "model.diffusion_model."},
                                           Case{"sd3", "transformer", 2, "model.diffusion_model."},
                                           Case{"medium", "vae", 4, "first_stage_model."},
                                           Case{"sd3", "vae", 4, "first_stage_model."},
                                           Case{"medium", "text_encoder", 0, "text_encoders.clip_l.transformer."},
                                           Case{"large", "text_encoder_2", 0, "text_encoders.clip_g.transformer."},
                                           Case{"medium", "text_encoder_3", 0, "text_encoders.t5xxl.transformer."}));

TEST(ToSingleFile, ForeignNamesHaveNone) {
  EXPECT_EQ(SingleFileLayoutOf("scheduler"), nullptr);
  EXPECT_EQ(DiffusersLayoutOf("scheduler"), nullptr);
  EXPECT_EQ(ToSingleFile(*DiffusersLayoutOf("text_encoder"), 0, "text_projection.weight")->layer,
            "text_encoder.text_projection");
  const SingleFileLayout& layout = *SingleFileLayoutOf("transformer");
  for (const char* name : {"", "transformer_blocks", "transformer_blocks.x.norm1.linear.weight",
                           "transformer_blocks.0.attn.to_w.weight", "pos_embed.pos_embed.more"}) {
    EXPECT_FALSE(ToSingleFile(layout, 1, name)) << name;
  }
}

}  // namespace
}  // namespace fresco
