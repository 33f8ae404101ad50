#include "pipeline/checkpoint/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <random>

#include "tests/pipeline/checkpoint/file_maker.h"

namespace fresco {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string Message(const absl::Status& status) {
  return std::string(status.message());
}

TEST(Safetensors, ReadsTensorsAndMetadata) {
  TempFolder folder;
  const std::string path =
      folder.Write("a.safetensors", SafetensorsBytes(R"({"__metadata__":{"format":"pt"},)"
                                                     R"("x":{"dtype":"I32","shape":[2,1],"data_offsets":[0,8]},)"
                                                     R"("s":{"dtype":"U8","shape":[],"data_offsets":[8,9]},)"
                                                     R"("none":{"dtype":"F32","shape":[0,4],"data_offsets":[9,9]}}  )",
                                                     std::string("\x01\0\0\0\xff\xff\xff\xff\x07", 9)));
  const auto file = SafetensorsFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->metadata().at("format"), "pt");
  const auto x = (*file)->Find("x");
  ASSERT_TRUE(x.ok()) << x.status();
  EXPECT_EQ(x->dtype, DType::kI32);
  EXPECT_THAT(x->shape, ElementsAre(2, 1));
  int32_t values[2];
  ASSERT_EQ(x->bytes, sizeof(values));
  std::memcpy(values, x->data, sizeof(values));
  EXPECT_THAT(values, ElementsAre(1, -1));
  const auto scalar = (*file)->Find("s");
  ASSERT_TRUE(scalar.ok()) << scalar.status();
  EXPECT_EQ(scalar->numel(), 1);
  EXPECT_EQ(static_cast<int>(scalar->data[0]), 7);
  EXPECT_EQ((*file)->Find("none")->numel(), 0);
}

TEST(Safetensors, TensorsOutliveTheFileObject) {
  TempFolder folder;
  const std::string path = folder.Write(
      "a.safetensors", SafetensorsBytes(R"({"x":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}})", "abc"));
  const TensorView x = SafetensorsFile::Open(path).value()->Find("x").value();
  std::filesystem::remove(path);
  EXPECT_EQ(std::string_view(reinterpret_cast<const char*>(x.data), x.bytes), "abc");
}

