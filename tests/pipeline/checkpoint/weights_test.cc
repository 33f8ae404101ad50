#include "pipeline/checkpoint/weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <stop_token>
#include <string>
#include <vector>

#include "tests/pipeline/checkpoint/file_maker.h"

namespace fresco {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;

std::string Message(const absl::Status& status) {
  return std::string(status.message());
}

// A file of one U8 vector.
std::string OneTensor(const std::string& name, const std::string& data) {
  const std::string size = std::to_string(data.size());
  return SafetensorsBytes(
      "{\"" + name + "\":{\"dtype\":\"U8\",\"shape\":[" + size + "],\"data_offsets\":[0," + size + "]}}", data);
}

std::string DataOf(const WeightStore& store, std::string_view name) {
  const auto tensor = store.Find(name);
  if (!tensor.ok()) return Message(tensor.status());
  return std::string(reinterpret_cast<const char*>(tensor->data), tensor->bytes);
}

TEST(WeightStore, OpensOneFile) {
  TempFolder folder;
  folder.Write("model.safetensors", OneTensor("w", "one"));
  const auto store = WeightStore::Open(folder.path(), "model");
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ(DataOf(*store, "w"), "one");
  EXPECT_EQ(store->total_bytes(), 3);
}

TEST(WeightStore, OpensShards) {
  TempFolder folder;
  folder.Write("m-00001-of-00002.safetensors", OneTensor("b", "bee"));
  folder.Write("m-00002-of-00002.safetensors", OneTensor("a", "ay"));
  folder.Write("m.safetensors.index.json",
               R"({"metadata":{"total_size":5},"weight_map":)"
               R"({"a":"m-00002-of-00002.safetensors","b":"m-00001-of-00002.safetensors"}})");
  const auto store = WeightStore::Open(folder.path(), "m");
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_THAT(store->Names(), ElementsAre("a", "b"));
  EXPECT_EQ(DataOf(*store, "a"), "ay");
  EXPECT_EQ(DataOf(*store, "b"), "bee");
  EXPECT_EQ(store->total_bytes(), 5);
  EXPECT_THAT(store->PathOf("a"), HasSubstr("m-00002-of-00002.safetensors"));
}

TEST(WeightStore, PrefersThePlainFileToVariants) {
  TempFolder folder;
  folder.Write("m.fp16.safetensors", OneTensor("w", "half"));
  folder.Write("m.bf16.safetensors", OneTensor("w", "brain"));
  EXPECT_EQ(DataOf(WeightStore::Open(folder.path(), "m").value(), "w"), "brain");  // the first by name
  EXPECT_EQ(DataOf(WeightStore::Open(folder.path(), "m", "fp16").value(), "w"), "half");
  folder.Write("m.safetensors", OneTensor("w", "plain"));
  EXPECT_EQ(DataOf(WeightStore::Open(folder.path(), "m").value(), "w"), "plain");
  EXPECT_EQ(WeightStore::Open(folder.path(), "m", "int8").status().code(), absl::StatusCode::kNotFound);
}

// transformers and diffusers put the variant in different places of a sharded file's names.
TEST(WeightStore, OpensShardedVariants) {
  for (const char* index : {"m.fp16.safetensors.index.json", "m.safetensors.index.fp16.json"}) {
    TempFolder folder;
    folder.Write("m.fp16-00001-of-00001.safetensors", OneTensor("w", "half"));
    folder.Write(index, R"({"weight_map":{"w":"m.fp16-00001-of-00001.safetensors"}})");
    const auto store = WeightStore::Open(folder.path(), "m");
    ASSERT_TRUE(store.ok()) << index << ": " << store.status();
    EXPECT_EQ(DataOf(*store, "w"), "half");
  }
}

TEST(WeightStore, IgnoresOtherFiles) {
  TempFolder folder;
  folder.Write("model.safetensors.part", "x");
  folder.Write("model-00001-of-00002.safetensors", OneTensor("w", "x"));
  folder.Write("other.safetensors", OneTensor("w", "x"));
  folder.Write("model", "x");
  const absl::Status status = WeightStore::Open(folder.path(), "model").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Message(status), AllOf(HasSubstr(folder.path()), HasSubstr("model.safetensors")));
  EXPECT_EQ(WeightStore::Open(folder.path() + "/none", "model").status().code(), absl::StatusCode::kNotFound);
}

// A file of one empty tensor, with metadata.
std::string WithMetadata(const std::string& name, const std::string& metadata) {
  return SafetensorsBytes(
      "{\"__metadata__\":" + metadata + ",\"" + name + R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})", "");
}

