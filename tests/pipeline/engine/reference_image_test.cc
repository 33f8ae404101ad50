// Every picture of tests/reference, drawn by the engine and held to diffusers'.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "pipeline/engine/engine.h"
#include "pipeline/engine/load.h"
#include "pipeline/image/similarity.h"
#include "tests/support/reference.h"

namespace fresco {
namespace {

// fp32 differs from diffusers by the order of summation only; bf16 by rounding at other places too.
double LeastPsnr(const std::string& dtype) {
  return dtype == "fp32" ? 60 : 30;
}

absl::StatusOr<std::unique_ptr<Engine>> Load(const ReferenceCase& reference, const std::string& dtype) {
  LoadOptions options;
  options.name = reference.name;
  options.path = reference.checkpoint;
  options.base = reference.base;
  options.precision = dtype;
  options.threads = 1;  // models this small gain nothing by more
  return LoadEngine(options);
}

absl::StatusOr<Image> Draw(Engine& engine, const ImageSpec& spec) {
  auto job = engine.Prepare(spec);
  if (!job.ok()) return job.status();
  while (!(*job)->done()) {
    if (absl::Status status = engine.Step({job->get()}).front(); !status.ok()) return status;
  }
  return engine.Finish(**job);
}

// The cases of one checkpoint that diffusers drew in `dtype`.
std::vector<ReferenceCase> CasesOf(const std::string& checkpoint, const std::string& dtype) {
  std::vector<ReferenceCase> cases;
  for (ReferenceCase& reference : ReferenceCases()) {
    const bool drawn = std::find(reference.dtypes.begin(), reference.dtypes.end(), dtype) != reference.dtypes.end();
    if (drawn && reference.checkpoint == ReferencePath("checkpoints/" + checkpoint))
      cases.push_back(std::move(reference));
  }
  return cases;
}

struct Drawing {
  std::string checkpoint;
  std::string dtype;
};

class ReferenceImages : public testing::TestWithParam<Drawing> {};

TEST_P(ReferenceImages, AreDiffusers) {
  const auto& [checkpoint, dtype] = GetParam();
  const std::vector<ReferenceCase> cases = CasesOf(checkpoint, dtype);
  ASSERT_FALSE(cases.empty());
  auto engine = Load(cases.front(), dtype);
  ASSERT_TRUE(engine.ok()) << engine.status();
  for (const ReferenceCase& reference : cases) {
    SCOPED_TRACE(reference.name);
    const auto image = Draw(**engine, reference.spec);
    ASSERT_TRUE(image.ok()) << image.status();
    const double psnr = Psnr(*image, ReferenceImage(reference.name, dtype)).value();
    std::printf("%-8s %-5s %-28s %6.1f dB\n", checkpoint.c_str(), dtype.c_str(), reference.name.c_str(), psnr);
    EXPECT_GE(psnr, LeastPsnr(dtype));
  }
}

// Newcomers join in the middle, and guided and unguided images, of different lengths, share a step.
TEST_P(ReferenceImages, DoNotDependOnTheirBatch) {
  const auto& [checkpoint, dtype] = GetParam();
  const ReferenceCase reference = CasesOf(checkpoint, dtype).front();
  auto engine = Load(reference, dtype);
  ASSERT_TRUE(engine.ok()) << engine.status();
  std::vector<ImageSpec> specs(3, reference.spec);
  specs[1].prompt = "two foxes";
  specs[1].seed += 1;
  specs[1].steps += 2;
  specs[2].guidance_scale = 1.0f;
  specs[2].seed += 2;
  std::vector<std::unique_ptr<ImageJob>> jobs;
  for (const ImageSpec& spec : specs) {
    ASSERT_EQ((*engine)->BatchKey(spec), (*engine)->BatchKey(specs[0]));
    auto job = (*engine)->Prepare(spec);
    ASSERT_TRUE(job.ok()) << job.status();
    jobs.push_back(*std::move(job));
  }
  for (size_t joined = 2;; joined = jobs.size()) {  // the last one a step later than the others
    std::vector<ImageJob*> batch;
    for (size_t i = 0; i < joined; ++i) {
      if (!jobs[i]->done()) batch.push_back(jobs[i].get());
    }
    if (batch.empty()) break;
    for (const absl::Status& status : (*engine)->Step(batch)) ASSERT_TRUE(status.ok()) << status;
  }
  for (size_t i = 0; i < specs.size(); ++i) {
    const auto together = (*engine)->Finish(*jobs[i]);
    const auto alone = Draw(**engine, specs[i]);
    ASSERT_TRUE(together.ok() && alone.ok());
    EXPECT_TRUE(together->rgb == alone->rgb)
        << "image " << i << " differs, " << Psnr(*together, *alone).value() << " dB";
  }
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, ReferenceImages,
                         testing::Values(Drawing{"medium", "fp32"}, Drawing{"medium", "bf16"}, Drawing{"large", "fp32"},
                                         Drawing{"large", "bf16"}, Drawing{"sd3", "fp32"}, Drawing{"sd3", "bf16"},
                                         Drawing{"no_t5", "fp32"}, Drawing{"no_t5", "bf16"}),
                         [](const auto& info) { return info.param.checkpoint + "_" + info.param.dtype; });

// What the comparisons above are worth: a request that differs in one thing only is another picture.
TEST(ReferenceRequests, ShowEveryField) {
  const ReferenceCase reference = ReferenceCaseNamed("medium");
  auto engine = Load(reference, "fp32");
  ASSERT_TRUE(engine.ok()) << engine.status();
  const std::vector<std::pair<std::string, std::function<void(ImageSpec&)>>> changes = {
      {"prompt", [](ImageSpec& spec) { spec.prompt = "two foxes"; }},
      {"prompt_2", [](ImageSpec& spec) { spec.prompt_2 = "two foxes"; }},
      {"prompt_3", [](ImageSpec& spec) { spec.prompt_3 = "two foxes"; }},
      {"negative_prompt", [](ImageSpec& spec) { spec.negative_prompt = "two foxes"; }},
      {"negative_prompt_2", [](ImageSpec& spec) { spec.negative_prompt_2 = "two foxes"; }},
      {"negative_prompt_3", [](ImageSpec& spec) { spec.negative_prompt_3 = "two foxes"; }},
      {"steps", [](ImageSpec& spec) { spec.steps += 1; }},
      {"guidance_scale", [](ImageSpec& spec) { spec.guidance_scale += 1; }},
      {"seed", [](ImageSpec& spec) { spec.seed += 1; }},
      {"max_sequence_length", [](ImageSpec& spec) { spec.max_sequence_length *= 2; }},
      {"clip_skip", [](ImageSpec& spec) { spec.clip_skip = 1; }},
  };
  const Image expected = ReferenceImage(reference.name, "fp32");
  for (const auto& [field, change] : changes) {
    ImageSpec spec = reference.spec;
    change(spec);
    const auto image = Draw(**engine, spec);
    ASSERT_TRUE(image.ok()) << field << ": " << image.status();
    EXPECT_LT(Psnr(*image, expected).value(), 30) << field;
  }
}

// diffusers' image of a seed is that of the seed modulo 2^32, because the generator's is.
TEST(ReferenceSeeds, AreTakenModulo32Bits) {
  const ReferenceCase reference = ReferenceCaseNamed("seed_2_32_and_5");
  auto engine = Load(reference, "fp32");
  ASSERT_TRUE(engine.ok()) << engine.status();
  ImageSpec spec = reference.spec;
  spec.seed = 5;
  const auto image = Draw(**engine, spec);
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_GE(Psnr(*image, ReferenceImage(reference.name, "fp32")).value(), LeastPsnr("fp32"));
}

}  // namespace
}  // namespace fresco
