#include "pipeline/checkpoint/json_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/pipeline/checkpoint/file_maker.h"

namespace fresco {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class JsonConfigTest : public ::testing::Test {
 protected:
  JsonConfig Read(const std::string& text) { return JsonConfig::Open(folder_.Write("config.json", text)).value(); }
  std::string Fails(const absl::Status& status) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  }
  TempFolder folder_;
};

TEST_F(JsonConfigTest, ReadsValues) {
  const JsonConfig json = Read(R"({"n":7,"x":1.5,"b":true,"s":"text","l":[3,1],"t":["a"],"whole":2})");
  EXPECT_EQ(json.Int("n", {}, 0, 10).value(), 7);
  EXPECT_EQ(json.Double("x", {}).value(), 1.5);
  EXPECT_EQ(json.Double("whole", {}).value(), 2.0);
  EXPECT_EQ(json.Bool("b", {}).value(), true);
  EXPECT_EQ(json.String("s", {}).value(), "text");
  EXPECT_THAT(json.Ints("l", {}, 0, 10).value(), ElementsAre(3, 1));
  EXPECT_THAT(json.Strings("t", {}).value(), ElementsAre("a"));
  EXPECT_TRUE(json.Has("n"));
}

TEST_F(JsonConfigTest, AbsentAndNullGiveTheDefault) {
  const JsonConfig json = Read(R"({"null":null})");
  for (const char* key : {"null", "absent"}) {
    EXPECT_EQ(json.Int(key, 3, 0, 10).value(), 3);
    EXPECT_EQ(json.String(key, "d").value(), "d");
    EXPECT_FALSE(json.Has(key));
    EXPECT_THAT(Fails(json.Int(key, {}, 0, 10).status()), AllOf(HasSubstr("config.json"), HasSubstr(key)));
  }
}

TEST_F(JsonConfigTest, WrongTypesAndRangesNameTheKey) {
  const JsonConfig json = Read(R"({"k":"seven","big":18446744073709551615,"half":1.5,"l":[1,"a"],"n":7})");
  EXPECT_THAT(Fails(json.Int("k", {}, 0, 10).status()),
              AllOf(HasSubstr("config.json"), HasSubstr("k"), HasSubstr("0 to 10")));
  Fails(json.Int("big", {}, 0, 10).status());
  Fails(json.Int("half", {}, 0, 10).status());
  Fails(json.Int("n", {}, 0, 6).status());
  Fails(json.Int("n", {}, 8, 10).status());
  Fails(json.Ints("l", {}, 0, 10).status());
  Fails(json.Strings("l", {}).status());
  Fails(json.Bool("n", {}).status());
  Fails(json.Double("k", {}).status());
  Fails(json.String("n", {}).status());
}

TEST_F(JsonConfigTest, UnsoundFilesAreRefused) {
  const auto open = [&](const std::string& text) { return JsonConfig::Open(folder_.Write("c.json", text)).status(); };
  EXPECT_THAT(Fails(open("{\"a\":")), AllOf(HasSubstr("c.json"), HasSubstr("not JSON")));
  EXPECT_THAT(Fails(open("[1]")), HasSubstr("not an object"));
  EXPECT_THAT(Fails(open(R"({"a":1,"a":2})")), HasSubstr("twice"));
  std::string deep = "{\"a\":";
  for (int i = 0; i < 100000; ++i) deep += "[";
  EXPECT_THAT(Fails(open(deep)), HasSubstr("deep"));
  EXPECT_EQ(JsonConfig::Open(folder_.path() + "/none").status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace fresco