// One byte each.
std::string Tensors(const std::vector<std::string>& names, char data) {
  std::string header;
  for (size_t i = 0; i < names.size(); ++i) {
    header += (header.empty() ? "{\"" : ",\"") + names[i] + "\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[" +
              std::to_string(i) + "," + std::to_string(i + 1) + "]}";
  }
  return SafetensorsBytes(header + "}", std::string(names.size(), data));
}

TEST(WeightStore, LayersOfAnotherFileTakeTheirPlaceWhole) {
  TempFolder folder;
  const std::string own =
      folder.Write("own.safetensors",
                   Tensors({"a.bias", "a.scale_weight", "a.weight", "ab.weight", "b.bias", "b.weight", "norm"}, 'o'));
  const std::string other = folder.Write(
      "other.safetensors", Tensors({"a.weight", "a.weight_scale", "ab.weight", "b.bias", "b.weight", "lost"}, 'n'));
  const WeightStore store = WeightStore::OpenFile(own).value().WithLayersOf(
      WeightStore::OpenFile(other).value(), [](std::string_view layer) { return layer != "ab"; });
  // Nothing of how a was stored before is left, its bias aside; b has a bias of its own; ab was not wanted, and what
  // belongs to no layer is not taken.
  EXPECT_THAT(store.Names(),
              ElementsAre("a.bias", "a.weight", "a.weight_scale", "ab.weight", "b.bias", "b.weight", "norm"));
  std::string data;
  for (const std::string& name : store.Names()) data += DataOf(store, name);
  EXPECT_EQ(data, "onnonno");
  EXPECT_EQ(store.PathOf("a.weight"), other);
  EXPECT_EQ(store.path(), own);
}

TEST(WeightStore, HasTheFilesMetadata) {
  TempFolder folder;
  folder.Write("m.safetensors", WithMetadata("w", R"({"format":"pt"})"));
  EXPECT_THAT(WeightStore::Open(folder.path(), "m")->metadata(), ElementsAre(Pair("format", "pt")));
  folder.Write("s.2.safetensors", WithMetadata("a", R"({"format":"second","more":"x"})"));
  folder.Write("s.1.safetensors", WithMetadata("b", R"({"format":"first"})"));
  folder.Write("s.safetensors.index.json", R"({"weight_map":{"a":"s.2.safetensors","b":"s.1.safetensors"}})");
  EXPECT_THAT(WeightStore::Open(folder.path(), "s")->metadata(),
              ElementsAre(Pair("format", "first"), Pair("more", "x")));
  folder.Write("none.safetensors", OneTensor("w", "x"));
  EXPECT_THAT(WeightStore::Open(folder.path(), "none")->metadata(), IsEmpty());
}

struct BadIndex {
  const char* name;
  std::string index;
  const char* message;
};

void PrintTo(const BadIndex& bad, std::ostream* out) {
  *out << bad.name;
}

class BadIndexTest : public ::testing::TestWithParam<BadIndex> {};

TEST_P(BadIndexTest, IsRefused) {
  TempFolder folder;
  folder.Write("one.safetensors", OneTensor("w", "x"));
  const std::string path = folder.Write("m.safetensors.index.json", GetParam().index);
  const absl::Status status = WeightStore::Open(folder.path(), "m").status();
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(Message(status), AllOf(HasSubstr(path), HasSubstr(GetParam().message)));
}

INSTANTIATE_TEST_SUITE_P(
    WeightStore, BadIndexTest,
    ::testing::Values(
        BadIndex{"NotJson", "{", "not JSON"}, BadIndex{"NoMap", "{}", "weight_map"},
        BadIndex{"List", "[]", "weight_map"}, BadIndex{"ShardNumber", R"({"weight_map":{"w":1}})", "not a file name"},
        BadIndex{"ShardElsewhere", R"({"weight_map":{"w":"../one.safetensors"}})", "not a file name"},
        BadIndex{"ShardAbsolute", R"({"weight_map":{"w":"/etc/passwd"}})", "not a file name"},
        BadIndex{"ShardDots", R"({"weight_map":{"w":".."}})", "not a file name"},
        BadIndex{"ShardNul", R"({"weight_map":{"w":"one\u0000.safetensors"}})", "not a file name"},
        BadIndex{"ShardControl", R"({"weight_map":{"w":"one\u001b.safetensors"}})", "not a file name"},
        BadIndex{"ShardLong", R"({"weight_map":{"w":")" + std::string(1 << 20, 'x') + R"("}})", "not a file name"},
        BadIndex{"ShardMissing", R"({"weight_map":{"w":"two.safetensors"}})", "two.safetensors"},
        BadIndex{"TensorElsewhere", R"({"weight_map":{"v":"one.safetensors"}})", "\"v\" is not in"},
        BadIndex{"Duplicate", R"({"weight_map":{"w":"one.safetensors","w":"one.safetensors"}})", "twice"}),
    [](const auto& info) { return std::string(info.param.name); });

