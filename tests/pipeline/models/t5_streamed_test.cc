// An encoder that reads its weights while it encodes gives what one gives that holds them, and holds less.
#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "pipeline/checkpoint/weights.h"
#include "pipeline/models/t5.h"

namespace fresco {
namespace {

constexpr char kT5[] = "models/demo/text_encoder_3";

struct Kind {
  std::string name;
  at::ScalarType type = at::kFloat;
  std::string precision;  // of the table; empty: none
};

class StreamedT5 : public ::testing::TestWithParam<Kind> {};

TEST_P(StreamedT5, GivesTheSameBits) {
  const c10::InferenceMode inference;
  const T5Config config = ReadT5Config(kT5).value();
  const WeightStore weights = WeightStore::Open(kT5, kTransformersStem).value();
  const Placement placement{at::kCPU, GetParam().type};
  const LayerTable layers = LayerTable::ForT5(GetParam().precision);
  const T5Encoder held = T5Encoder::Load(config, weights, placement, layers).value();
  const T5Encoder streamed = T5Encoder::Streamed(config, weights, placement, layers).value();
  const at::Tensor ids = at::tensor(std::vector<int64_t>{3, 9, 27, 81, 5, 1, 0, 0, 44, 2, 7, 1, 0, 0, 0, 0}, at::kLong);
  const at::Tensor texts = ids.view({2, 8});
  const at::Tensor expected = held.Encode(texts);
  EXPECT_TRUE(at::equal(streamed.Encode(texts), expected));
  EXPECT_TRUE(at::equal(streamed.Encode(texts), expected)) << "once more";
  EXPECT_EQ(streamed.weight_bytes(), held.weight_bytes());
  EXPECT_LT(streamed.streamed_bytes(), held.weight_bytes());
}

INSTANTIATE_TEST_SUITE_P(Kinds, StreamedT5,
                         ::testing::Values(Kind{"fp32", at::kFloat, ""}, Kind{"bf16", at::kBFloat16, ""},
                                           Kind{"fp8", at::kFloat, "fp8"}, Kind{"int8", at::kBFloat16, "int8"}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace fresco
