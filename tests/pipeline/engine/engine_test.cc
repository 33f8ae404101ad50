// What an engine promises to whoever schedules images (pipeline/engine/engine.h), on small random checkpoints.
#include "pipeline/engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "pipeline/engine/load.h"
#include "tests/pipeline/engine/checkpoint_copy.h"

namespace fresco {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kMedium[] = "tests/reference/checkpoints/medium";
constexpr char kNoT5[] = "tests/reference/checkpoints/no_t5";

absl::StatusOr<std::unique_ptr<Engine>> Load(const std::string& path, const std::string& precision = "fp32") {
  LoadOptions options;
  options.name = "tested";
  options.path = path;
  options.precision = precision;
  options.threads = 1;
  return LoadEngine(options);
}

ImageSpec Spec() {
  ImageSpec spec;
  spec.prompt = "a red apple";
  spec.negative_prompt = "a robot";
  spec.width = 48;
  spec.height = 32;
  spec.steps = 3;
  spec.guidance_scale = 4;
  spec.seed = 3;
  spec.max_sequence_length = 16;
  return spec;
}

class EngineTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { engine_ = Load(kMedium).value().release(); }
  static void TearDownTestSuite() { delete engine_; }

  static std::unique_ptr<ImageJob> Prepare(const ImageSpec& spec) { return engine_->Prepare(spec).value(); }
  static void StepAll(const std::vector<ImageJob*>& jobs) {
    for (const absl::Status& status : engine_->Step(jobs)) ASSERT_TRUE(status.ok()) << status;
  }
  static Image Draw(const ImageSpec& spec) {
    const auto job = Prepare(spec);
    while (!job->done()) StepAll({job.get()});
    return engine_->Finish(*job).value();
  }

  static Engine* engine_;
};
Engine* EngineTest::engine_ = nullptr;

TEST_F(EngineTest, InfoSaysWhatTheModelIsAndTakes) {
  const ModelInfo& info = engine_->info();
  EXPECT_EQ(info.name, "tested");
  EXPECT_EQ(info.architecture, "mmdit 3x48");
  EXPECT_EQ(info.device, "cpu");
  EXPECT_EQ(info.precision, "fp32");
  EXPECT_EQ(info.size_multiple, 16);
  EXPECT_EQ(info.max_size, 24 * 16);
  EXPECT_EQ(info.default_width, 128);  // sample_size 16 latents of 8 pixels
  EXPECT_EQ(info.max_sequence_length_limit, 512);
  std::vector<std::string> names;
  for (const auto& component : info.components) {
    names.push_back(component.name);
    EXPECT_EQ(component.precision, "fp32");
    EXPECT_GT(component.weight_bytes, 0) << component.name;
  }
  EXPECT_THAT(names, ElementsAre("transformer", "text_encoder", "text_encoder_2", "text_encoder_3", "vae"));
}

TEST_F(EngineTest, DigestFollowsTheWeightsAlone) {
  const CheckpointCopy same(kMedium), other(kMedium);
  other.EditTensor("vae/diffusion_pytorch_model.safetensors", "decoder.conv_in.bias",
                   [](char* data, size_t) { data[0] ^= 1; });
  EXPECT_THAT(engine_->info().weights_digest, ::testing::MatchesRegex("sha256:[0-9a-f]{64}"));
  EXPECT_EQ(Load(same.path()).value()->info().weights_digest, engine_->info().weights_digest);
  EXPECT_EQ(Load(same.path(), "bf16").value()->info().weights_digest, engine_->info().weights_digest);
  EXPECT_NE(Load(other.path()).value()->info().weights_digest, engine_->info().weights_digest);
}

TEST_F(EngineTest, AStepIsCountedAndTheLastOneEndsTheJob) {
  const auto job = Prepare(Spec());
  EXPECT_EQ(job->spec(), Spec());
  for (int step = 0; step < 3; ++step) {
    EXPECT_EQ(job->step(), step);
    EXPECT_FALSE(job->done());
    StepAll({job.get()});
  }
  EXPECT_TRUE(job->done());
  const Image image = engine_->Finish(*job).value();
  EXPECT_EQ(image.width, 48);
  EXPECT_EQ(image.height, 32);
  EXPECT_EQ(image.rgb.size(), 48u * 32 * 3);
}