// Every type the format's own documentation lists, with its size there.
TEST(Safetensors, KnowsEveryType) {
  const std::pair<const char*, int> kTypes[] = {{"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E4M3", 1}, {"F8_E5M2", 1},
                                                {"I16", 2},  {"U16", 2}, {"F16", 2}, {"BF16", 2},    {"I32", 4},
                                                {"U32", 4},  {"F32", 4}, {"I64", 8}, {"U64", 8},     {"F64", 8}};
  TempFolder folder;
  for (const auto& [name, bytes] : kTypes) {
    const std::string header = std::string(R"({"x":{"dtype":")") + name + R"(","shape":[3],"data_offsets":[0,)" +
                               std::to_string(3 * bytes) + "]}}";
    const auto file = SafetensorsFile::Open(folder.Write("t", SafetensorsBytes(header, std::string(3 * bytes, 'x'))));
    ASSERT_TRUE(file.ok()) << name << ": " << file.status();
    EXPECT_EQ(DTypeName((*file)->Find("x")->dtype), name);
  }
}

TEST(Safetensors, UnknownTypeFailsOnlyWhoAsksForIt) {
  TempFolder folder;
  const std::string path =
      folder.Write("a.safetensors", SafetensorsBytes(R"({"odd":{"dtype":"F4","shape":[4],"data_offsets":[0,2]},)"
                                                     R"("even":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})",
                                                     "abc"));
  const auto file = SafetensorsFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE((*file)->Find("even").ok());
  const absl::Status odd = (*file)->Find("odd").status();
  EXPECT_EQ(odd.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(Message(odd), ::testing::AllOf(HasSubstr(path), HasSubstr("\"odd\""), HasSubstr("F4")));
}

TEST(Safetensors, MisalignedDataAreSaidToBe) {
  TempFolder folder;
  // 8 + 63 bytes of header: the F32 that follows starts at an odd address.
  std::string header = R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
  header.resize(63, ' ');
  const auto file = SafetensorsFile::Open(folder.Write("a", SafetensorsBytes(header, "\x01\x02\x03\x04")));
  ASSERT_TRUE(file.ok()) << file.status();
  const TensorView x = (*file)->Find("x").value();
  EXPECT_FALSE(x.AlignedToElement());
  EXPECT_EQ(static_cast<int>(x.data[3]), 4);
}

TEST(Safetensors, MissingTensorIsNamed) {
  TempFolder folder;
  const auto file = SafetensorsFile::Open(folder.Write("a.safetensors", SafetensorsBytes("{}", "")));
  ASSERT_TRUE(file.ok()) << file.status();
  const absl::Status missing = (*file)->Find("no\nsuch").status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Message(missing), HasSubstr("no\\nsuch"));
}

TEST(Safetensors, WhatIsNoFileIsRefused) {
  TempFolder folder;
  EXPECT_EQ(SafetensorsFile::Open(folder.path() + "/none").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(SafetensorsFile::Open(folder.path()).status().code(), absl::StatusCode::kInvalidArgument);
  const std::string fifo = folder.path() + "/fifo";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_EQ(SafetensorsFile::Open(fifo).status().code(), absl::StatusCode::kInvalidArgument);
}

struct Hostile {
  const char* name;
  std::string bytes;
  const char* message;  // part of it
};

void PrintTo(const Hostile& hostile, std::ostream* out) {
  *out << hostile.name;
}

std::string Entry(const std::string& body, const std::string& data = "abcd") {
  return SafetensorsBytes("{\"x\":{" + body + "}}", data);
}

std::vector<Hostile> HostileFiles() {
  const std::string good = R"("dtype":"F32","shape":[1],"data_offsets":[0,4])";
  return {
      {"Empty", "", "truncated"},
      {"NoLength", "abc", "truncated"},
      {"HeaderLongerThanFile", SafetensorsBytes("{}", "", 1000), "truncated"},
      {"HeaderLengthHuge", SafetensorsBytes("{}", "", INT64_MAX), "header of"},
      {"HeaderLengthAllOnes", std::string(8, '\xff') + "{}", "header of"},
      {"EmptyHeader", SafetensorsBytes("", ""), "not JSON"},
      {"NotJson", SafetensorsBytes("hello", ""), "not JSON"},
      {"CutJson", SafetensorsBytes(R"({"x":{"dtype":"F32")", ""), "not JSON"},
      {"TwoValues", SafetensorsBytes("{}{}", ""), "not JSON"},
      {"BadUtf8", SafetensorsBytes("{\"\xff\xfe\":1}", ""), "not JSON"},
      {"Array", SafetensorsBytes("[]", ""), "not an object"},
      {"Deep", SafetensorsBytes(std::string(100000, '['), ""), "deep"},
      {"DeepObjects", SafetensorsBytes(R"({"a":{"a":{"a":{"a":{"a":1}}}}})", ""), "deep"},
      {"DuplicateTensor", SafetensorsBytes("{\"x\":{" + good + "},\"x\":{" + good + "}}", "abcd"), "occurs twice"},
      {"DuplicateKey", Entry(R"("dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4])"), "occurs twice"},
      {"EntryNotObject", SafetensorsBytes(R"({"x":3})", ""), "\"x\""},
      {"NoDtype", Entry(R"("shape":[1],"data_offsets":[0,4])"), "dtype"},
      {"DtypeNumber", Entry(R"("dtype":5,"shape":[1],"data_offsets":[0,4])"), "dtype"},
      {"NoShape", Entry(R"("dtype":"F32","data_offsets":[0,4])"), "shape"},
      {"ShapeString", Entry(R"("dtype":"F32","shape":"1","data_offsets":[0,4])"), "shape"},
      {"ShapeNegative", Entry(R"("dtype":"F32","shape":[-1],"data_offsets":[0,4])"), "extent"},
      {"ShapeFraction", Entry(R"("dtype":"F32","shape":[1.0],"data_offsets":[0,4])"), "extent"},
      {"ShapeOver63Bits", Entry(R"("dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,4])"), "extent"},
      {"ShapeOver64Bits", Entry(R"("dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,4])"), "extent"},
      {"ShapeOverflows", Entry(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4])"), "overflow"},
      // 2^62 elements of 4 bytes: 2^64, which is 0.
      {"BytesOverflowToZero", Entry(R"("dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0])", ""),
       "overflow"},
      // 2^64 - 2 elements, of which there are none: in 63 bits their number overflows on the way.
      {"ElementsOverflowToZero", Entry(R"("dtype":"U8","shape":[9223372036854775807,2,0],"data_offsets":[0,0])", ""),
       "overflow"},
      {"RankHuge", Entry(R"("dtype":"F32","shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1],"data_offsets":[0,4])"),
       "dimensions"},
      {"ShapeAndBytesDiffer", Entry(R"("dtype":"F32","shape":[2],"data_offsets":[0,4])"), "takes 8 bytes"},
      // Of a type that is not known each element has a bit at least.
      {"MoreElementsThanBits", Entry(R"("dtype":"F1","shape":[40],"data_offsets":[0,4])"), "40] has more elements"},
      {"ElementsOverflow", Entry(R"("dtype":"F1","shape":[4294967296,4294967296],"data_offsets":[0,4])"), "overflow"},
      {"NoOffsets", Entry(R"("dtype":"F32","shape":[1])"), "data_offsets"},
      {"OneOffset", Entry(R"("dtype":"F32","shape":[1],"data_offsets":[4])"), "data_offsets"},
      {"OffsetNegative", Entry(R"("dtype":"F32","shape":[1],"data_offsets":[-4,0])"), "data_offsets"},
      {"OffsetsReversed", Entry(R"("dtype":"F32","shape":[1],"data_offsets":[4,0])"), "outside"},
      {"OffsetBehindEnd", Entry(R"("dtype":"F32","shape":[2],"data_offsets":[0,8])"), "outside"},
      {"OffsetHuge", Entry(R"("dtype":"F32","shape":[1],"data_offsets":[18446744073709551612,18446744073709551615])"),
       "outside"},
      {"Gap", Entry(R"("dtype":"F32","shape":[1],"data_offsets":[4,8])", "abcdefgh"), "gap"},
      {"TrailingBytes", Entry(good, "abcdefgh"), "belong to none"},
      {"Overlap",
       SafetensorsBytes(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                        R"("b":{"dtype":"U8","shape":[3],"data_offsets":[2,5]}})",
                        "abcde"),
       "overlap"},
      {"MetadataNotObject", SafetensorsBytes(R"({"__metadata__":[]})", ""), "__metadata__"},
      {"MetadataNumber", SafetensorsBytes(R"({"__metadata__":{"a":1}})", ""), "__metadata__"},
  };
}

