// What the transformer is told of a prompt, beside what diffusers' encode_prompt gives (tests/reference).
#include "pipeline/diffusion/text_conditioning.h"

#include <c10/core/InferenceMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include "tests/support/reference.h"

namespace fresco {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kTextDim = 64;  // of every checkpoint in tests/reference
constexpr int64_t kPooledDim = 64;

// A part's folder: of the checkpoint, else of its base.
std::string Part(const ReferenceCase& reference, const std::string& name) {
  const std::string own = reference.checkpoint + "/" + name;
  return std::filesystem::exists(own) ? own : reference.base + "/" + name;
}

TextEncoders Encoders(const ReferenceCase& reference) {
  const Placement cpu;
  TextEncoders encoders{LoadClipTokenizer(Part(reference, "tokenizer")).value(),
                        LoadClipTokenizer(Part(reference, "tokenizer_2")).value(),
                        nullptr,
                        ClipTextModel::Load(Part(reference, "text_encoder"), cpu).value(),
                        ClipTextModel::Load(Part(reference, "text_encoder_2"), cpu).value(),
                        std::nullopt};
  if (reference.name != "no_t5") {
    encoders.t5_tokenizer = LoadT5Tokenizer(Part(reference, "tokenizer_3")).value();
    encoders.t5 = T5Encoder::Load(Part(reference, "text_encoder_3"), cpu).value();
  }
  return encoders;
}

void ExpectNear(const at::Tensor& ours, const ReferenceTensor<float>& theirs, const std::string& what) {
  ASSERT_EQ(ours.numel(), static_cast<int64_t>(theirs.values.size())) << what;
  const at::Tensor flat = ours.contiguous();
  const float* const values = flat.const_data_ptr<float>();
  for (size_t i = 0; i < theirs.values.size(); ++i)
    ASSERT_NEAR(values[i], theirs.values[i], 2e-4) << what << "[" << i << "]";
}

class TextOfCase : public ::testing::TestWithParam<const char*> {};

TEST_P(TextOfCase, IsDiffusers) {
  const c10::InferenceMode inference;
  const ReferenceCase reference = ReferenceCaseNamed(GetParam());
  const auto conditioner = TextConditioner::Create(Encoders(reference), kTextDim, kPooledDim).value();
  const ReferenceResult stages = ReferenceStages(reference.name, "fp32");
  const ImageSpec& spec = reference.spec;
  const auto text_or = [](const std::optional<std::string>& text, const std::string& first) {
    return text.value_or(first);
  };
  const PromptKey positive = {spec.prompt, text_or(spec.prompt_2, spec.prompt), text_or(spec.prompt_3, spec.prompt),
                              spec.max_sequence_length, spec.clip_skip};
  const PromptKey negative = {spec.negative_prompt, text_or(spec.negative_prompt_2, spec.negative_prompt),
                              text_or(spec.negative_prompt_3, spec.negative_prompt), spec.max_sequence_length, 0};
  for (const auto& [side, key] : {std::pair("positive", positive), std::pair("negative", negative)}) {
    const PromptEmbedding embedding = conditioner.Encode(key).value();
    EXPECT_EQ(embedding.text.sizes().vec(), (std::vector<int64_t>{1, 77 + spec.max_sequence_length, kTextDim}));
    const std::string name = std::string(side) + ".prompt_embeds";
    if (stages.Contains(name)) ExpectNear(embedding.text, stages.Floats(name), name);
    ExpectNear(embedding.pooled, stages.Floats(std::string(side) + ".pooled"), std::string(side) + " pooled");
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, TextOfCase,
                         ::testing::Values("medium", "large", "no_t5", "longer_than_77", "scripts", "special_tokens",
                                           "each_encoder_its_own", "clip_skip"));

TEST(TextConditioner, CountsTokensOfEachEncoder) {
  const c10::InferenceMode inference;
  const auto conditioner =
      TextConditioner::Create(Encoders(ReferenceCaseNamed("medium")), kTextDim, kPooledDim).value();
  std::string text;
  for (int i = 0; i < 100; ++i) text += "apple ";
  const PromptEmbedding embedding = conditioner.Encode({text, "apple", text, 16, 0}).value();
  EXPECT_EQ(embedding.clip_l.total, 102);
  EXPECT_EQ(embedding.clip_l.used, 77);
  EXPECT_EQ(embedding.clip_g.total, 3);
  EXPECT_FALSE(embedding.clip_g.truncated());
  EXPECT_EQ(embedding.t5.used, 16);
  EXPECT_TRUE(embedding.t5.truncated());
}

TEST(TextConditioner, EncodersMustFitTheTransformer) {
  const auto message = [&](int64_t text_dim, int64_t pooled_dim) {
    const auto made = TextConditioner::Create(Encoders(ReferenceCaseNamed("medium")), text_dim, pooled_dim);
    EXPECT_EQ(made.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(made.status().message());
  };
  EXPECT_THAT(message(kTextDim, 100), HasSubstr("pooled_projection_dim is 100"));
  EXPECT_THAT(message(50, kPooledDim), HasSubstr("joint_attention_dim of 50"));
  EXPECT_THAT(message(128, kPooledDim), HasSubstr("text_encoder_3 gives 64 features"));
}

}  // namespace
}  // namespace fresco
