#include "pipeline/engine/denoiser.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/ones.h>
#include <ATen/record_function.h>
#include <c10/core/InferenceMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <iterator>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "pipeline/diffusion/sampling.h"
#include "pipeline/engine/prompts.h"
#include "tests/pipeline/engine/small_transformer.h"

namespace fresco {
namespace {

constexpr int kTextTokens = 4;
constexpr ScheduleConfig kSchedule = {1000, 3.0};

std::unique_ptr<DiffusionJob> Job(uint64_t id, double text_value = 1) {
  const auto text = std::make_shared<PromptEmbedding>();
  text->text = at::full({1, kTextTokens, 24}, text_value);
  text->pooled = at::ones({1, 8});
  ImageSpec spec;
  spec.width = spec.height = 64;
  spec.steps = 2;
  DiffusionState state;
  state.schedule = MakeSchedule(kSchedule, spec.steps);
  state.positive = text;
  state.latents = DrawNoise(id, 4, 8, 8);
  return std::make_unique<DiffusionJob>(id, spec, std::move(state));
}

class DenoiserTest : public ::testing::TestWithParam<double> {
 protected:
  const c10::InferenceMode inference_;
  const Mmdit transformer_ = Mmdit::Random(SmallTransformer(/*pos_embed_max_size=*/4), {at::kCPU, at::kFloat}).value();
};

class CorrectedDenoiserTest : public ::testing::Test {
 protected:
  // One step of each job; `corrected` tells which.
  std::vector<std::unique_ptr<DiffusionJob>> Step(const std::vector<bool>& corrected) {
    std::vector<std::unique_ptr<DiffusionJob>> jobs;
    std::vector<DiffusionJob*> batch;
    for (size_t i = 0; i < corrected.size(); ++i) {
      jobs.push_back(Job(i));
      jobs.back()->state().correct_noise = corrected[i];
      batch.push_back(jobs.back().get());
    }
    Denoiser denoiser(transformer_, {.corrector = corrector_});
    for (const absl::Status& status : denoiser.Step(batch)) EXPECT_TRUE(status.ok()) << status;
    return jobs;
  }

  const c10::InferenceMode inference_;
  const Mmdit transformer_ = Mmdit::Random(SmallTransformer(/*pos_embed_max_size=*/4), {at::kCPU, at::kFloat}).value();
  // The first step is at sigma 1.
  const std::shared_ptr<const NoiseCorrector> corrector_ = std::make_shared<NoiseCorrector>(
      SigmaBuckets{{1, 0.9F}}, NoiseCorrection{{{2, 1, 0.5F, 1}, {0, 0.25F, 0, -1}}, {{9, 9, 9, 9}, {9, 9, 9, 9}}},
      at::kCPU);
};

TEST_F(CorrectedDenoiserTest, EachChannelOfTheVelocityIsScaledAndMoved) {
  const auto plain = Step({false}), corrected = Step({true});
  const std::vector<std::pair<double, double>> kAffine = {{2, 0}, {1, 0.25}, {0.5, 0}, {1, -1}};
  for (int64_t channel = 0; channel < 4; ++channel) {
    const auto [scale, offset] = kAffine[static_cast<size_t>(channel)];
    EXPECT_TRUE(at::equal(corrected[0]->state().velocity.select(1, channel),
                          plain[0]->state().velocity.select(1, channel) * scale + offset))
        << channel;
  }
  EXPECT_FALSE(at::equal(corrected[0]->state().latents, plain[0]->state().latents));
}

TEST_F(CorrectedDenoiserTest, AnImageIsCorrectedOrNotWhateverItsBatch) {
  const auto together = Step({true, false, true}), other = Step({false, true, false});
  for (size_t i = 0; i < 3; ++i) EXPECT_FALSE(at::equal(together[i]->state().latents, other[i]->state().latents));
  EXPECT_TRUE(at::equal(together[0]->state().latents, Step({true})[0]->state().latents));
  EXPECT_TRUE(at::equal(other[0]->state().latents, Step({false})[0]->state().latents));
  EXPECT_TRUE(at::equal(together[2]->state().latents, Step({false, false, true})[2]->state().latents));
}

// Not a number, and a text so large that it becomes none on its way.
INSTANTIATE_TEST_SUITE_P(Texts, DenoiserTest,
                         ::testing::Values(std::numeric_limits<double>::quiet_NaN(),
                                           std::numeric_limits<double>::infinity()));

TEST_P(DenoiserTest, AVelocityThatIsNoNumberFailsItsOwnImageAlone) {
  Denoiser denoiser(transformer_);
  const auto first = Job(1), bad = Job(2, GetParam()), last = Job(3), alone = Job(3);
  const at::Tensor before = bad->state().latents;
  const std::vector<absl::Status> statuses = denoiser.Step({first.get(), bad.get(), last.get()});
  ASSERT_EQ(statuses.size(), 3u);
  EXPECT_TRUE(statuses[0].ok()) << statuses[0];
  EXPECT_EQ(statuses[1].code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(statuses[1].message()), ::testing::HasSubstr("step 1: the transformer's velocity is NaN"));
  EXPECT_TRUE(statuses[2].ok()) << statuses[2];
  EXPECT_TRUE(bad->state().failed);
  EXPECT_EQ(bad->step(), 0);
  EXPECT_TRUE(at::equal(bad->state().latents, before));
  EXPECT_TRUE(Denoiser(transformer_).Step({alone.get()}).front().ok());
  EXPECT_TRUE(at::equal(last->state().latents, alone->state().latents));
}

// Operations of libtorch that make the host wait for a device, or ask it for a value, whatever the device is.
class WaitingOperations {
 public:
  WaitingOperations() {
    handle_ = at::addThreadLocalCallback(at::RecordFunctionCallback(&Begin).scopes({at::RecordScope::FUNCTION}));
    Names().clear();
  }
  ~WaitingOperations() { at::removeCallback(handle_); }
  WaitingOperations(const WaitingOperations&) = delete;
  WaitingOperations& operator=(const WaitingOperations&) = delete;

