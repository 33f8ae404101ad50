// What is said of a device that has no more memory, word for word.
#include "pipeline/engine/memory_shortage.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace fresco {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::Pair;

constexpr int64_t kMiB = 1 << 20;

MemoryHeld Held(const char* model, const char* component, MemoryKind kind, int64_t bytes) {
  return {{model, component, kind}, bytes, bytes, bytes};
}

ShortageReport Decoding() {
  ShortageReport report;
  report.doing = "decoding";
  report.device = "cuda:0";
  report.width = 1024;
  report.height = 768;
  report.components = {{"transformer", "fp8", 2100 * kMiB}, {"vae", "bf16", 160 * kMiB}};
  report.shortage = MemoryShortage{3072 * kMiB, {}};
  MemorySnapshot& memory = report.shortage->before;
  memory.held = {Held("medium", "transformer", MemoryKind::kWeights, 2100 * kMiB),
                 Held("medium", "vae", MemoryKind::kActivations, 610 * kMiB),
                 Held("medium", "vae", MemoryKind::kWeights, 160 * kMiB)};
  memory.largest = {{memory.held[1].holder, "", 512 * kMiB},
                    {memory.held[0].holder, "transformer_blocks.0.ff.net.2", 19 * kMiB}};
  memory.allocated_bytes = 2870 * kMiB;
  report.whole = {8192 * kMiB, 1228 * kMiB};
  return report;
}

TEST(MemoryShortageTest, SaysWhoHoldsTheMemoryWhatWasNeededAndWhatWouldFit) {
  ShortageReport report = Decoding();
  report.needed_bytes = 5900 * kMiB;
  report.needed_for = "decoding";
  report.remedies = {"vae.tiling: always (3.1 GiB)", "precision: int8 (3.0 GiB)"};
  EXPECT_EQ(Describe(report),
            "decoding 1024x768: out of memory on cuda:0: 3.0 GiB more were asked for, where 2.8 GiB of 8.0 GiB are "
            "taken and 1.2 GiB are free. Needed: about 5.8 GiB (decoding). It would fit with: vae.tiling: always (3.1 "
            "GiB); or precision: int8 (3.0 GiB). Held: transformer weights 2.1 GiB (fp8), vae activations 610 MiB, vae "
            "weights 160 MiB (bf16). Largest: 512 MiB vae activations, 19 MiB transformer_blocks.0.ff.net.2 "
            "(transformer weights)");
}

TEST(MemoryShortageTest, ALimitIsNamedAndABatchAndModelsThatShareTheDevice) {
  ShortageReport report = Decoding();
  report.doing = "denoising";
  report.batch = 4;
  MemorySnapshot& memory = report.shortage->before;
  memory.limit_bytes = 3000 * kMiB;
  memory.held.push_back(Held("demo", "transformer", MemoryKind::kWeights, 20 * kMiB));
  const std::string text = Describe(report);
  EXPECT_THAT(text,
              HasSubstr("denoising 1024x768, batch 4: out of memory on cuda:0: 3.0 GiB more were asked for, where "
                        "2.8 GiB of 2.9 GiB (a limit that was set) are taken. Held: medium's transformer weights"));
  EXPECT_THAT(text, HasSubstr("demo's transformer weights 20 MiB"));
  EXPECT_THAT(text, Not(HasSubstr("are free")));
}

TEST(MemoryShortageTest, WhatIsNotKnownIsNotSaid) {
  ShortageReport report;
  report.doing = "preparing";
  report.device = "cpu";
  report.width = report.height = 64;
  report.memory.allocated_bytes = 5 * kMiB;
  EXPECT_EQ(Describe(report), "preparing 64x64: out of memory on cpu: 5.0 MiB are taken");
  report.predicted = true;
  EXPECT_EQ(Describe(report), "preparing 64x64 would run out of memory on cpu: 5.0 MiB are taken");
}

TEST(MemoryShortageTest, TheStatusCarriesTheNumbers) {
  const absl::Status status = ShortageError(Decoding());
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(FindShortage(status),
              ElementsAre(Pair("device", "cuda:0"), Pair("asked", "3221225472"), Pair("taken", "3009413120"),
                          Pair("held_transformer_weights", "2202009600"), Pair("held_vae_activations", "639631360"),
                          Pair("held_vae_weights", "167772160")));
  EXPECT_THAT(FindShortage(absl::ResourceExhaustedError("the queue is full")), IsEmpty());
}

// 8,192 MiB, of which 1,228 are free, is what others than this process leave; another model's weights and other images'
// latents are not to be had either.
TEST(MemoryShortageTest, AvailableIsWhatOthersDoNotHold) {
  ShortageReport report = Decoding();
  MemorySnapshot& memory = report.shortage->before;
  EXPECT_EQ(AvailableBytes(report, "medium", 0), (2870 + 1228) * kMiB);
  memory.held.push_back(Held("demo", "transformer", MemoryKind::kWeights, 20 * kMiB));
  memory.held.push_back(Held("medium", "images", MemoryKind::kState, 30 * kMiB));
  EXPECT_EQ(AvailableBytes(report, "medium", 10 * kMiB), (2870 + 1228 - 20 - (30 - 10)) * kMiB);
  memory.limit_bytes = 3000 * kMiB;
  EXPECT_EQ(AvailableBytes(report, "medium", 10 * kMiB), (3000 - 20 - 20) * kMiB);
}

}  // namespace
}  // namespace fresco
