#include "pipeline/precision/kernel_choice_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace fresco {
namespace {

using ::testing::HasSubstr;

const KernelMachine kMachine{"NVIDIA H200", "libtorch 2.11.0, CUDA 13000", "0.1.0"};

std::map<KernelTask, MeasuredKernel> SomeChoices() {
  return {{{"attention", "bf16", {24, 64, 4096}}, {"cudnn", {{"cudnn", 1.5e-3}, {"flash", 2e-3}}, {}}},
          {{"int8", "bf16", {1536, 6144, 128}}, {"sums", {}, {}}}};
}

class KernelChoiceFile : public ::testing::Test {
 protected:
  KernelChoiceFile()
      : folder_(std::filesystem::path(::testing::TempDir()) /
                (std::string("choices_") + ::testing::UnitTest::GetInstance()->current_test_info()->name())) {
    std::filesystem::remove_all(folder_);
  }

  std::string Path() const { return KernelChoicesPath(folder_.string(), kMachine); }

  absl::Status ErrorOf(const std::string& text) {
    std::filesystem::create_directories(folder_);
    std::ofstream(Path()) << text;
    return LoadKernelChoices(kMachine, Path()).status();
  }

  const std::filesystem::path folder_;
};

TEST_F(KernelChoiceFile, IsReadAsItWasWritten) {
  EXPECT_EQ(LoadKernelChoices(kMachine, Path()).status().code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(SaveKernelChoices(kMachine, SomeChoices(), Path()).ok()) << "its folder is made";
  const auto read = LoadKernelChoices(kMachine, Path());
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, SomeChoices());
  // Nothing else is left there.
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}), 1);
}

TEST_F(KernelChoiceFile, IsReplacedAsAWhole) {
  ASSERT_TRUE(SaveKernelChoices(kMachine, SomeChoices(), Path()).ok());
  ASSERT_TRUE(SaveKernelChoices(kMachine, {}, Path()).ok());
  EXPECT_TRUE(LoadKernelChoices(kMachine, Path()).value().empty());
}

TEST_F(KernelChoiceFile, AnotherMachineIsNotThis) {
  for (KernelMachine other : {KernelMachine{"NVIDIA L40S", kMachine.libraries, kMachine.build},
                              KernelMachine{kMachine.device, "libtorch 2.12.0, CUDA 13000", kMachine.build},
                              KernelMachine{kMachine.device, kMachine.libraries, "0.2.0"}}) {
    ASSERT_TRUE(SaveKernelChoices(other, SomeChoices(), Path()).ok());
    const absl::Status status = LoadKernelChoices(kMachine, Path()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(Path()));
  }
}

// Two GPUs of one server have a file each.
TEST_F(KernelChoiceFile, EachDeviceHasItsOwn) {
  KernelMachine other = kMachine;
  other.device = "../NVIDIA L40S";
  const std::string path = KernelChoicesPath(folder_.string(), other);
  EXPECT_NE(path, Path());
  EXPECT_EQ(std::filesystem::path(path).parent_path(), folder_);
}

TEST_F(KernelChoiceFile, WhatCannotBeWrittenIsAnError) {
  std::ofstream(folder_.string()) << "a file";
  const absl::Status status = SaveKernelChoices(kMachine, SomeChoices(), Path());
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr(folder_.string()));
}

TEST_F(KernelChoiceFile, ADamagedOneIsAnErrorThatSaysWhere) {
  const std::string head = R"({"format": "fresco-kernel-choices", "version": 1, "machine": {"device": "NVIDIA H200",)"
                           R"("libraries": "libtorch 2.11.0, CUDA 13000", "build": "0.1.0"}, "choices": )";
  const std::string good = R"({"operation": "fp8", "type": "bf16", "sizes": [1, 2, 3], "winner": "a", "seconds": {}})";
  EXPECT_TRUE(ErrorOf(head + "[" + good + "]}").ok()) << ErrorOf(head + "[" + good + "]}");
  const auto changed = [&](const std::string& from, const std::string& to) {
    std::string entry = good;
    entry.replace(entry.find(from), from.size(), to);
    return head + "[" + entry + "]}";
  };
  const std::vector<std::pair<std::string, std::string>> mistakes = {
      {"", "is not JSON"},
      {head + "[" + good, "is not JSON"},
      {"[]", "format"},
      {R"({"format": "fresco-cost-model", "version": 1})", "format"},
      {R"({"format": "fresco-kernel-choices", "version": 1})", "machine"},
      {head + "{}}", "choices: must be"},
      {head + "[7]}", "choices[0]: must be an object"},
      {head + "[" + good + "," + good + "]}", "choices[1]: is there twice"},
      {changed("\"fp8\"", "8"), "choices[0]: operation"},
      {changed("[1, 2, 3]", "[1, 2]"), "choices[0]: sizes"},
      {changed("[1, 2, 3]", "[1, 2, -3]"), "choices[0]: sizes"},
      {changed("[1, 2, 3]", "[1, 2, 1e300]"), "choices[0]: sizes"},
      {changed("\"winner\"", "\"loser\""), "choices[0]: winner"},
      {changed("{}}", "{\"b\": 1}}"), "choices[0]: seconds: must have the winner's"},
      {changed("{}}", "{\"a\": -1}}"), "choices[0]: seconds"},
      {changed("{}}", "{\"a\": \"fast\"}}"), "choices[0]: seconds"},
  };
  for (const auto& [text, message] : mistakes) {
    const absl::Status status = ErrorOf(text);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text << "\n" << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message)) << text;
  }
}

}  // namespace
}  // namespace fresco
