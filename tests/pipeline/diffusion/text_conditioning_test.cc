// What the transformer is told of a prompt, beside what diffusers' encode_prompt gives (tests/reference).
#include "pipeline/diffusion/text_conditioning.h"

#include <ATen/ops/equal.h>
#include <c10/core/InferenceMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <ostream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "pipeline/base/strings.h"
#include "pipeline/diffusion/prompt_encoder.h"
#include "tests/support/reference.h"
#include "tests/support/reference_tensor.h"

namespace fresco {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kTextDim = 64;  // of every checkpoint in tests/reference
constexpr int64_t kPooledDim = 64;
constexpr int64_t kClipTokens = 77;
// Only the order of sums differs: three fp32 units (2^-21 for values of 4 to 8) were the most found, 20 are allowed.
constexpr double kLargestDifference = 1e-5;

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

void ExpectNear(const at::Tensor& ours, const at::Tensor& theirs, const std::string& what) {
  ASSERT_EQ(ours.sizes(), theirs.sizes()) << what;
  EXPECT_LE(LargestDifference(ours, theirs), kLargestDifference) << what;
}

// Whether any of `text` [1, S, J] is kept to compare it with: all of it, or each encoder's share.
bool CompareText(const at::Tensor& text, const ReferenceResult& stages, const std::string& side) {
  if (stages.Contains(side + ".prompt_embeds")) {
    ExpectNear(text[0], TensorOf(stages, side + ".prompt_embeds"), side + ".prompt_embeds");
    return true;
  }
  if (!stages.Contains(side + ".clip_l.hidden")) return false;
  const at::Tensor clip_l = TensorOf(stages, side + ".clip_l.hidden");
  const at::Tensor clip_g = TensorOf(stages, side + ".clip_g.hidden");
  const at::Tensor t5 = TensorOf(stages, side + ".t5.hidden");
  const at::Tensor clip = text[0].narrow(0, 0, kClipTokens);
  ExpectNear(clip.narrow(1, 0, clip_l.size(1)), clip_l, side + ".clip_l.hidden");
  ExpectNear(clip.narrow(1, clip_l.size(1), clip_g.size(1)), clip_g, side + ".clip_g.hidden");
  ExpectNear(text[0].narrow(0, kClipTokens, t5.size(0)), t5, side + ".t5.hidden");
  return true;
}

struct Param {
  const char* name;  // of the case
  // Of positive and negative, the sequence embeddings that are kept (tests/reference/cases.py). Token ids are kept of
  // all, exact: where they are equal, a sequence differs by what its encoder's own tests would show.
  int texts;
};

void PrintTo(const Param& param, std::ostream* out) {
  *out << param.name;
}

class TextOfCase : public ::testing::TestWithParam<Param> {};

TEST_P(TextOfCase, IsDiffusers) {
  const c10::InferenceMode inference;
  const ReferenceCase reference = ReferenceCaseNamed(GetParam().name);
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
  int texts = 0, ids = 0;
  for (const auto& [side, key] : {std::pair<std::string, PromptKey>("positive", positive), {"negative", negative}}) {
    const auto compare_ids = [&, &side = side](std::string_view stage, const at::Tensor& value) {
      if (!stage.ends_with(".ids")) return;
      const std::string name = StrCat(side, ".", stage);
      EXPECT_TRUE(at::equal(value[0], TensorOf(stages, name))) << name;
      ++ids;
    };
    const PromptEmbedding embedding = conditioner.Encode(key, compare_ids).value();
    EXPECT_EQ(embedding.text.sizes().vec(),
              (std::vector<int64_t>{1, kClipTokens + spec.max_sequence_length, kTextDim}));
    if (CompareText(embedding.text, stages, side)) ++texts;
    ExpectNear(embedding.pooled[0], TensorOf(stages, side + ".pooled"), side + ".pooled");
  }
  EXPECT_EQ(texts, GetParam().texts);
  EXPECT_EQ(ids, 2 * (conditioner.has_t5() ? 3 : 2));
}

INSTANTIATE_TEST_SUITE_P(Cases, TextOfCase,
                         ::testing::Values(Param{"medium", 2}, Param{"large", 1}, Param{"no_t5", 1},
                                           Param{"longer_than_77", 1}, Param{"scripts", 1}, Param{"special_tokens", 0},
                                           Param{"each_encoder_its_own", 0}, Param{"clip_skip", 1}),
                         [](const auto& info) { return std::string(info.param.name); });

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

// Texts of two lengths and clip_skips, so that forwards are shared and none has room for all.
TEST(TextConditioner, AnEmbeddingDoesNotDependOnWhatIsEncodedWithIt) {
  const c10::InferenceMode inference;
  const auto conditioner =
      TextConditioner::Create(Encoders(ReferenceCaseNamed("medium")), kTextDim, kPooledDim).value();
  std::vector<PromptKey> keys;
  for (int i = 0; i < 20; ++i) {
    std::string text;
    for (int word = 0; word <= i; ++word) text += word % 2 == 0 ? "a castle " : "on the hill ";
    keys.push_back({text, text + "!", "", i % 3 == 0 ? 77 : 16, i % 4 == 0 ? 1 : 0});
    keys.back().t5 = text;
  }
  int clip_forwards = 0, t5_forwards = 0;
  const auto together = conditioner.EncodeAll(keys, [&](std::string_view stage, const at::Tensor&) {
    clip_forwards += stage == "clip_g.hidden" ? 1 : 0;
    t5_forwards += stage == "t5.hidden" ? 1 : 0;
  });
  EXPECT_EQ(clip_forwards, 3);  // 5 texts, and 15
  EXPECT_EQ(t5_forwards, 3);    // 7 texts, and 13
  for (size_t i = 0; i < keys.size(); ++i) {
    const PromptEmbedding alone = conditioner.Encode(keys[i]).value();
    ASSERT_TRUE(together[i].ok()) << together[i].status();
    EXPECT_TRUE(at::equal(together[i]->text, alone.text)) << i;
    EXPECT_TRUE(at::equal(together[i]->pooled, alone.pooled)) << i;
    EXPECT_EQ(together[i]->t5.total, alone.t5.total) << i;
    EXPECT_EQ(together[i]->clip_g.total, alone.clip_g.total) << i;
  }
}

TEST(TextConditioner, ATextThatMustBeAloneSharesNeitherForwardNorEntry) {
  const c10::InferenceMode inference;
  const auto conditioner =
      TextConditioner::Create(Encoders(ReferenceCaseNamed("medium")), kTextDim, kPooledDim).value();
  PromptKey a = {"a", "a", "a", 16, 0}, b = {"b", "b", "b", 16, 0}, alone = a;
  alone.alone = true;
  std::vector<int64_t> texts;  // of each forward
  conditioner.EncodeAll({a, alone, b}, [&](std::string_view stage, const at::Tensor& value) {
    if (stage == "t5.hidden" || stage == "clip_l.hidden") texts.push_back(value.size(0));
  });
  EXPECT_THAT(texts, testing::UnorderedElementsAre(1, 2, 1, 2));
  PromptEncoder prompts(&conditioner, 1 << 20);
  EXPECT_TRUE(prompts.Embed({a, b}).front().ok());
  EXPECT_THAT(prompts.FindUncached({a, alone}), testing::ElementsAre(false, true));
}

TEST(TextConditioner, ATextThatIsNoneFailsAlone) {
  const c10::InferenceMode inference;
  const auto conditioner =
      TextConditioner::Create(Encoders(ReferenceCaseNamed("medium")), kTextDim, kPooledDim).value();
  const std::vector<PromptKey> keys = {{"a", "a", "a", 16, 0}, {"b", "b", "\xff", 16, 0}};
  const auto together = conditioner.EncodeAll(keys);
  EXPECT_EQ(together[1].status().code(), absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE(together[0].ok());
  EXPECT_TRUE(at::equal(together[0]->text, conditioner.Encode(keys[0])->text));
  EXPECT_EQ(conditioner.EncodeAll({&keys[1], 1}).front().status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(PromptEncoder, EncodesEachTextOnceAndKeepsIt) {
  const c10::InferenceMode inference;
  const auto conditioner =
      TextConditioner::Create(Encoders(ReferenceCaseNamed("medium")), kTextDim, kPooledDim).value();
  PromptEncoder prompts(&conditioner, 1 << 20);
  const PromptKey a = {"a", "a", "a", 16, 0}, b = {"b", "b", "b", 16, 0}, bad = {"\xff", "", "", 16, 0};
  EXPECT_THAT(prompts.FindUncached({a, b, a}), testing::ElementsAre(true, true, false));
  const auto first = prompts.Embed({a, b, a, bad});
  EXPECT_EQ(*first[0], *first[2]);  // the same, not an equal one
  EXPECT_TRUE(at::equal((*first[1])->text, conditioner.Encode(b)->text));
  EXPECT_FALSE(first[3].ok());
  EXPECT_EQ(prompts.counts().misses, 3);
  EXPECT_EQ(prompts.counts().hits, 1);
  EXPECT_EQ(prompts.counts().bytes, (*first[0])->bytes() + (*first[1])->bytes() + 2 * 6);
  EXPECT_THAT(prompts.FindUncached({a, b, bad}), testing::ElementsAre(false, false, true));
  EXPECT_EQ(*prompts.Embed({b})[0], *first[1]);
  EXPECT_EQ(prompts.counts().hits, 2);
  // Past the cache.
  const PromptKey c = {"c", "c", "c", 16, 0};
  EXPECT_TRUE(prompts.EmbedUncached({c, a})[0].ok());
  EXPECT_THAT(prompts.FindUncached({c}), testing::ElementsAre(true));
  EXPECT_EQ(prompts.counts().misses, 3);
  EXPECT_EQ(prompts.counts().hits, 2);
}

TEST(PromptEncoder, WithoutACacheEqualTextsAreStillEncodedOnce) {
  const c10::InferenceMode inference;
  const auto conditioner =
      TextConditioner::Create(Encoders(ReferenceCaseNamed("medium")), kTextDim, kPooledDim).value();
  PromptEncoder prompts(&conditioner, 0);
  const PromptKey a = {"a", "a", "a", 16, 0};
  const auto together = prompts.Embed({a, a});
  EXPECT_EQ(*together[0], *together[1]);
  EXPECT_EQ(prompts.counts().misses, 1);
  EXPECT_THAT(prompts.FindUncached({a}), testing::ElementsAre(true));
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
