// A model that does not fit its budget whole: components come when they are needed, pictures are the same, and nothing
// goes beyond the budget.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "pipeline/base/clock.h"
#include "pipeline/base/status.h"
#include "pipeline/engine/engine.h"
#include "pipeline/engine/load.h"
#include "pipeline/engine/memory_budget.h"
#include "pipeline/engine/memory_plan.h"
#include "tests/pipeline/engine/checkpoint_copy.h"

namespace fresco {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;

constexpr int kSide = 128;  // pixels: what is computed takes more than the components that can go
constexpr char kT5File[] = "text_encoder_3/model.safetensors";

LoadOptions Demo(const std::string& path = "models/demo") {
  LoadOptions options;
  options.name = "demo";
  options.path = path;
  options.precision = "fp32";
  options.threads = 2;
  return options;
}

ImageSpec Spec(const std::string& prompt) {
  ImageSpec spec;
  spec.prompt = prompt;
  spec.negative_prompt = "blurry";
  spec.width = spec.height = kSide;
  spec.steps = 1;
  spec.seed = 7;
  spec.max_sequence_length = 32;
  return spec;
}

absl::StatusOr<Image> Draw(Engine& engine, const std::string& prompt) {
  FRESCO_ASSIGN_OR_RETURN(const std::unique_ptr<ImageJob> job, engine.Prepare(Spec(prompt)));
  while (!job->done()) FRESCO_RETURN_IF_ERROR(engine.Step({job.get()}).front());
  return engine.Finish(*job);
}

EngineStats::Residency Component(const Engine& engine, const std::string& name) {
  for (const EngineStats::Residency& component : engine.stats().residency)
    if (component.component == name) return component;
  ADD_FAILURE() << "no component " << name;
  return {};
}

MemoryLoad LargeLoad() {
  MemoryLoad load;
  load.width = load.height = kSide;
  load.max_sequence_length = 32;
  return load;
}

class WithinBudget : public ::testing::Test {
 protected:
  // In which the transformer and the largest stage fit, and no other component beside them.
  static int64_t TightBytes() {
    const MemoryPlanner planner = MemoryPlanner::Open(Demo()).value();
    const MemoryPlan plan = planner.PlanWithin(0, LargeLoad());
    return plan.peak().total_bytes() + plan.peak().total_bytes() / 50;
  }
  LoadOptions Tight(const std::string& path = "models/demo") {
    LoadOptions options = Demo(path);
    options.memory = std::make_shared<MemoryBudget>(TightBytes(), &clock_);
    return options;
  }

