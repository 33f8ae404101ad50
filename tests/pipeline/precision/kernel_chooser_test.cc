#include "pipeline/precision/kernel_chooser.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "tests/support/fake_clock.h"

namespace fresco {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

KernelTask Task(int64_t size) {
  return {"fp8+bias", "bf16", {1536, 6144, size}};
}

// A machine on which "lean" is the faster one up to 1024 rows, and "wide" beyond.
class KernelChooserTest : public ::testing::Test {
 protected:
  KernelChooserTest()
      : folder_(std::filesystem::path(::testing::TempDir()) /
                (std::string("chooser_") + ::testing::UnitTest::GetInstance()->current_test_info()->name())) {
    std::filesystem::remove_all(folder_);
    chooser_.machine = {"NVIDIA H200", "libtorch 2.11.0", "0.1.0"};
    chooser_.folder = folder_.string();
    chooser_.clock = {&clock_, [] { return absl::OkStatus(); }};
    chooser_.candidates = [this](const KernelTask& task) -> absl::StatusOr<std::vector<KernelCandidate>> {
      if (task.sizes[2] > 8192) return std::vector<KernelCandidate>();
      return std::vector<KernelCandidate>{Takes("lean", absl::Nanoseconds(100 * task.sizes[2])),
                                          Takes("wide", absl::Nanoseconds(51200 + 50 * task.sizes[2]))};
    };
  }

  KernelCandidate Takes(const std::string& name, absl::Duration time) {
    return {name,
            [this, time] {
              clock_.Advance(time);
              ++runs_;
              return absl::OkStatus();
            },
            nullptr};
  }

  std::string Path() const { return KernelChoicesPath(folder_.string(), chooser_.machine); }

  // What a model that is loaded now takes for so many rows, "" where nothing is known.
  std::string LoadAndAsk(int64_t rows, std::vector<std::string>* notes = nullptr) {
    KernelChoices choices;
    choices.Want(Task(0));
    runs_ = 0;
    const std::vector<std::string> said = MakeChoices(chooser_, &choices);
    if (notes != nullptr) *notes = said;
    const std::string* const winner = choices.WinnerOf(Task(rows));
    return winner == nullptr ? "" : *winner;
  }

  const std::filesystem::path folder_;
  FakeClock clock_;
  KernelChooser chooser_;
  int runs_ = 0;
};

TEST_F(KernelChooserTest, EachSizeHasItsOwnWinner) {
  std::vector<std::string> notes;
  EXPECT_EQ(LoadAndAsk(300, &notes), "lean");
  EXPECT_THAT(notes, ElementsAre(AllOf(HasSubstr("chosen by measurement"), HasSubstr(Path()))));
  EXPECT_EQ(LoadAndAsk(4429), "wide");
  EXPECT_EQ(LoadAndAsk(100000), "wide") << "what is too large to be measured goes by what is not";
}

TEST_F(KernelChooserTest, TheNextLoadMeasuresNothing) {
  EXPECT_EQ(LoadAndAsk(4429), "wide");
  EXPECT_GT(runs_, 0);
  std::vector<std::string> notes;
  EXPECT_EQ(LoadAndAsk(4429, &notes), "wide");
  EXPECT_EQ(runs_, 0);
  EXPECT_THAT(notes, IsEmpty());
}

TEST_F(KernelChooserTest, WithoutAFolderEachLoadMeasures) {
  chooser_.folder.clear();
  EXPECT_EQ(LoadAndAsk(4429), "wide");
  EXPECT_EQ(LoadAndAsk(4429), "wide");
  EXPECT_GT(runs_, 0);
}

TEST_F(KernelChooserTest, ADamagedOrForeignFileIsReplacedWithAWord) {
  std::filesystem::create_directories(folder_);
  KernelMachine other = chooser_.machine;
  other.libraries = "libtorch 2.10.0";
  for (const std::string& text : {std::string("{\"format\": "), KernelChoicesToJson(other, {})}) {
    std::ofstream(Path()) << text;
    std::vector<std::string> notes;
    EXPECT_EQ(LoadAndAsk(4429, &notes), "wide");
    EXPECT_THAT(notes.front(), AllOf(HasSubstr("measured anew"), HasSubstr(Path())));
    EXPECT_EQ(LoadAndAsk(4429), "wide");
    EXPECT_EQ(runs_, 0) << "it was replaced";
  }
}

TEST_F(KernelChooserTest, WhatAnotherModelMeasuredIsKept) {
  EXPECT_EQ(LoadAndAsk(4429), "wide");
  KernelChoices other;
  other.Want({"attention", "bf16", {24, 64, 0}});
  MakeChoices(chooser_, &other);
  EXPECT_EQ(LoadAndAsk(4429), "wide");
  EXPECT_EQ(runs_, 0);
}

TEST_F(KernelChooserTest, AFolderThatCannotBeWrittenCostsTheNextLoadTimeAlone) {
  std::ofstream(folder_.string()) << "a file";
  std::vector<std::string> notes;
  EXPECT_EQ(LoadAndAsk(4429, &notes), "wide");
  EXPECT_THAT(notes.back(), AllOf(HasSubstr("measured at each load"), HasSubstr(folder_.string())));
}

TEST_F(KernelChooserTest, AFailureLeavesTheRestAndIsSaid) {
  const auto candidates = chooser_.candidates;
  chooser_.candidates = [&](const KernelTask& task) -> absl::StatusOr<std::vector<KernelCandidate>> {
    if (task.sizes[2] >= 4096) return absl::ResourceExhaustedError("out of memory");
    return candidates(task);
  };
  std::vector<std::string> notes;
  EXPECT_EQ(LoadAndAsk(2048, &notes), "wide");
  EXPECT_THAT(notes.front(), AllOf(HasSubstr("measurements failed"), HasSubstr("1536x6144x4096: out of memory")));
}

// As on a CPU.
TEST_F(KernelChooserTest, WhereThereIsOneCandidateNothingIsRun) {
  chooser_.candidates = [this](const KernelTask&) -> absl::StatusOr<std::vector<KernelCandidate>> {
    return std::vector<KernelCandidate>{Takes("only", absl::Seconds(1))};
  };
  EXPECT_EQ(LoadAndAsk(4429), "only");
  EXPECT_EQ(runs_, 0);
}

TEST_F(KernelChooserTest, AModelThatWantsNothingTouchesNothing) {
  KernelChoices choices;
  EXPECT_THAT(MakeChoices(chooser_, &choices), IsEmpty());
  EXPECT_FALSE(std::filesystem::exists(folder_));
}

}  // namespace
}  // namespace fresco
