// Where tokens of samples of different lengths lie, against a walk over them one by one.
#include "pipeline/models/packed_tokens.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <tuple>
#include <vector>

namespace fresco {
namespace {

using ::testing::ElementsAre;
using ::testing::FieldsAre;

std::vector<int32_t> Numbers(const at::Tensor& x) {
  EXPECT_EQ(x.scalar_type(), at::kInt);
  EXPECT_TRUE(x.is_contiguous());
  const int32_t* const data = x.const_data_ptr<int32_t>();
  return {data, data + x.numel()};
}

TEST(PackedTokens, LieSampleBySampleEachPictureBeforeItsText) {
  const std::vector<PackedTokens::Pictures> pictures = {{2, 6}, {1, 1}, {3, 4}};
  constexpr int32_t kText = 5;
  const PackedTokens packed(pictures, kText, at::kCPU);
  std::vector<int32_t> sample_of_row, joint_of_image, joint_of_text, image_starts, joint_starts;
  int32_t sample = 0, image = 0, joint = 0;
  for (const auto& [samples, tokens] : pictures) {
    for (int64_t i = 0; i < samples; ++i, ++sample) {
      image_starts.push_back(image);
      joint_starts.push_back(joint);
      for (int64_t token = 0; token < tokens; ++token, ++image) {
        sample_of_row.push_back(sample);
        joint_of_image.push_back(joint++);
      }
      for (int32_t token = 0; token < kText; ++token) joint_of_text.push_back(joint++);
    }
  }
  image_starts.push_back(image);
  joint_starts.push_back(joint);
  EXPECT_EQ(packed.samples(), sample);
  EXPECT_EQ(packed.image().tokens, image);
  EXPECT_EQ(packed.joint().tokens, joint);
  EXPECT_EQ(packed.image().longest, 6);
  EXPECT_EQ(packed.joint().longest, 11);
  EXPECT_EQ(Numbers(packed.rows().sample_of_row), sample_of_row);
  EXPECT_THAT(packed.rows().lengths, ElementsAre(6, 6, 1, 4, 4, 4));
  EXPECT_EQ(Numbers(packed.joint_of_image()), joint_of_image);
  EXPECT_EQ(Numbers(packed.joint_of_text()), joint_of_text);
  EXPECT_EQ(Numbers(packed.image().starts), image_starts);
  EXPECT_EQ(Numbers(packed.joint().starts), joint_starts);
}

TEST(PackedTokens, NeighboursOfOneLengthAreAGroup) {
  const PackedTokens packed({{1, 4}, {2, 4}, {1, 9}, {1, 4}}, 2, at::kCPU);
  EXPECT_THAT(packed.image().groups,
              ElementsAre(FieldsAre(3, 4, 0, 0), FieldsAre(1, 9, 3, 12), FieldsAre(1, 4, 4, 21)));
  EXPECT_THAT(packed.joint().groups,
              ElementsAre(FieldsAre(3, 6, 0, 0), FieldsAre(1, 11, 3, 18), FieldsAre(1, 6, 4, 29)));
  const at::Tensor x = at::arange(50).view({1, 25, 2});
  const at::Tensor nine = PackedSequences::OfGroup(x, packed.image().groups[1]);
  EXPECT_EQ(nine.sizes(), at::IntArrayRef({1, 9, 2}));
  EXPECT_EQ(nine[0][0][0].item<int64_t>(), 24);
  EXPECT_EQ(nine[0][8][1].item<int64_t>(), 41);
  EXPECT_TRUE(nine.is_alias_of(x));
}

}  // namespace
}  // namespace fresco