// Expected values by Python's hashlib, from the definition in the header:
//   h = hashlib.sha256(); for name, dtype, shape, data: h.update(name + b"\0" + dtype + b"\0" + shape + b"\0" +
//   hashlib.sha256(data).digest())
TEST(WeightStore, DigestIsAsDefined) {
  TempFolder folder;
  folder.Write("m.safetensors", SafetensorsBytes(R"({"b":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},)"
                                                 R"("a":{"dtype":"I16","shape":[2,1],"data_offsets":[3,7]}})",
                                                 "beewxyz"));
  const WeightStore store = WeightStore::Open(folder.path(), "m").value();
  const std::string digest = "sha256:6bb6a77e8842360f4bb941614f6d7124d9a3251b0436585e0e53f1a4ac31c3b7";
  EXPECT_EQ(store.Digest().value(), digest);
  EXPECT_EQ(store.Digest(3).value(), digest);

  folder.Write("s.a.safetensors",
               SafetensorsBytes(R"({"a":{"dtype":"I16","shape":[2,1],"data_offsets":[0,4]}})", "wxyz"));
  folder.Write("s.b.safetensors", OneTensor("b", "bee"));
  folder.Write("s.safetensors.index.json", R"({"weight_map":{"a":"s.a.safetensors","b":"s.b.safetensors"}})");
  EXPECT_EQ(WeightStore::Open(folder.path(), "s")->Digest().value(), digest) << "depends on the shards";
}

// By the same definition.
TEST(WeightStore, AnUnknownTypeIsListedAndHashed) {
  TempFolder folder;
  folder.Write("m.safetensors", SafetensorsBytes(R"({"a":{"dtype":"F4","shape":[4],"data_offsets":[0,2]},)"
                                                 R"("b":{"dtype":"U8","shape":[3],"data_offsets":[2,5]}})",
                                                 "wxbee"));
  const WeightStore store = WeightStore::Open(folder.path(), "m").value();
  EXPECT_EQ(store.Digest().value(), "sha256:ce2fa2d76347e6d06b35c4028cedac5f9f78689d947041bec02aab50f85b8c39");
  const SafetensorsFile::Entry* const entry = store.FindEntry("a");
  ASSERT_NE(entry, nullptr);
  EXPECT_EQ(entry->dtype_name, "F4");
  EXPECT_EQ(entry->numel(), 4);
  EXPECT_EQ(entry->bytes(), 2u);
  EXPECT_EQ(store.FindEntry("c"), nullptr);
}

TEST(WeightStore, DigestStopsWhenItIsAskedTo) {
  TempFolder folder;
  const WeightStore store = WeightStore::OpenFile(folder.Write("m.safetensors", OneTensor("b", "bee"))).value();
  std::stop_source stop;
  EXPECT_TRUE(store.Digest(1, stop.get_token()).ok());
  stop.request_stop();
  EXPECT_EQ(store.Digest(1, stop.get_token()).status().code(), absl::StatusCode::kCancelled);
}

TEST(WeightStore, DigestIsOfEveryByteOfALargeTensor) {
  TempFolder folder;
  const auto digest = [&](const std::string& data) {
    return WeightStore::OpenFile(folder.Write("m.safetensors", OneTensor("b", data))).value().Digest().value();
  };
  std::string data((20 << 20) + 3, 'x');
  const std::string whole = digest(data);
  for (const size_t at : {size_t{0}, size_t{8} << 20, data.size() - 1}) {
    std::string changed = data;
    changed[at] = 'y';
    EXPECT_NE(digest(changed), whole) << at;
  }
}

TEST(WeightStore, DigestTellsChangesApart) {
  TempFolder folder;
  const auto digest = [&](const std::string& bytes) {
    return WeightStore::OpenFile(folder.Write("m.safetensors", bytes)).value().Digest().value();
  };
  const auto entry = [](const char* name, const char* dtype, const char* shape) {
    return std::string("{\"") + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape +
           ",\"data_offsets\":[0,4]}}";
  };
  const std::string base = digest(SafetensorsBytes(entry("w", "U8", "[4]"), "abcd"));
  EXPECT_NE(base, digest(SafetensorsBytes(entry("w", "U8", "[4]"), "abce")));
  EXPECT_NE(base, digest(SafetensorsBytes(entry("v", "U8", "[4]"), "abcd")));
  EXPECT_NE(base, digest(SafetensorsBytes(entry("w", "I8", "[4]"), "abcd")));
  EXPECT_NE(base, digest(SafetensorsBytes(entry("w", "U8", "[2,2]"), "abcd")));
}

}  // namespace
}  // namespace fresco
