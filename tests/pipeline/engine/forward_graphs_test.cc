// Forwards by graphs, with a graph of the CPU that does its work again: what is recorded, and what a replay reads and
// writes.
#include "pipeline/engine/forward_graphs.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "pipeline/base/clock.h"
#include "pipeline/base/scope_log.h"
#include "pipeline/checkpoint/weights.h"
#include "pipeline/engine/memory.h"
#include "pipeline/engine/memory_budget.h"
#include "pipeline/precision/kernel_choice.h"
#include "tests/pipeline/engine/fake_graphs.h"
#include "tests/pipeline/engine/small_transformer.h"

namespace fresco {
namespace {

class ForwardGraphsTest : public ::testing::Test {
 protected:
  struct Inputs {
    std::vector<at::Tensor> latents;
    at::Tensor text;
    Mmdit::Modulations modulations;
  };
  // Other numbers each time.
  Inputs Draw(const std::vector<std::vector<int64_t>>& sizes) {
    Inputs inputs;
    int64_t rows = 0;
    for (const std::vector<int64_t>& size : sizes) {
      inputs.latents.push_back(Random({size[0], 4, size[1], size[2]}));
      rows += size[0];
    }
    inputs.text = Random({rows, 5, 24});
    inputs.modulations = transformer_.Modulate(Random({rows, 8}), Random({rows}).abs() * 500);
    return inputs;
  }
  static int64_t Held() { return MemoryUseOf(at::kCPU).allocated_bytes; }
  at::Tensor Random(at::IntArrayRef shape) { return at::randn(shape, generator_, at::TensorOptions()); }

  std::unique_ptr<ForwardGraphs> Make(int64_t bytes = int64_t{1} << 40,
                                      std::shared_ptr<MemoryBudget> budget = nullptr) {
    ForwardGraphs::Options options;
    options.budget = std::move(budget);
    options.maker = fake_.Maker();
    options.limits = {.bytes = bytes, .uses_before = 1};
    options.warn = [this](const std::string& why) { warnings_.push_back(why); };
    return std::make_unique<ForwardGraphs>(transformer_, std::move(options));
  }

  // By graphs, against the model itself.
  void ExpectForward(ForwardGraphs* graphs, const Inputs& inputs) {
    const auto expected = transformer_.Forward(inputs.latents, inputs.text, inputs.modulations);
    const auto velocities = graphs->Forward(inputs.latents, inputs.text, inputs.modulations);
    ASSERT_EQ(velocities.size(), expected.size());
    for (size_t i = 0; i < expected.size(); ++i) EXPECT_TRUE(at::equal(velocities[i], expected[i])) << i;
  }