TEST_F(EngineTest, StepOfNothingIsNothing) {
  EXPECT_TRUE(engine_->Step({}).empty());
}

TEST_F(EngineTest, JobsCanDieInAnyOrderAtAnyStep) {
  const Image alone = Draw(Spec());
  auto kept = Prepare(Spec());
  auto cancelled = Prepare(Spec());
  StepAll({cancelled.get(), kept.get()});
  cancelled.reset();
  StepAll({kept.get()});
  StepAll({kept.get()});
  EXPECT_EQ(engine_->Finish(*kept).value().rgb, alone.rgb);
}

TEST_F(EngineTest, BatchKeyIsTheTextsLengthAndNothingElse) {
  const std::string key = engine_->BatchKey(Spec());
  ImageSpec same = Spec();
  same.prompt = "other";
  same.prompt_2 = "yet another";
  same.steps = 50;
  same.guidance_scale = 1;
  same.seed = 99;
  same.clip_skip = 1;
  same.width += 16;
  same.height += 32;
  EXPECT_EQ(engine_->BatchKey(same), key);
  ImageSpec other = Spec();
  other.max_sequence_length += 16;
  EXPECT_NE(engine_->BatchKey(other), key);
}

TEST_F(EngineTest, PicturesOfOtherShapesAndAsManyTokensAreDrawnTogether) {
  std::vector<ImageSpec> specs(4, Spec());
  std::swap(specs[1].width, specs[1].height);
  specs[1].guidance_scale = 1;
  specs[2].width = 96, specs[2].height = 16;
  specs[2].seed = 5;
  std::vector<std::unique_ptr<ImageJob>> jobs;
  std::vector<ImageJob*> batch;
  for (const ImageSpec& spec : specs) {
    jobs.push_back(Prepare(spec));
    batch.push_back(jobs.back().get());
  }
  while (!jobs.front()->done()) StepAll(batch);
  for (size_t i = 0; i < specs.size(); ++i) {
    const Image together = engine_->Finish(*jobs[i]).value(), alone = Draw(specs[i]);
    EXPECT_EQ(together.width, specs[i].width);
    EXPECT_EQ(together.rgb, alone.rgb) << i;
  }
}

TEST_F(EngineTest, AJobThatWasParkedGoesOnAsIfNothingHadHappened) {
  const Image alone = Draw(Spec());
  ImageSpec other = Spec();
  other.seed = 4;
  other.prompt = "a green robot";
  auto parked = Prepare(Spec());
  auto passing = Prepare(other);
  StepAll({parked.get()});
  ASSERT_TRUE(engine_->Park(*parked).ok());
  while (!passing->done()) StepAll({passing.get()});
  ASSERT_TRUE(engine_->Resume(*parked).ok());
  EXPECT_EQ(parked->step(), 1);
  StepAll({parked.get()});
  StepAll({parked.get()});
  EXPECT_EQ(engine_->Finish(*parked).value().rgb, alone.rgb);
}

// Both engines have drawn, so that a job's number on one is known on the other.
TEST_F(EngineTest, AJobMovesToAnotherReplica) {
  const auto replica = Load(kMedium).value();
  ImageSpec other = Spec();
  other.prompt = "a green robot";
  const Image alone = Draw(Spec());
  for (int steps_there = 1; steps_there < Spec().steps; ++steps_there) {
    auto job = replica->Prepare(Spec()).value();
    auto passing = Prepare(other);
    for (int step = 0; step < steps_there; ++step) ASSERT_TRUE(replica->Step({job.get()}).front().ok());
    StepAll({passing.get()});
    ASSERT_TRUE(replica->Park(*job).ok());
    ASSERT_TRUE(engine_->Resume(*job).ok());
    while (!job->done()) StepAll({job.get()});
    EXPECT_EQ(engine_->Finish(*job).value().rgb, alone.rgb) << "after " << steps_there;
  }
}

