// Whose the memory is that a model takes, and what is said when there is none.
#include "pipeline/engine/memory.h"

#include <ATen/ops/empty.h>
#include <c10/core/Allocator.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <regex>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "pipeline/engine/load.h"
#include "pipeline/engine/memory_limit.h"
#include "pipeline/engine/memory_reporting.h"
#include "pipeline/engine/memory_shortage.h"

namespace fresco {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kModel[] = "models/demo";
constexpr int64_t kMiB = 1 << 20;

ImageSpec Spec(int side) {
  ImageSpec spec;
  spec.prompt = "a red apple";
  spec.width = spec.height = side;
  spec.steps = 1;
  spec.guidance_scale = 4;
  spec.max_sequence_length = 32;
  return spec;
}

// "transformer weights" → bytes, of one model.
std::map<std::string, MemoryHeld> HeldBy(const std::string& model) {
  std::map<std::string, MemoryHeld> by_name;
  for (const MemoryHeld& held : LedgerOf(at::kCPU).Snapshot().held) {
    if (held.holder.model == model) by_name[NameOf(held.holder)] = held;
  }
  return by_name;
}

int64_t NumberOf(const std::map<std::string, std::string>& fields, const std::string& name) {
  int64_t number = -1;
  EXPECT_TRUE(absl::SimpleAtoi(fields.at(name), &number)) << name;
  return number;
}

class MemoryTest : public ::testing::Test {
 protected:
  ~MemoryTest() override { EXPECT_TRUE(SetMemoryLimit("cpu", 0).ok()); }

  // A name of its own keeps a test's numbers apart from others'.
  static std::unique_ptr<Engine> Load(const std::string& name, const std::string& precision = "fp32",
                                      VaeTiling tiling = VaeTiling::kNever) {
    LoadOptions options;
    options.name = name;
    options.path = kModel;
    options.precision = precision;
    options.threads = 1;
    options.vae = {.tiling = tiling, .tile_size = 256};
    return LoadEngine(options).value();
  }

  static absl::StatusOr<Image> Draw(Engine& engine, const ImageSpec& spec) {
    absl::StatusOr<std::unique_ptr<ImageJob>> job = engine.Prepare(spec);
    if (!job.ok()) return job.status();
    while (!(*job)->done()) {
      const absl::Status status = engine.Step({job->get()}).front();
      if (!status.ok()) return status;
    }
    return engine.Finish(**job);
  }