  // All operations, and those that wait.
  static size_t all() { return Names().size(); }
  static std::vector<std::string> waiting() {
    static constexpr std::string_view kWaiting[] = {
        "aten::item",    "aten::_local_scalar_dense", "aten::is_nonzero", "aten::equal",
        "aten::nonzero", "aten::masked_select",       "aten::to_list",    "aten::unique"};
    std::vector<std::string> found;
    for (const std::string& name : Names())
      if (std::find(std::begin(kWaiting), std::end(kWaiting), name) != std::end(kWaiting)) found.push_back(name);
    return found;
  }

 private:
  static std::vector<std::string>& Names() {
    thread_local std::vector<std::string> names;
    return names;
  }
  static std::unique_ptr<at::ObserverContext> Begin(const at::RecordFunction& function) {
    Names().emplace_back(function.name());
    return nullptr;
  }

  at::CallbackHandle handle_;
};

class LookingLater : public ::testing::Test {
 protected:
  std::unique_ptr<DiffusionJob> Begun(uint64_t id, double text_value = 1) {
    std::unique_ptr<DiffusionJob> job = Job(id, text_value);
    later_.Begin(&job->state());
    return job;
  }

  const c10::InferenceMode inference_;
  const Mmdit transformer_ = Mmdit::Random(SmallTransformer(/*pos_embed_max_size=*/4), {at::kCPU, at::kFloat}).value();
  Denoiser later_ = Denoiser(transformer_, {.look_later = true});
};

TEST_F(LookingLater, AStepAsksTheDeviceForNoValue) {
  const auto first = Begun(1), second = Begun(2);
  ASSERT_TRUE(later_.Step({first.get()}).front().ok());
  const WaitingOperations operations;
  for (const absl::Status& status : later_.Step({first.get(), second.get()})) EXPECT_TRUE(status.ok()) << status;
  EXPECT_GT(operations.all(), 100u);
  EXPECT_THAT(operations.waiting(), ::testing::IsEmpty());
  static_cast<void>(first->state().latents.mean().item<float>());  // which would have been seen
  EXPECT_THAT(operations.waiting(), ::testing::Contains("aten::item"));
}

TEST_F(LookingLater, PicturesAreTheSame) {
  Denoiser at_once(transformer_);
  const auto now = Job(1), then = Begun(1);
  for (int step = 0; step < 2; ++step) {
    ASSERT_TRUE(at_once.Step({now.get()}).front().ok());
    ASSERT_TRUE(later_.Step({then.get()}).front().ok());
    EXPECT_TRUE(at::equal(now->state().latents, then->state().latents)) << step;
  }
  EXPECT_TRUE(Denoiser::Settle(*then).ok());
}

TEST_F(LookingLater, AVelocityThatIsNoNumberFailsItsOwnImageOneStepLater) {
  const auto good = Begun(1), bad = Begun(2, std::numeric_limits<double>::quiet_NaN());
  for (const absl::Status& status : later_.Step({good.get(), bad.get()})) EXPECT_TRUE(status.ok()) << status;
  const std::vector<absl::Status> statuses = later_.Step({good.get(), bad.get()});
  EXPECT_TRUE(statuses[0].ok()) << statuses[0];
  EXPECT_EQ(statuses[1].code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(statuses[1].message()), ::testing::HasSubstr("step 1: the transformer's velocity is NaN"));
  EXPECT_TRUE(bad->state().failed);
  EXPECT_TRUE(Denoiser::Settle(*good).ok());
}

TEST_F(LookingLater, ThatOfTheLastStepIsFoundWhenTheJobIsSettled) {
  const auto bad = Begun(1);
  ASSERT_TRUE(later_.Step({bad.get()}).front().ok());
  bad->state().latents = at::full_like(bad->state().latents, std::numeric_limits<double>::infinity());
  ASSERT_TRUE(later_.Step({bad.get()}).front().ok());
  ASSERT_TRUE(bad->done());
  const absl::Status settled = Denoiser::Settle(*bad);
  EXPECT_EQ(settled.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(settled.message()), ::testing::HasSubstr("step 2"));
}

// Modulations of all steps are there when a job begins, for as many jobs as the allowance is for.
class ModulationsAhead : public ::testing::TestWithParam<at::ScalarType> {
 protected:
  // As Job, guided or not, in the transformer's type.
  std::unique_ptr<DiffusionJob> Guided(uint64_t id, bool guided) const {
    std::unique_ptr<DiffusionJob> job = Job(id, static_cast<double>(id));
    ImageSpec spec = job->spec();
    spec.guidance_scale = guided ? 4.5F : 1;
    DiffusionState state = job->state();
    state.latents = state.latents.to(GetParam());
    const auto typed = [](const PromptEmbedding& text, double factor) {
      auto copy = std::make_shared<PromptEmbedding>(text);
      copy->text = (text.text * factor).to(GetParam());
      copy->pooled = (text.pooled * factor).to(GetParam());
      return copy;
    };
    if (guided) state.negative = typed(*state.positive, -0.5);
    state.positive = typed(*state.positive, 1);
    return std::make_unique<DiffusionJob>(id, spec, std::move(state));
  }