// As when the device is lost after any of its steps.
TEST_F(EngineTest, ASnapshotGoesOnElsewhereAndTheJobItselfHere) {
  const auto replica = Load(kMedium).value();
  const Image alone = Draw(Spec());
  auto job = replica->Prepare(Spec()).value();
  std::vector<std::unique_ptr<ImageJob>> snapshots;
  while (!job->done()) {
    snapshots.push_back(replica->Snapshot(*job).value());
    ASSERT_TRUE(replica->Step({job.get()}).front().ok());
  }
  EXPECT_EQ(replica->Finish(*job).value().rgb, alone.rgb);
  job.reset();
  for (int step = 0; step < Spec().steps; ++step) {
    ImageJob* const snapshot = snapshots[step].get();
    EXPECT_EQ(snapshot->step(), step);
    EXPECT_EQ(snapshot->spec(), Spec());
    ASSERT_TRUE(engine_->Resume(*snapshot).ok());
    while (!snapshot->done()) StepAll({snapshot});
    EXPECT_EQ(engine_->Finish(*snapshot).value().rgb, alone.rgb) << "after " << step;
  }
}

TEST_F(EngineTest, TheDevicesMemoryIsKnown) {
  const DeviceMemory memory = engine_->MemoryOfDevice();
  EXPECT_GT(memory.free_bytes, 0);
  EXPECT_GE(memory.total_bytes, memory.free_bytes);
  EXPECT_GT(memory.total_bytes, engine_->stats().weight_bytes);
}

TEST_F(EngineTest, LoadIsOfTheTensorsThatAJobHas) {
  // 48 x 32 pixels are 3 x 2 patches of 16; 77 CLIP tokens and 16 of T5.
  const ImageLoad guided = engine_->LoadOf(Spec());
  EXPECT_EQ(guided.tokens, 3 * 2 + 77 + 16);
  EXPECT_EQ(guided.rows, 2);
  ImageSpec plain = Spec();
  plain.guidance_scale = 1;
  EXPECT_EQ(engine_->LoadOf(plain).rows, 1);
  EXPECT_EQ(engine_->LoadOf(plain).tokens, guided.tokens);
  // The negative text is what guidance holds besides.
  EXPECT_GT(guided.state_bytes, engine_->LoadOf(plain).state_bytes);
  ImageSpec larger = Spec();
  larger.width = larger.height = 96;
  const int channels = 16;  // of the checkpoint's VAE
  EXPECT_EQ(engine_->LoadOf(larger).state_bytes - guided.state_bytes, 2 * channels * (12 * 12 - 6 * 4) * 4);
}

TEST_F(EngineTest, PromptsAreEncodedOnceAndCounted) {
  const auto engine = Load(kMedium).value();
  EXPECT_EQ(engine->stats().prompt_cache_misses, 0);  // warming up is not a request
  ImageSpec spec = Spec();
  ASSERT_TRUE(engine->Prepare(spec).ok());  // positive, negative
  EXPECT_EQ(engine->stats().prompt_cache_misses, 2);
  spec.seed = 77;
  spec.steps = 9;
  ASSERT_TRUE(engine->Prepare(spec).ok());
  EXPECT_EQ(engine->stats().prompt_cache_misses, 2);
  EXPECT_EQ(engine->stats().prompt_cache_hits, 2);
  spec.guidance_scale = 1;
  ASSERT_TRUE(engine->Prepare(spec).ok());  // the negative one is not needed
  EXPECT_EQ(engine->stats().prompt_cache_hits, 3);
  spec.clip_skip = 1;
  ASSERT_TRUE(engine->Prepare(spec).ok());
  EXPECT_EQ(engine->stats().prompt_cache_misses, 3);
}

