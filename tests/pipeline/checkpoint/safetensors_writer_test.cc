#include "pipeline/checkpoint/safetensors_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <span>
#include <sstream>
#include <string>

#include "pipeline/checkpoint/safetensors.h"
#include "tests/pipeline/checkpoint/file_maker.h"

namespace fresco {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Tensor = SafetensorsWriter::Tensor;

std::span<const std::byte> Bytes(std::string_view text) {
  return std::as_bytes(std::span(text));
}

std::vector<std::string> FilesIn(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename().string());
  return names;
}

std::string DataOf(const SafetensorsFile& file, std::string_view name) {
  const TensorView tensor = file.Find(name).value();
  return std::string(reinterpret_cast<const char*>(tensor.data), tensor.bytes);
}

TEST(SafetensorsWriter, WritesWhatTheReaderReads) {
  const TempFolder folder;
  const std::string path = folder.path() + "/a.safetensors";
  auto writer = SafetensorsWriter::Create(
      path, {{"scalar", DType::kF32, {}}, {"codes", DType::kF8E4M3, {2, 64}}, {"naïve \"name\"", DType::kU8, {3}}},
      {.metadata = {{"format", "pt"}}});
  ASSERT_TRUE(writer.ok()) << writer.status();
  for (const Tensor& tensor : writer->tensors()) {
    const std::string data(tensor.bytes(), tensor.name.front());
    ASSERT_TRUE(writer->Write(Bytes(data).first(1)).ok());  // in parts
    ASSERT_TRUE(writer->Write(Bytes(data).subspan(1)).ok());
  }
  EXPECT_FALSE(fs::exists(path));
  ASSERT_TRUE(writer->Finish().ok());
  EXPECT_THAT(FilesIn(folder.path()), ElementsAre("a.safetensors"));
  EXPECT_EQ(fs::file_size(path), writer->file_bytes());

  const auto file = SafetensorsFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_THAT((*file)->metadata(), ElementsAre(std::pair("format", "pt")));
  EXPECT_EQ((*file)->entries().size(), 3u);
  EXPECT_EQ(DataOf(**file, "scalar"), "ssss");
  EXPECT_EQ(DataOf(**file, "codes"), std::string(128, 'c'));
  EXPECT_EQ(DataOf(**file, "naïve \"name\""), "nnn");
  EXPECT_EQ((*file)->Find("codes")->dtype, DType::kF8E4M3);
  EXPECT_EQ((*file)->Find("codes")->shape, (std::vector<int64_t>{2, 64}));
  EXPECT_TRUE((*file)->Find("scalar")->shape.empty());
}

TEST(SafetensorsWriter, AlignsTensors) {
  const TempFolder folder;
  const std::string path = folder.path() + "/a.safetensors";
  auto writer = SafetensorsWriter::Create(path,
                                          {{"odd bytes", DType::kU8, {5}},
                                           {"second", DType::kI8, {64}},
                                           {"double", DType::kF64, {3}},
                                           {"half", DType::kF16, {7}},
                                           {"first", DType::kF32, {16}},
                                           {"empty", DType::kF32, {0, 4}}},
                                          {});
  ASSERT_TRUE(writer.ok()) << writer.status();
  std::vector<std::string> names;
  for (const Tensor& tensor : writer->tensors()) {
    names.push_back(tensor.name);
    ASSERT_TRUE(writer->Write(Bytes(std::string(tensor.bytes(), 'x'))).ok());
  }
  EXPECT_THAT(names, ElementsAre("second", "first", "empty", "double", "half", "odd bytes"));
  ASSERT_TRUE(writer->Finish().ok());
  const auto file = SafetensorsFile::Open(path).value();
  for (const auto& [name, entry] : file->entries()) EXPECT_TRUE(file->Find(name)->AlignedToElement()) << name;
  for (const char* name : {"second", "first"}) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(file->Find(name)->data) % SafetensorsWriter::kAlignment, 0u) << name;
  }
}

TEST(SafetensorsWriter, LeavesNothingBehindUnlessItIsFinished) {
  const TempFolder folder;
  const std::string path = folder.path() + "/a.safetensors";
  {
    auto writer = SafetensorsWriter::Create(path, {{"x", DType::kU8, {4}}}, {}).value();
    ASSERT_TRUE(writer.Write(Bytes("abc")).ok());
    const absl::Status early = writer.Finish();
    EXPECT_EQ(early.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(early.message()), HasSubstr(path));
    EXPECT_EQ(writer.Write(Bytes("de")).code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_TRUE(FilesIn(folder.path()).empty());
}

TEST(SafetensorsWriter, ReplacesOnlyWhenItMay) {
  const TempFolder folder;
  const std::string path = folder.Write("a.safetensors", "mine");
  const absl::Status refused = SafetensorsWriter::Create(path, {}, {}).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(refused.message()), HasSubstr(path));
  EXPECT_EQ(fs::file_size(path), 4u);
  auto writer = SafetensorsWriter::Create(path, {}, {.replace = true}).value();
  ASSERT_TRUE(writer.Finish().ok());
  EXPECT_TRUE(SafetensorsFile::Open(path).ok());
}

// One that was killed, or that writes now: in containers all processes may have one number.
TEST(SafetensorsWriter, IsNotHeldUpByWhatAnotherHasLeft) {
  const TempFolder folder;
  const std::string path = folder.path() + "/a.safetensors";
  auto other = SafetensorsWriter::Create(path, {{"x", DType::kU8, {1}}}, {}).value();
  auto writer = SafetensorsWriter::Create(path, {{"x", DType::kU8, {1}}}, {});
  ASSERT_TRUE(writer.ok()) << writer.status();
  ASSERT_TRUE(other.Write(Bytes("o")).ok());
  ASSERT_TRUE(writer->Write(Bytes("w")).ok());
  ASSERT_TRUE(writer->Finish().ok());
  const auto file = SafetensorsFile::Open(path).value();
  EXPECT_EQ(static_cast<char>(*file->Find("x")->data), 'w');
}

TEST(SafetensorsWriter, ErrorsNameThePath) {
  const TempFolder folder;
  const std::string nowhere = folder.path() + "/no/such/folder/a.safetensors";
  EXPECT_THAT(std::string(SafetensorsWriter::Create(nowhere, {}, {}).status().message()), HasSubstr(nowhere));
  const std::string path = folder.path() + "/a.safetensors";
  const absl::Status twice =
      SafetensorsWriter::Create(path, {{"x", DType::kU8, {1}}, {"x", DType::kU8, {1}}}, {}).status();
  EXPECT_EQ(twice.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(twice.message()), AllOf(HasSubstr(path), HasSubstr("\"x\"")));
}

// A limit on the size of files stands for a disk that has no room.
TEST(SafetensorsWriter, NoRoomIsAnError) {
  const TempFolder folder;
  const std::string path = folder.path() + "/a.safetensors";
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit small = before;
  small.rlim_cur = 4096;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  absl::Status status;
  {
    auto writer = SafetensorsWriter::Create(path, {{"x", DType::kU8, {8192}}}, {});
    status = writer.ok() ? writer->Write(Bytes(std::string(8192, 'x'))) : writer.status();
  }
  setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), HasSubstr(path));
  EXPECT_TRUE(FilesIn(folder.path()).empty());
}

}  // namespace
}  // namespace fresco