  // The most that drawing takes.
  static int64_t PeakOf(Engine& engine, const ImageSpec& spec) {
    engine.TakePeakBytes();
    EXPECT_TRUE(Draw(engine, spec).ok());
    return engine.TakePeakBytes();
  }
};

TEST_F(MemoryTest, WeightsAreTheirComponents) {
  for (const char* precision : {"fp32", "fp8"}) {
    const std::string name = std::string("weights ") + precision;
    const auto engine = Load(name, precision);
    const auto held = HeldBy(name);
    for (const ModelInfo::Component& component : engine->info().components) {
      const auto found = held.find(component.name + " weights");
      ASSERT_NE(found, held.end()) << precision << " " << component.name;
      // Exactly, but for what a component keeps beside its weights (position tables, biases of attention).
      EXPECT_GE(found->second.bytes, component.weight_bytes) << precision << " " << component.name;
      EXPECT_LE(found->second.bytes, component.weight_bytes * 1.05 + 300'000) << precision << " " << component.name;
    }
  }
  EXPECT_THAT(HeldBy("weights fp8"), IsEmpty()) << "of a model that is gone";
}

TEST_F(MemoryTest, ActivationsAreTheirComponentsAndGoAgain) {
  const auto engine = Load("activations");
  const auto before = HeldBy("activations");
  engine->TakePeakBytes();
  const auto job = engine->Prepare(Spec(256)).value();
  ASSERT_TRUE(engine->Step({job.get()}).front().ok());
  ASSERT_TRUE(engine->Finish(*job).ok());
  auto held = HeldBy("activations");
  // The picture is decoded whole: that is what takes the most.
  EXPECT_GT(held.at("vae activations").at_peak_bytes, 256 * 256 * 3 * 4);
  EXPECT_EQ(held.at("vae activations").bytes, 0);
  const int64_t latents = 16 * 32 * 32 * 4;         // channels, sides, bytes of a number
  EXPECT_GE(held.at("images").bytes, 2 * latents);  // and the last velocity
  // Texts are kept for the next image that has them: of each the rows of 16 tokens of CLIP and 32 of T5, and one
  // pooled, in 192 features (models/demo's configurations).
  EXPECT_EQ(held.at("prompts").bytes, 2 * (16 + 32 + 1) * 192 * 4);
  EXPECT_EQ(held.at("transformer weights").bytes, before.at("transformer weights").bytes);
}

TEST_F(MemoryTest, AnImageThatIsTooLargeFailsAloneAndSaysWhoHoldsTheMemory) {
  const auto engine = Load("short");
  const int64_t enough = PeakOf(*engine, Spec(128));
  const int64_t before = MemoryUseOf(at::kCPU).allocated_bytes;
  ASSERT_TRUE(SetMemoryLimit("cpu", enough + kMiB).ok());
  const absl::Status status = Draw(*engine, Spec(384)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_THAT(
      std::string(status.message()),
      AllOf(HasSubstr("384x384: out of memory on cpu: "), HasSubstr(" more were asked for, where "),
            HasSubstr("(a limit that was set) are taken. "), HasSubstr(". Held: "), HasSubstr("transformer weights "),
            HasSubstr("MiB (fp32)"), HasSubstr("activations "), HasSubstr(". Largest: ")));
  // Nothing of it is left, and what fits is drawn as before.
  EXPECT_LE(MemoryUseOf(at::kCPU).allocated_bytes, before + kMiB);
  EXPECT_LE(PeakOf(*engine, Spec(128)), enough + kMiB);
}

TEST_F(MemoryTest, TheErrorCarriesItsNumbers) {
  const auto engine = Load("numbers");
  const int64_t before = MemoryUseOf(at::kCPU).allocated_bytes;
  ASSERT_TRUE(SetMemoryLimit("cpu", before + kMiB).ok());
  const auto found = FindShortage(Draw(*engine, Spec(384)).status());
  const std::map<std::string, std::string> fields(found.begin(), found.end());
  EXPECT_EQ(fields.at("device"), "cpu");
  EXPECT_EQ(fields.at("limit"), std::to_string(before + kMiB));
  // What was held and the allocation that was one too many are more than the limit; and who held it adds up.
  EXPECT_GT(NumberOf(fields, "taken") + NumberOf(fields, "asked"), before + kMiB);
  EXPECT_LE(NumberOf(fields, "taken"), before + kMiB);
  int64_t held = 0;
  for (const auto& [name, value] : fields) held += absl::StartsWith(name, "held_") ? NumberOf(fields, name) : 0;
  EXPECT_EQ(held, NumberOf(fields, "taken"));
  EXPECT_GT(NumberOf(fields, "held_transformer_weights"), 0);
  EXPECT_THAT(FindShortage(absl::ResourceExhaustedError("the queue is full")), IsEmpty());
}

TEST_F(MemoryTest, WhatItSaysWouldFitFits) {
  const ImageSpec spec = Spec(320);
  const int64_t in_tiles = PeakOf(*Load("tiled", "fp32", VaeTiling::kAlways), spec);
  auto engine = Load("whole");
  const int64_t whole = PeakOf(*engine, spec);
  ASSERT_TRUE(SetMemoryLimit("cpu", (in_tiles + whole) / 2).ok());
  const absl::Status status = Draw(*engine, spec).status();
  const std::string message(status.message());
  EXPECT_THAT(message, AllOf(HasSubstr("decoding 320x320: "), HasSubstr("(decoding). It would fit with: "),
                             HasSubstr("vae.tiling: always, vae.tile_size: 256 (")));
  const auto found = FindShortage(status);
  EXPECT_NEAR(NumberOf({found.begin(), found.end()}, "needed"), whole, 0.05 * whole);
  // A smaller picture.
  std::smatch size;
  ASSERT_TRUE(std::regex_search(message, size, std::regex(R"(width, height: (\d+) \()"))) << message;
  EXPECT_EQ(Draw(*engine, Spec(std::stoi(size[1]))).status(), absl::OkStatus());
  // The same picture, in tiles, and with weights that take less.
  engine.reset();
  EXPECT_EQ(Draw(*Load("tiled", "fp32", VaeTiling::kAlways), spec).status(), absl::OkStatus());
  const bool quantised = message.find("precision: fp8 (") != std::string::npos;
  EXPECT_TRUE(!quantised || Draw(*Load("fp8", "fp8"), spec).ok());
}

TEST_F(MemoryTest, WhatARefusedImageWouldTakeIsSaidWithoutDrawingIt) {
  const auto engine = Load("refused");
  ASSERT_TRUE(SetMemoryLimit("cpu", MemoryUseOf(at::kCPU).allocated_bytes + 20 * kMiB).ok());
  const absl::Status status = engine->ExplainMemory(Spec(512));
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("drawing 512x512 would run out of memory on cpu: "),
                    HasSubstr("Held: transformer weights"), HasSubstr("Needed: about ")));
}

TEST_F(MemoryTest, AModelThatDoesNotFitIsNotLoaded) {
  ASSERT_TRUE(SetMemoryLimit("cpu", MemoryUseOf(at::kCPU).allocated_bytes + 10 * kMiB).ok());
  LoadOptions options;
  options.name = "large";
  options.path = kModel;
  options.precision = "fp32";
  const absl::Status status = LoadEngine(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("loading models/demo: out of memory on cpu"), HasSubstr("vae weights")));
}