  const SystemClock clock_;
};

TEST_F(WithinBudget, PicturesAreTheSameAndThePeakIsBelowIt) {
  const std::vector<std::string> prompts = {"a red apple", "a blue cube on a table", "a red apple"};
  std::vector<Image> expected;
  {
    const auto whole = LoadEngine(Demo()).value();
    for (const std::string& prompt : prompts) expected.push_back(Draw(*whole, prompt).value());
    EXPECT_TRUE(whole->stats().residency.empty());
    whole->TakePeakBytes();  // which is the process's
  }
  const LoadOptions options = Tight();
  const auto engine = LoadEngine(options).value();
  for (size_t i = 0; i < prompts.size(); ++i) {
    EXPECT_EQ(Draw(*engine, prompts[i]).value().rgb, expected[i].rgb) << prompts[i];
    EXPECT_LE(engine->TakePeakBytes(), options.memory->bytes());
  }
  EXPECT_EQ(options.memory->overdrafts(), 0);
  EXPECT_GT(options.memory->evictions(), 0);
}

TEST_F(WithinBudget, WhatTheCacheHasLoadsNoEncoder) {
  const auto engine = LoadEngine(Tight()).value();
  ASSERT_TRUE(Draw(*engine, "a red apple").ok());
  const EngineStats::Residency before = Component(*engine, "text_encoder_3");
  EXPECT_FALSE(before.there) << "the decoding needs its room";
  ASSERT_TRUE(Draw(*engine, "a red apple").ok());
  EXPECT_EQ(Component(*engine, "text_encoder_3").loads, before.loads);
  ASSERT_TRUE(Draw(*engine, "a green pear").ok());
  const EngineStats::Residency after = Component(*engine, "text_encoder_3");
  EXPECT_EQ(after.loads, before.loads + 1);
  EXPECT_EQ(after.loaded_bytes, after.loads * after.weight_bytes);
  EXPECT_GT(after.load_seconds, before.load_seconds);
}

TEST_F(WithinBudget, ManyTextsThatAreEncodedTogetherLoadAnEncoderOnce) {
  const auto engine = LoadEngine(Tight()).value();
  ASSERT_TRUE(Draw(*engine, "a red apple").ok());
  const int64_t before = Component(*engine, "text_encoder_3").loads;
  std::vector<ImageSpec> specs;
  std::vector<const ImageSpec*> pointers;
  for (int i = 0; i < 12; ++i) specs.push_back(Spec("a pear, number " + std::to_string(i)));
  for (const ImageSpec& spec : specs) pointers.push_back(&spec);
  for (const auto& job : engine->PrepareAll(pointers, TextCache::kUse)) EXPECT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(Component(*engine, "text_encoder_3").loads, before + 1);
}

TEST_F(WithinBudget, ARoomyOneMovesNothing) {
  LoadOptions options = Demo();
  options.memory = std::make_shared<MemoryBudget>(int64_t{1} << 30, &clock_);
  const auto engine = LoadEngine(options).value();
  ASSERT_TRUE(Draw(*engine, "a red apple").ok());
  for (const EngineStats::Residency& component : engine->stats().residency) {
    EXPECT_EQ(component.loads, 1) << component.component;
    EXPECT_TRUE(component.there) << component.component;
  }
  EXPECT_EQ(options.memory->evictions(), 0);
}

TEST_F(WithinBudget, WhatComesWhenNeededIsSaid) {
  const MemoryPlanner planner = MemoryPlanner::Open(Demo()).value();
  LoadOptions options = Demo();
  // One byte less than all of it needs at the default size.
  const int64_t budget = planner.Plan(planner.default_load()).peak().total_bytes() - 1;
  options.memory = std::make_shared<MemoryBudget>(budget, &clock_);
  const auto engine = LoadEngine(options).value();
  EXPECT_THAT(engine->info().notes,
              Contains(AllOf(HasSubstr("text_encoder_3 ("), HasSubstr("is loaded when needed: memory.budget"))));
  int64_t there = engine->info().components.front().weight_bytes;
  for (const EngineStats::Residency& component : engine->stats().residency)
    if (component.there) there += component.weight_bytes;
  EXPECT_EQ(engine->stats().weight_bytes, there);
}

TEST_F(WithinBudget, AFileThatIsGoneFailsTheRequestAlone) {
  const CheckpointCopy copy("models/demo");
  const auto engine = LoadEngine(Tight(copy.path())).value();
  ASSERT_TRUE(Draw(*engine, "a red apple").ok());
  const std::string file = copy.path() + "/" + kT5File;
  fs::rename(file, file + ".away");
  const absl::Status gone = Draw(*engine, "a green pear").status();
  EXPECT_EQ(gone.code(), absl::StatusCode::kUnavailable) << gone;
  EXPECT_THAT(std::string(gone.message()), HasSubstr(kT5File));
  EXPECT_TRUE(Draw(*engine, "a red apple").ok()) << "its text is in the cache";
  fs::rename(file + ".away", file);
  EXPECT_TRUE(Draw(*engine, "a green pear").ok());
}

TEST_F(WithinBudget, AFileThatIsAnotherIsNotTaken) {
  const CheckpointCopy copy("models/demo");
  const auto engine = LoadEngine(Tight(copy.path())).value();
  ASSERT_TRUE(Draw(*engine, "a red apple").ok());
  const std::string file = copy.path() + "/" + kT5File;
  fs::copy_file(file, file + ".new");
  fs::rename(file + ".new", file);
  const absl::Status changed = Draw(*engine, "a green pear").status();
  EXPECT_EQ(changed.code(), absl::StatusCode::kFailedPrecondition) << changed;
  EXPECT_THAT(std::string(changed.message()), HasSubstr("has changed since the model was loaded"));
}

TEST_F(WithinBudget, OneInWhichNothingFitsIsRefusedWithWhatWould) {
  LoadOptions options = Demo();
  options.memory = std::make_shared<MemoryBudget>(40 << 20, &clock_);
  const absl::Status refused = LoadEngine(options).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("more than the budget of 40 MiB"));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("What would fit: "));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("precision: fp8"));
}

// Decoded on a second thread while others' steps go on: the VAE stays until it is done, and nothing deadlocks.
TEST_F(WithinBudget, DecodesBesideSteps) {
  const LoadOptions options = Tight();
  const auto engine = LoadEngine(options).value();
  const Image expected = Draw(*engine, "a red apple").value();
  for (int round = 0; round < 3; ++round) {
    auto done = engine->Prepare(Spec("a red apple")).value();
    while (!done->done()) ASSERT_TRUE(engine->Step({done.get()}).front().ok());
    auto running = engine->Prepare(Spec("a pear, number " + std::to_string(round))).value();
    absl::StatusOr<Image> beside;
    std::thread decoder([&] { beside = engine->FinishBeside(*done); });
    while (!running->done()) EXPECT_TRUE(engine->Step({running.get()}).front().ok());
    decoder.join();
    ASSERT_TRUE(beside.ok()) << beside.status();
    EXPECT_EQ(beside->rgb, expected.rgb);
  }
}

// Two models of one device: one makes room for the other.
TEST_F(WithinBudget, IsSharedByTheModelsOfADevice) {
  const MemoryPlanner planner = MemoryPlanner::Open(Demo()).value();
  LoadOptions options = Demo();
  const int64_t transformer = planner.Plan(LargeLoad()).components.front().weight_bytes;
  options.memory = std::make_shared<MemoryBudget>(TightBytes() + transformer, &clock_);
  const auto first = LoadEngine(options).value();
  const auto second = LoadEngine(options).value();
  const std::vector<uint8_t> expected = Draw(*first, "a red apple").value().rgb;
  EXPECT_EQ(Draw(*second, "a red apple").value().rgb, expected);
  EXPECT_EQ(Draw(*first, "a blue cube").value().rgb, Draw(*second, "a blue cube").value().rgb);
  EXPECT_LE(first->TakePeakBytes(), options.memory->bytes());
  EXPECT_EQ(options.memory->overdrafts(), 0);
}

}  // namespace
}  // namespace fresco