  const c10::InferenceMode inference_;
  at::Generator generator_ = at::make_generator<at::CPUGeneratorImpl>(3);
  const Mmdit transformer_ = Mmdit::Random(SmallTransformer(/*pos_embed_max_size=*/8), {at::kCPU, at::kFloat}).value();
  FakeGraphs fake_;
  const SystemClock clock_;
  std::vector<std::string> warnings_;
};

TEST_F(ForwardGraphsTest, EachReplayIsOfItsOwnInputs) {
  const auto graphs = Make();
  for (int i = 0; i < 4; ++i) ExpectForward(graphs.get(), Draw({{2, 8, 8}}));
  EXPECT_EQ(fake_.captures, 1);
  EXPECT_EQ(fake_.replays, 3);
}

TEST_F(ForwardGraphsTest, WhatAForwardHasGivenStaysAsItIs) {
  const auto graphs = Make();
  const Inputs first = Draw({{1, 8, 8}});
  std::vector<at::Tensor> kept;
  for (int i = 0; i < 2; ++i) kept = graphs->Forward(first.latents, first.text, first.modulations);
  const at::Tensor before = kept.front().clone();
  ExpectForward(graphs.get(), Draw({{1, 8, 8}}));
  EXPECT_TRUE(at::equal(kept.front(), before));
}

TEST_F(ForwardGraphsTest, EachShapeHasItsOwn) {
  const auto graphs = Make();
  const std::vector<std::vector<std::vector<int64_t>>> shapes = {{{1, 8, 8}},
                                                                 {{2, 8, 8}},
                                                                 {{1, 4, 16}},
                                                                 {{1, 8, 8}, {1, 4, 16}},
                                                                 {{1, 4, 16}, {1, 8, 8}},
                                                                 {{1, 4, 4}, {2, 8, 8}},  // of different lengths
                                                                 {{2, 4, 4}, {1, 8, 8}}};
  for (int i = 0; i < 3; ++i)
    for (const auto& shape : shapes) ExpectForward(graphs.get(), Draw(shape));
  EXPECT_EQ(fake_.captures, 7);
  EXPECT_EQ(fake_.replays, 14);
}

// A deterministic picture's steps are not those of a graph with kernels that were measured, nor the other way round.
TEST_F(ForwardGraphsTest, PinnedKernelsHaveTheirOwn) {
  const auto graphs = Make();
  const auto thrice = [&] {
    for (int i = 0; i < 3; ++i) ExpectForward(graphs.get(), Draw({{2, 6, 4}}));
  };
  thrice();
  EXPECT_EQ(fake_.captures, 1);
  {
    const PinnedKernels pinned(true);
    thrice();
  }
  EXPECT_EQ(fake_.captures, 2);
  thrice();
  EXPECT_EQ(fake_.captures, 2);
}

TEST_F(ForwardGraphsTest, WhereNoneCanBeMadeForwardsGoOnWithoutThem) {
  fake_.fails = true;
  const auto graphs = Make();
  for (int i = 0; i < 3; ++i) ExpectForward(graphs.get(), Draw({{1, 8, 8}}));
  EXPECT_EQ(fake_.captures, 1);
  EXPECT_THAT(warnings_, ::testing::ElementsAre(::testing::HasSubstr("capturing")));
}

TEST_F(ForwardGraphsTest, WhereMemoryRunsOutTheyAreRecordedLater) {
  const auto graphs = Make();
  fake_.on_capture = [] {
    throw c10::OutOfMemoryError(c10::SourceLocation{__func__, __FILE__, __LINE__}, "no memory");
  };
  for (int i = 0; i < 2; ++i) ExpectForward(graphs.get(), Draw({{1, 8, 8}}));
  EXPECT_EQ(graphs->bytes(), 0);
  fake_.on_capture = nullptr;
  for (int i = 0; i < 2; ++i) ExpectForward(graphs.get(), Draw({{1, 8, 8}}));
  EXPECT_EQ(fake_.captures, 2);
  EXPECT_EQ(fake_.replays, 1);
  EXPECT_TRUE(warnings_.empty());
}

TEST_F(ForwardGraphsTest, AShortageTakesThemAndTheyComeAgain) {
  const auto graphs = Make();
  for (int i = 0; i < 2; ++i) ExpectForward(graphs.get(), Draw({{1, 8, 8}}));
  EXPECT_GT(graphs->bytes(), 0);
  EXPECT_TRUE(graphs->Drop());
  EXPECT_EQ(graphs->bytes(), 0);
  for (int i = 0; i < 2; ++i) ExpectForward(graphs.get(), Draw({{1, 8, 8}}));
  EXPECT_EQ(fake_.captures, 2);
}

TEST_F(ForwardGraphsTest, WithinABudgetTheyGoWhenTheirRoomIsNeeded) {
  const auto budget = std::make_shared<MemoryBudget>(Held() + int64_t{100} * 1024 * 1024, &clock_);
  const auto graphs = Make(int64_t{1} << 40, budget);
  for (int i = 0; i < 2; ++i) ExpectForward(graphs.get(), Draw({{1, 8, 8}}));
  EXPECT_GT(graphs->bytes(), 0);
  {
    const int64_t rest = budget->bytes() - Held() - graphs->bytes();
    { const auto claim = budget->MakeRoom(rest - 4096, &Held); }
    EXPECT_EQ(budget->evictions(), 0);
    const auto claim = budget->MakeRoom(rest + 4096, &Held);
    EXPECT_TRUE(claim.fits());
  }
  EXPECT_EQ(budget->evictions(), 1);
  EXPECT_EQ(graphs->bytes(), 0);
  for (int i = 0; i < 2; ++i) ExpectForward(graphs.get(), Draw({{1, 8, 8}}));
  EXPECT_EQ(fake_.captures, 2);
}

// Else it would drive out itself where there is little: it keeps what the forward would take.
TEST_F(ForwardGraphsTest, WithinABudgetWhatIsRecordedClaimsNoRoomAgain) {
  const Inputs inputs = Draw({{2, 8, 8}});
  const auto alone = Make();
  for (int i = 0; i < 2; ++i) ExpectForward(alone.get(), inputs);
  const int64_t bytes = alone->bytes();
  alone->Drop();
  // For the forward and a half, beside the inputs that a graph of the CPU keeps as tensors.
  const auto budget = std::make_shared<MemoryBudget>(Held() + bytes * 3 / 2, &clock_);
  const auto graphs = Make(int64_t{1} << 40, budget);
  for (int i = 0; i < 5; ++i) ExpectForward(graphs.get(), inputs);
  EXPECT_EQ(fake_.captures, 2);
  EXPECT_EQ(fake_.replays, 1 + 4);
  EXPECT_EQ(budget->evictions(), 0);
  EXPECT_EQ(budget->overdrafts(), 0);
  ExpectForward(graphs.get(), Draw({{1, 4, 16}}));  // has none yet, and needs the room
  EXPECT_EQ(budget->evictions(), 1);
  EXPECT_EQ(budget->overdrafts(), 0);
}

TEST_F(ForwardGraphsTest, WithinABudgetThoseInUseStay) {
  const auto budget = std::make_shared<MemoryBudget>(Held() + int64_t{100} * 1024 * 1024, &clock_);
  const auto graphs = Make(int64_t{1} << 40, budget);
  for (int i = 0; i < 2; ++i) ExpectForward(graphs.get(), Draw({{1, 8, 8}}));
  fake_.on_replay = [&] { const auto claim = budget->MakeRoom(budget->bytes(), &Held); };
  ExpectForward(graphs.get(), Draw({{1, 8, 8}}));
  EXPECT_EQ(fake_.captures, 1);
  EXPECT_EQ(budget->evictions(), 0);
  EXPECT_EQ(budget->overdrafts(), 1);
}

TEST_F(ForwardGraphsTest, NoneIsMadeThatTakesMoreThanThereIs) {
  const auto graphs = Make(/*bytes=*/1000);
  for (int i = 0; i < 3; ++i) ExpectForward(graphs.get(), Draw({{1, 8, 8}}));
  EXPECT_EQ(fake_.captures, 0);
}

TEST_F(ForwardGraphsTest, AProfilerSeesTheForwardItself) {
  const auto graphs = Make();
  for (int i = 0; i < 2; ++i) ExpectForward(graphs.get(), Draw({{1, 8, 8}}));
  const int replays = fake_.replays;
  const SystemClock clock;
  ScopeLog log(&clock);
  log.Open();
  ExpectForward(graphs.get(), Draw({{1, 8, 8}}));
  EXPECT_EQ(fake_.replays, replays);
}

TEST_F(ForwardGraphsTest, CpusHaveNone) {
  EXPECT_EQ(ForwardGraphs::OnGpu(transformer_, 1 << 30, nullptr), nullptr);
}

TEST(ForwardGraphs, ReplaysCountWhatTheirLayersDo) {
  const c10::InferenceMode inference;
  const auto count = std::make_shared<SaturationCount>();
  const std::string path = "models/demo/transformer";
  const Mmdit transformer = Mmdit::Load(ReadMmditConfig(path).value(), WeightStore::Open(path, kDiffusersStem).value(),
                                        {at::kCPU, at::kFloat}, LayerTable::ForTransformer("fp8"), {nullptr, count})
                                .value();
  const MmditConfig& config = transformer.config();
  const std::vector<at::Tensor> latents = {at::zeros({1, config.in_channels, 8, 8})};
  const at::Tensor text = at::zeros({1, 5, config.joint_attention_dim});
  const Mmdit::Modulations modulations =
      transformer.Modulate(at::zeros({1, config.pooled_projection_dim}), at::tensor({500.0f}));
  transformer.Forward(latents, text, modulations);
  const int64_t of_one = count->Total().elements;
  ASSERT_GT(of_one, 0);

  ForwardGraphs::Options options;
  options.maker = std::make_unique<HollowMaker>();
  options.limits = {.bytes = int64_t{1} << 40, .uses_before = 0};
  options.saturation = count;
  ForwardGraphs graphs(transformer, std::move(options));
  for (int i = 0; i < 3; ++i) graphs.Forward(latents, text, modulations);
  // The one above, the maker's first, and three replays.
  EXPECT_EQ(count->Total().elements, 5 * of_one);
}

}  // namespace
}  // namespace fresco