  // What becomes of a guided and an unguided image, together, in all their steps.
  std::vector<at::Tensor> Draw(Denoiser& denoiser) const {
    const auto first = Guided(1, true), second = Guided(2, false);
    for (DiffusionJob* job : {first.get(), second.get()}) denoiser.Begin(&job->state());
    while (!first->done())
      for (const absl::Status& status : denoiser.Step({first.get(), second.get()})) EXPECT_TRUE(status.ok()) << status;
    return {first->state().latents, second->state().latents};
  }

  const c10::InferenceMode inference_;
  const Mmdit transformer_ = Mmdit::Random(SmallTransformer(/*pos_embed_max_size=*/4), {at::kCPU, GetParam()}).value();
};

TEST_P(ModulationsAhead, PicturesAreTheSameBitForBit) {
  Denoiser step_by_step(transformer_);
  const std::vector<at::Tensor> expected = Draw(step_by_step);
  // For both images, for the guided one alone, and for none: 2 steps of 2 rows and of 1.
  for (const int64_t rows : {6, 4, 3, 0}) {
    Denoiser ahead(transformer_, {.modulations_ahead = ByteAllowance::Of(rows * transformer_.modulation_bytes())});
    const std::vector<at::Tensor> latents = Draw(ahead);
    for (size_t i = 0; i < latents.size(); ++i) EXPECT_TRUE(at::equal(latents[i], expected[i])) << rows << " " << i;
  }
}

TEST_P(ModulationsAhead, AJobHasThemAsLongAsThereIsRoom) {
  const auto allowance = ByteAllowance::Of(4 * transformer_.modulation_bytes());
  const Denoiser denoiser(transformer_, {.modulations_ahead = allowance});
  auto first = Guided(1, true);
  const auto second = Guided(2, false), alone = Guided(3, true);
  const auto has_them = [](const std::unique_ptr<DiffusionJob>& job) {
    return job->state().conditions->modulations.blocks.defined();
  };
  denoiser.Begin(&first->state());
  denoiser.Begin(&second->state());
  EXPECT_TRUE(has_them(first));
  EXPECT_EQ(
      first->state().conditions->modulations.blocks.nbytes() + first->state().conditions->modulations.norm_out.nbytes(),
      static_cast<size_t>(allowance->bytes()));
  EXPECT_FALSE(has_them(second));
  first.reset();
  denoiser.Begin(&second->state());
  EXPECT_TRUE(has_them(second));
  denoiser.Begin(&alone->state(), /*alone=*/true);
  EXPECT_FALSE(has_them(alone));
}

INSTANTIATE_TEST_SUITE_P(Types, ModulationsAhead, ::testing::Values(at::kFloat, at::kBFloat16),
                         [](const auto& info) { return std::string(c10::toString(info.param)); });

TEST(KeysOf, TextsOfAnImageThatMustBeAloneAre) {
  ModelInfo gpu, cpu;
  cpu.batch_invariant = true;
  ImageSpec plain, deterministic;
  deterministic.deterministic = true;
  deterministic.guidance_scale = plain.guidance_scale = 2;
  const auto alone = [&](const ModelInfo& info) {
    std::vector<bool> flags;
    for (const PromptKey& key : KeysOf(info, {&plain, &deterministic})) flags.push_back(key.alone);
    return flags;
  };
  EXPECT_THAT(alone(gpu), testing::ElementsAre(false, false, true, true));
  EXPECT_THAT(alone(cpu), testing::ElementsAre(false, false, false, false));
}

}  // namespace
}  // namespace fresco