class HostileFile : public ::testing::TestWithParam<Hostile> {};

TEST_P(HostileFile, IsRefusedWithItsNameAndReason) {
  TempFolder folder;
  const std::string path = folder.Write("bad.safetensors", GetParam().bytes);
  const absl::Status status = SafetensorsFile::Open(path).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(status), ::testing::AllOf(HasSubstr(path), HasSubstr(GetParam().message)));
}

INSTANTIATE_TEST_SUITE_P(Safetensors, HostileFile, ::testing::ValuesIn(HostileFiles()),
                         [](const auto& info) { return std::string(info.param.name); });

// Whatever a byte is changed to, the file is refused or all its tensors can be read to their ends (sanitizers see
// whether).
TEST(Safetensors, SurvivesAnyDamage) {
  const std::string sound = SafetensorsBytes(R"({"__metadata__":{"k":"v"},)"
                                             R"("a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},)"
                                             R"("b":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]}})",
                                             std::string(22, 'd'));
  TempFolder folder;
  std::mt19937 random(7);
  int refused = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string bytes = sound;
    const int changes = 1 + static_cast<int>(random() % 3);
    for (int i = 0; i < changes; ++i) {
      const size_t where = random() % (bytes.size() - 22);  // lengths and header, where damage matters
      switch (random() % 4) {
        case 0:
          bytes[where] = static_cast<char>(random());
          break;
        case 1:
          bytes[where] = "0123456789[]{}\",:-e."[random() % 20];
          break;
        case 2:
          bytes.erase(where, 1 + random() % 8);
          break;
        default:
          bytes.insert(where, bytes.substr(random() % bytes.size(), random() % 16));
          break;
      }
    }
    const auto file = SafetensorsFile::Open(folder.Write("damaged", bytes));
    if (!file.ok()) {
      ++refused;
      continue;
    }
    for (const auto& [name, entry] : (*file)->entries()) {
      const auto tensor = (*file)->Find(name);
      if (!tensor.ok()) continue;
      unsigned sum = 0;
      for (size_t i = 0; i < tensor->bytes; ++i) sum += static_cast<unsigned>(tensor->data[i]);
      EXPECT_LE(sum, 255 * tensor->bytes);
    }
  }
  EXPECT_GT(refused, 1000);
}

}  // namespace
}  // namespace fresco