TEST_F(EngineTest, PreparedTogetherAPictureIsTheSame) {
  const auto engine = Load(kMedium).value();
  std::vector<ImageSpec> specs(5, Spec());
  specs[1].prompt = "another one, of more words than the first";
  specs[1].seed = 3;
  specs[2].guidance_scale = 1;
  specs[2].prompt_3 = "a third";
  specs[3].width = 17;  // no picture has such a side
  specs[4].max_sequence_length = 32;
  std::vector<const ImageSpec*> pointers;
  for (const ImageSpec& spec : specs) pointers.push_back(&spec);
  // The negative one is shared.
  EXPECT_EQ(engine->TextsToEncode({pointers[0], pointers[1], pointers[2]}), (std::vector<int>{2, 1, 1}));
  auto jobs = engine->PrepareAll(pointers, TextCache::kUse);
  EXPECT_EQ(engine->TextsToEncode({pointers[0], pointers[1], pointers[2]}), (std::vector<int>{0, 0, 0}));
  EXPECT_EQ(jobs[3].status().code(), absl::StatusCode::kInvalidArgument);
  for (size_t i : {0, 1, 2, 4}) {
    ImageJob* const job = jobs[i]->get();
    while (!job->done()) ASSERT_TRUE(engine->Step({job}).front().ok());
    EXPECT_EQ(engine->Finish(*job).value().rgb, Draw(specs[i]).rgb) << i;  // by another engine, alone
  }
}

TEST_F(EngineTest, MeasurementsLeaveTheCacheAlone) {
  const auto engine = Load(kMedium).value();
  const ImageSpec spec = Spec();
  const ImageSpec* const only = &spec;
  ASSERT_TRUE(engine->PrepareAll({only}, TextCache::kPass).front().ok());
  EXPECT_EQ(engine->stats().prompt_cache_misses, 0);
  EXPECT_EQ(engine->stats().prompt_cache_bytes, 0);
  EXPECT_EQ(engine->TextsToEncode({only}), std::vector<int>{2});
}

TEST_F(EngineTest, MemoryIsCountedAndGivenBack) {
  const int64_t before = engine_->stats().allocated_bytes;
  EXPECT_GE(before, engine_->stats().weight_bytes);
  ImageSpec large = Spec();
  large.width = large.height = 384;
  {
    const auto job = Prepare(large);
    StepAll({job.get()});
    EXPECT_GE(engine_->stats().allocated_bytes, before + 3 * 48 * 48 * 16 * 4 / 2);
    EXPECT_GT(engine_->stats().peak_bytes, engine_->stats().allocated_bytes);
  }
  Draw(Spec());  // what the engine keeps of a batch is now that of a small one
  EXPECT_LT(engine_->stats().allocated_bytes, before + (1 << 20));
}

TEST_F(EngineTest, PreviewsHaveTheShapeOfThePictureAndTheirLimit) {
  ImageSpec spec = Spec();
  spec.width = 256;
  spec.height = 128;
  const auto job = Prepare(spec);
  StepAll({job.get()});
  const Image whole = engine_->Preview(*job, 1024).value();
  EXPECT_EQ(whole.width, 256);
  EXPECT_EQ(whole.height, 128);
  const Image small = engine_->Preview(*job, 100).value();
  EXPECT_EQ(small.width, 96);
  EXPECT_EQ(small.height, 48);
  EXPECT_EQ(engine_->Preview(*job, 1).value().width, 8);  // one latent is the least
}

TEST_F(EngineTest, PreviewIsTheFinishedPictureAtTheEndAndChangesNothing) {
  const Image alone = Draw(Spec());
  const auto job = Prepare(Spec());
  EXPECT_TRUE(engine_->Preview(*job, 48).ok());  // before the first step there is only noise to show
  while (!job->done()) {
    StepAll({job.get()});
    EXPECT_TRUE(engine_->Preview(*job, 48).ok());
  }
  EXPECT_EQ(engine_->Preview(*job, 48).value().rgb, alone.rgb);
  EXPECT_EQ(engine_->Finish(*job).value().rgb, alone.rgb);
}

TEST_F(EngineTest, ValidateNamesEveryBadField) {
  ImageSpec spec = Spec();
  spec.width = 50;
  spec.height = 4000;
  spec.steps = 0;
  spec.guidance_scale = std::numeric_limits<float>::quiet_NaN();
  spec.max_sequence_length = 513;
  spec.clip_skip = 3;  // of three layers
  const absl::Status status = engine_->Validate(spec);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(
      std::string(status.message()),
      AllOf(HasSubstr("width: 50 is not a multiple of 16"), HasSubstr("height: 4000 is not from 16 to 384 pixels"),
            HasSubstr("steps: 0 is not from 1 to 1000"), HasSubstr("guidance_scale"),
            HasSubstr("max_sequence_length: 513 is not from 1 to 512"), HasSubstr("clip_skip: 3 is not from 0 to 2")));
  EXPECT_EQ(engine_->Prepare(spec).status(), status);
}