TEST_F(MemoryTest, ALimitIsWhatTheDeviceHas) {
  const int64_t taken = MemoryUseOf(at::kCPU).allocated_bytes;
  ASSERT_TRUE(SetMemoryLimit("cpu", taken + 5 * kMiB).ok());
  EXPECT_EQ(MemoryOf(at::kCPU).total_bytes, taken + 5 * kMiB);
  EXPECT_EQ(MemoryOf(at::kCPU).free_bytes, 5 * kMiB);
  EXPECT_FALSE(SetMemoryLimit("cpu", -1).ok());
  EXPECT_FALSE(SetMemoryLimit("tpu", 1).ok());
}

// The calls that libtorch's caching allocator makes, made here: there is no GPU.
class MemoryReportingTest : public ::testing::Test {
 protected:
  static constexpr c10::DeviceIndex kIndex = 3;
  static at::Device Gpu() { return at::Device(at::kCUDA, kIndex); }
  static void Report(void* data, int64_t bytes) { c10::reportMemoryUsageToProfiler(data, bytes, 0, 0, Gpu()); }
};

TEST_F(MemoryReportingTest, ABlockOfAGpuIsTheScopesInWhichItWasMade) {
  char at[2];
  MemoryLedger& ledger = LedgerOf(Gpu());
  {
    const MemoryReporting reporting(Gpu());
    const MemoryModelScope model("gpu model");
    const MemoryScope scope("vae", MemoryKind::kActivations);
    Report(&at[0], 3 * kMiB);
    Report(&at[1], 100);
    ASSERT_EQ(ledger.Snapshot().held.size(), 1);
    EXPECT_EQ(NameOf(ledger.Snapshot().held[0].holder), "vae activations");
    EXPECT_EQ(ledger.allocated_bytes(), 3 * kMiB + 100);
    EXPECT_EQ(ledger.Snapshot(1).largest.at(0).bytes, 3 * kMiB);
    Report(&at[1], -100);
    EXPECT_EQ(ledger.allocated_bytes(), 3 * kMiB);
    c10::reportOutOfMemoryToProfiler(7 * kMiB, 0, 0, Gpu());
    EXPECT_EQ(TakeMemoryShortage().value().asked_bytes, 7 * kMiB);
  }
  Report(&at[0], -3 * kMiB);  // nobody listens
  EXPECT_EQ(ledger.allocated_bytes(), 3 * kMiB);
  const MemoryReporting reporting(Gpu());
  Report(&at[0], 50);  // the address is given again: what was there is gone
  EXPECT_EQ(ledger.allocated_bytes(), 50);
  Report(&at[0], -50);
  EXPECT_EQ(ledger.allocated_bytes(), 0);
}

TEST_F(MemoryReportingTest, ACpuReportsNothing) {
  const MemoryReporting reporting(at::kCPU);
  EXPECT_FALSE(c10::memoryProfilingEnabled());
}

}  // namespace
}  // namespace fresco
