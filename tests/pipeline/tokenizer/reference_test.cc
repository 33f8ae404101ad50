// Ids against transformers', for every text of tests/reference/tokenizers (make_tokenizer_reference.py writes it).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "pipeline/tokenizer/tokenizer.h"

namespace fresco {
namespace {

using nlohmann::json;

std::filesystem::path Reference() {
  return "tests/reference/tokenizers";
}

std::vector<json> ReadLines(const std::filesystem::path& file) {
  std::ifstream in(file);
  std::vector<json> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(json::parse(line));
  return lines;
}

const json& Cases() {
  static const json* const cases = new json(json::parse(std::ifstream(Reference() / "cases.json")));
  return *cases;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& name) {
  const auto folder = Reference() / name;
  return Cases()[name]["kind"] == "clip" ? LoadClipTokenizer(folder) : LoadT5Tokenizer(folder);
}

class ReferenceTest : public testing::TestWithParam<std::string> {};

TEST_P(ReferenceTest, IdsAreThoseOfTransformers) {
  const json& about = Cases()[GetParam()];
  const auto tokenizer = Load(GetParam());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const std::vector<json> texts = ReadLines(Reference() / "texts.jsonl");
  const std::vector<json> rows = ReadLines(Reference() / "ids" / (GetParam() + ".jsonl"));
  const int max_length = about["max_length"];
  const size_t stride = about["stride"];
  ASSERT_GE(texts.size(), 2000u);
  ASSERT_EQ(rows.size(), (texts.size() + stride - 1) / stride);
  for (size_t i = 0; i < rows.size(); ++i) {
    const std::string text = texts[i * stride];
    std::vector<int32_t> expected(rows[i].begin() + 1, rows[i].end());
    expected.resize(max_length, about["pad"]);
    const auto encoded = (*tokenizer)->Encode(text, max_length);
    ASSERT_TRUE(encoded.ok()) << encoded.status();
    EXPECT_EQ(encoded->ids, expected) << "text " << i * stride << ": " << json(text).dump(-1, ' ', true);
    EXPECT_EQ(encoded->untruncated_length, rows[i][0].get<int>()) << json(text).dump(-1, ' ', true);
    EXPECT_EQ(encoded->truncated(), rows[i][0].get<int>() > max_length);
    EXPECT_TRUE(encoded->truncated() || encoded->truncated_text.empty());
  }
}

TEST_P(ReferenceTest, TellsItsSizes) {
  const json& about = Cases()[GetParam()];
  const auto tokenizer = Load(GetParam());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->model_max_length(), about["model_max_length"].get<int>());
  EXPECT_EQ((*tokenizer)->vocab_size(), about["largest_id"].get<int>() + 1);
  EXPECT_EQ((*tokenizer)->pad_id(), about["pad"].get<int>());
}

INSTANTIATE_TEST_SUITE_P(All, ReferenceTest,
                         testing::Values("clip_l", "clip_g", "clip_json", "t5_plain", "t5_json", "demo_l", "demo_g",
                                         "demo_t5"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace fresco