TEST_F(EngineTest, EveryValidBoundaryDraws) {
  ImageSpec spec = Spec();
  spec.steps = 1;
  for (const auto& change : std::vector<std::function<void(ImageSpec&)>>{
           [](ImageSpec& s) { s.width = s.height = 16; }, [](ImageSpec& s) { s.width = 384, s.height = 16; },
           [](ImageSpec& s) { s.max_sequence_length = 512; }, [](ImageSpec& s) { s.max_sequence_length = 1; },
           [](ImageSpec& s) { s.clip_skip = 2; }, [](ImageSpec& s) { s.guidance_scale = 0; }}) {
    ImageSpec changed = spec;
    change(changed);
    EXPECT_TRUE(engine_->Validate(changed).ok()) << engine_->Validate(changed);
    EXPECT_FALSE(Draw(changed).rgb.empty());
  }
}

TEST_F(EngineTest, TextThatIsNotUtf8IsRefused) {
  ImageSpec spec = Spec();
  spec.prompt = "caf\xe9";
  EXPECT_EQ(engine_->Prepare(spec).status().code(), absl::StatusCode::kInvalidArgument);
}

std::string Words(int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += "apple ";
  return text;
}

TEST_F(EngineTest, CutPromptsAreWarnedOfByFieldAndLength) {
  ImageSpec spec = Spec();
  EXPECT_TRUE(Prepare(spec)->warnings().empty());
  spec.max_sequence_length = 512;
  spec.prompt = Words(89);  // and the two special tokens
  const auto job = Prepare(spec);
  ASSERT_EQ(job->warnings().size(), 1u);
  EXPECT_EQ(job->warnings()[0].kind, Warning::Kind::kPromptTruncated);
  EXPECT_EQ(job->warnings()[0].field, "prompt");
  EXPECT_EQ(job->warnings()[0].message, "prompt has 91 CLIP tokens, of which the first 77 are used");
  EXPECT_EQ(Prepare(spec)->warnings().size(), 1u);  // from the cache too

  spec.prompt = "apple";
  spec.prompt_2 = Words(89);
  spec.prompt_3 = Words(600);
  spec.negative_prompt_3 = Words(600);
  std::vector<std::string> fields;
  const auto several = Prepare(spec);
  for (const Warning& warning : several->warnings()) fields.push_back(warning.field);
  EXPECT_THAT(fields, ElementsAre("prompt_2", "prompt_3", "negative_prompt_3"));
  spec.guidance_scale = 1;  // then the negative prompt is not used
  EXPECT_EQ(Prepare(spec)->warnings().size(), 2u);
}

// Five images, of different lengths, guidance and seeds, that join one after another; each must be what it is alone.
class AnyBatch : public ::testing::TestWithParam<const char*> {};

TEST_P(AnyBatch, GivesTheSamePictureBitForBit) {
  const auto engine = Load(kMedium, GetParam()).value();
  std::vector<ImageSpec> specs(5, Spec());
  for (size_t i = 0; i < specs.size(); ++i) {
    specs[i].seed = i;
    specs[i].steps = 2 + static_cast<int>(i);
    specs[i].guidance_scale = i % 2 == 0 ? 3.0f + static_cast<float>(i) : 1.0f;
    specs[i].prompt = Words(static_cast<int>(i));
  }
  std::vector<std::unique_ptr<ImageJob>> jobs;
  const auto step = [&](const std::vector<ImageJob*>& batch) {
    for (const absl::Status& status : engine->Step(batch)) ASSERT_TRUE(status.ok()) << status;
  };
  const auto running = [&] {
    std::vector<ImageJob*> batch;
    for (const auto& job : jobs)
      if (!job->done()) batch.push_back(job.get());
    return batch;
  };
  for (const ImageSpec& spec : specs) {
    jobs.push_back(engine->Prepare(spec).value());
    step(running());
  }
  while (!running().empty()) step(running());
  for (size_t i = 0; i < specs.size(); ++i) {
    const auto alone = engine->Prepare(specs[i]).value();
    while (!alone->done()) step({alone.get()});
    EXPECT_EQ(engine->Finish(*jobs[i]).value().rgb, engine->Finish(*alone).value().rgb) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Types, AnyBatch, ::testing::Values("fp32", "bf16", "fp8", "fp8-weight-only", "int8"));

// The smallest and the largest id that a text of one known word holds, in bf16 rows of `width`: NaN.
void PoisonRow(const CheckpointCopy& copy, size_t row, size_t width) {
  copy.EditTensor("text_encoder/model.safetensors", "text_model.embeddings.token_embedding.weight",
                  [&](char* data, size_t) {
                    const uint16_t nan = 0x7fc0;
                    for (size_t i = 0; i < width; ++i)
                      std::memcpy(data + (row * width + i) * sizeof(nan), &nan, sizeof(nan));
                  });
}

// CLIP-L's rows are 24 wide (tests/reference/make_reference.py). "!" is byte-level BPE's first word: 256 bytes, then
// the same with the end-of-word mark.
constexpr size_t kExclamationMark = 256;

// What becomes of a velocity that is no number: denoiser_test.cc.
TEST(NonFinite, ATextEncodingFailsItsOwnImageAndNamesTheEncoder) {
  const CheckpointCopy copy(kMedium);
  PoisonRow(copy, kExclamationMark, 24);
  const auto engine = Load(copy.path()).value();
  ImageSpec bad = Spec();
  bad.prompt = "apple !";
  const auto poisoned = engine->Prepare(bad);
  EXPECT_EQ(poisoned.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(poisoned.status().message()), HasSubstr("text_encoder: its output for this prompt is NaN"));
  EXPECT_EQ(engine->stats().nonfinite_outputs, 1);
  EXPECT_TRUE(engine->Prepare(Spec()).ok());
}

TEST(NonFinite, WeightsAreAnErrorThatNamesThemAndNoBlackPicture) {
  const CheckpointCopy copy(kMedium);
  // The last bias: every pixel of a channel, and the warm-up's already.
  copy.EditTensor("vae/diffusion_pytorch_model.safetensors", "decoder.conv_out.bias", [](char* data, size_t) {
    const uint16_t nan = 0x7fc0;
    std::memcpy(data, &nan, sizeof(nan));
  });
  const auto engine = Load(copy.path());
  EXPECT_EQ(engine.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(engine.status().message()), AllOf(HasSubstr("vae/diffusion_pytorch_model.safetensors"),
                                                            HasSubstr("decoder.conv_out.bias"), HasSubstr("NaN")));
}

TEST(WithoutT5, DrawsAndTakesAnyTextLength) {
  const auto engine = Load(kNoT5).value();
  EXPECT_EQ(engine->info().max_sequence_length_limit, 0);
  EXPECT_EQ(engine->info().components.size(), 4u);
  ImageSpec spec = Spec();
  spec.prompt_3 = Words(1000);  // nobody reads it
  spec.max_sequence_length = 256;
  const auto job = engine->Prepare(spec).value();
  EXPECT_TRUE(job->warnings().empty());
  EXPECT_TRUE(engine->Step({job.get()}).front().ok());
}

TEST(Contract, ABrokenOneDiesLoudly) {
  const auto engine = Load(kMedium).value();
  ImageSpec spec = Spec();
  spec.steps = 1;
  const auto job = engine->Prepare(spec).value();
  EXPECT_DEATH(static_cast<void>(engine->Finish(*job)), "not done");
  EXPECT_DEATH(engine->Step({job.get(), job.get()}), "twice");
  ImageSpec longer = spec;
  longer.max_sequence_length += 16;
  const auto other = engine->Prepare(longer).value();
  EXPECT_DEATH(engine->Step({job.get(), other.get()}), "different batch keys");
  ASSERT_TRUE(engine->Step({job.get()}).front().ok());
  EXPECT_DEATH(engine->Step({job.get()}), "done");
}

}  // namespace
}  // namespace fresco
