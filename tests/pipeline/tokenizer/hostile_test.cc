// Files that are broken or hostile, and arguments that are wrong: a clear error, never a crash. Run under asan too.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "pipeline/tokenizer/tokenizer.h"

namespace fresco {
namespace {

using testing::HasSubstr;

constexpr char kReference[] = "tests/reference/tokenizers/";

std::string ReadBytes(const std::filesystem::path& file) {
  std::stringstream bytes;
  bytes << std::ifstream(file, std::ios::binary).rdbuf();
  return bytes.str();
}

// A folder of its own for each test.
class HostileTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "tokenizer_XXXXXX";
    folder_ = mkdtemp(name.data());
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  void Write(const std::string& name, const std::string& bytes) {
    std::ofstream(folder_ / name, std::ios::binary) << bytes;
  }
  void Copy(const std::string& from, const std::string& name) {
    Write(name, ReadBytes(kReference + from + "/" + name));
  }
  void ExpectClipError(absl::StatusCode code, const std::vector<std::string>& words) {
    ExpectError(LoadClipTokenizer(folder_).status(), code, words);
  }
  void ExpectT5Error(absl::StatusCode code, const std::vector<std::string>& words) {
    ExpectError(LoadT5Tokenizer(folder_).status(), code, words);
  }
  static void ExpectError(const absl::Status& status, absl::StatusCode code, const std::vector<std::string>& words) {
    EXPECT_EQ(status.code(), code) << status;
    for (const std::string& word : words) EXPECT_THAT(std::string(status.message()), HasSubstr(word));
  }

  std::filesystem::path folder_;
};

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kNotFound = absl::StatusCode::kNotFound;

TEST_F(HostileTest, MissingFilesAreNamed) {
  ExpectClipError(kNotFound, {folder_.string(), "tokenizer.json", "vocab.json", "merges.txt"});
  ExpectT5Error(kNotFound, {folder_.string(), "tokenizer.json", "spiece.model"});
  Copy("clip_l", "vocab.json");
  ExpectClipError(kNotFound, {(folder_ / "merges.txt").string()});
  EXPECT_EQ(LoadClipTokenizer(folder_ / "nowhere").status().code(), kNotFound);
}

TEST_F(HostileTest, VocabulariesOfWrongTypesAreRefused) {
  Copy("clip_l", "merges.txt");
  const std::pair<const char*, const char*> cases[] = {{"", "not JSON"},
                                                       {"[1,2]", "array"},
                                                       {"{\"a\":\"b\"}", "string"},
                                                       {"{\"a\":-1}", "-1"},
                                                       {"{\"a\":4294967296}", "4294967296"},
                                                       {"{\"a\":1.5}", "an integer"},
                                                       {"{\"a\":1", "not JSON"},
                                                       {"{\"a\":1e999}", "not JSON"},
                                                       {"{\"\xff\":1}", "not JSON"},
                                                       {"{\"a\":1}", "neither"}};
  for (const auto& [text, reason] : cases) {
    Write("vocab.json", text);
    ExpectClipError(kInvalid, {"vocab.json", reason});
  }
}

// Of a vocabulary of two tokens the list would have 16 million places, of half a gigabyte.
TEST_F(HostileTest, LargeIdsOfFewTokensTakeNoMemory) {
  const auto peak_bytes = [] {
    rusage usage = {};
    getrusage(RUSAGE_SELF, &usage);
    return int64_t{usage.ru_maxrss} << 10;
  };
  Write("vocab.json", R"({"<|startoftext|>": 0, "<|endoftext|>": 16777215})");
  Write("merges.txt", "");
  const int64_t before = peak_bytes();
  const auto tokenizer = LoadClipTokenizer(folder_);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocab_size(), 1 << 24);
  EXPECT_EQ((*tokenizer)->Encode("a", 3)->ids, (std::vector<int32_t>{0, 16777215, 16777215}));
  EXPECT_LT(peak_bytes() - before, 64 << 20);
}

TEST_F(HostileTest, MergesThatAreNotMergesAreRefused) {
  Copy("clip_l", "vocab.json");
  for (const char* text : {"#version: 0.2\ni n\n\nt h\n", "i n g\n", "in\n", "q zzzzz\n", "\xff\xfe a\n"}) {
    Write("merges.txt", text);
    ExpectClipError(kInvalid, {"merges.txt"});
  }
}

// What a message quotes of a file is fit for a log, and short.
TEST_F(HostileTest, QuotesArePrintableAndShort) {
  const auto expect_quoted = [&](const absl::Status& status, const std::string& words) {
    ExpectError(status, kInvalid, {words});
    EXPECT_LT(status.message().size(), 1000u);
    EXPECT_THAT(std::string(status.message()), testing::Not(HasSubstr("\x1b")));
  };
  const std::string hostile = "\x1b[2J" + std::string(1 << 20, 'x'), json = "\\u001b[2J" + std::string(1 << 20, 'x');
  Copy("clip_l", "vocab.json");
  Write("merges.txt", "a " + hostile + "\n");
  expect_quoted(LoadClipTokenizer(folder_).status(), R"(merge 1 ("a" and "\x1b[2Jxxx)");
  Write("tokenizer_config.json", R"({"padding_side": ")" + json + R"("})");
  expect_quoted(LoadClipTokenizer(folder_).status(), R"(padding_side is "\x1b[2Jxxx)");
  Write("tokenizer_config.json", R"({"added_tokens_decoder": {")" + json + R"(": {"content": "a"}}})");
  expect_quoted(LoadClipTokenizer(folder_).status(), R"(added_tokens_decoder.\x1b[2Jxxx)");
  Write("tokenizer_config.json", R"({"eos_token": ")" + std::string(1 << 20, 'x') + "\x1b");
  expect_quoted(LoadClipTokenizer(folder_).status(), "not JSON");
}

TEST_F(HostileTest, DeepJsonIsRefused) {
  Write("tokenizer.json", std::string(1 << 20, '['));
  ExpectClipError(kInvalid, {"tokenizer.json"});
  std::string objects = "{\"a\":";
  for (int i = 0; i < 200'000; ++i) objects += "{\"a\":";
  Write("tokenizer.json", objects);
  ExpectT5Error(kInvalid, {"tokenizer.json"});
}

TEST_F(HostileTest, TokenizerJsonOfAnotherModelIsRefused) {
  Copy("t5_json", "tokenizer.json");
  ExpectClipError(kInvalid, {"tokenizer.json", "model.type", "Unigram"});
  Copy("clip_json", "tokenizer.json");
  ExpectT5Error(kInvalid, {"tokenizer.json", "model.type", "BPE"});
  Write("tokenizer.json", "{}");
  ExpectClipError(kInvalid, {"tokenizer.json"});
  ExpectT5Error(kInvalid, {"tokenizer.json"});
}

TEST_F(HostileTest, ConfigurationErrorsNameTheKey) {
  Copy("clip_l", "vocab.json");
  Copy("clip_l", "merges.txt");
  const std::pair<const char*, const char*> cases[] = {
      {R"({"pad_token": 3})", "pad_token"},
      {R"({"pad_token": null})", "pad_token"},
      {R"({"eos_token": ""})", "eos_token"},
      {R"({"eos_token": {"content": "x"}})", "eos_token"},
      {R"({"padding_side": "left"})", "padding_side"},
      {R"({"truncation_side": "left"})", "truncation_side"},
      {R"({"model_max_length": -4})", "model_max_length"},
      {R"({"model_max_length": "77"})", "model_max_length"},
      {R"({"extra_special_tokens": 7})", "extra_special_tokens"},
      {R"({"extra_special_tokens": ["a", 7]})", "extra_special_tokens[1]"},
      {R"({"added_tokens_decoder": []})", "added_tokens_decoder"},
      {R"({"added_tokens_decoder": {"x": {"content": "a"}}})", "added_tokens_decoder.x"},
      {R"({"added_tokens_decoder": {"1": {"content": 1}}})", "added_tokens_decoder.1.content"},
      {R"({"added_tokens_decoder": {"1": {"content": "a", "lstrip": "yes"}}})", "lstrip"},
      {R"({"extra_ids": 1000000000})", "extra_ids"}};
  for (const auto& [text, key] : cases) {
    Write("tokenizer_config.json", text);
    ExpectClipError(kInvalid, {"tokenizer_config.json", key});
  }
}

// T5's model with `blob` for its charsmap.
std::string WithCharsmap(const std::string& blob) {
  const auto field = [](char tag, const std::string& bytes) {
    std::string out(1, tag);
    size_t size = bytes.size();
    for (; size >= 0x80; size >>= 7) out.push_back(static_cast<char>(size | 0x80));
    out.push_back(static_cast<char>(size));
    return out + bytes;
  };
  std::string model;
  for (const char* piece : {"<pad>", "</s>", "<unk>", "a"}) model += field(0x0A, field(0x0A, piece));
  return model + field(0x1A, field(0x12, blob));
}

std::string Trie(const std::vector<uint32_t>& units, const std::string& replacements) {
  std::string blob(4 + units.size() * 4, '\0');
  const auto size = static_cast<uint32_t>(units.size() * 4);
  std::memcpy(blob.data(), &size, 4);
  std::memcpy(blob.data() + 4, units.data(), units.size() * 4);
  return blob + replacements;
}

TEST_F(HostileTest, BadCharsmapsAreRefused) {
  std::vector<uint32_t> leaf(256);
  leaf[0] = 1 << 10;                                       // the root's children are counted from 1
  leaf['a' ^ 1] = 'a' | 1 << 8 | (('a' ^ 1) ^ 200) << 10;  // 'a', with a leaf at 200
  for (const uint32_t value : {1000u, 0x7FFFFFFFu}) {
    leaf[200] = 0x80000000u | value;
    Write("spiece.model", WithCharsmap(Trie(leaf, std::string("x\0", 2))));
    ExpectT5Error(kInvalid, {"spiece.model", "precompiled_charsmap", "a replacement at"});
  }
  leaf[200] = 0x80000000u;
  Write("spiece.model", WithCharsmap(Trie(leaf, std::string(300, 'x'))));
  ExpectT5Error(kInvalid, {"longer than 256 bytes"});
  leaf[200] = 0x80000001u;
  Write("spiece.model", WithCharsmap(Trie(leaf, "é")));
  ExpectT5Error(kInvalid, {"within a character"});
  leaf['a' ^ 1] = 'a' | 1 << 8 | 0x1FFFFFu << 10;
  Write("spiece.model", WithCharsmap(Trie(leaf, "x")));
  ExpectT5Error(kInvalid, {"a leaf at"});
  for (const std::string& blob : {std::string("ab"),
                                  std::string("\xff\xff\xff\xff"
                                              "abcd"),
                                  std::string("\3\0\0\0abcd", 8), Trie(leaf, "\xff")}) {
    Write("spiece.model", WithCharsmap(blob));
    ExpectT5Error(kInvalid, {"spiece.model", "precompiled_charsmap"});
  }
}

TEST_F(HostileTest, ACyclicTrieEnds) {
  std::vector<uint32_t> units(256);
  units[0] = 1 << 10;
  const int child = 'a' ^ 1;               // the root's offset is 1
  units[child] = 'a' | (child ^ 1) << 10;  // after 'a' comes the root again
  Write("spiece.model", WithCharsmap(Trie(units, "x")));
  const auto tokenizer = LoadT5Tokenizer(folder_);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_TRUE((*tokenizer)->Encode(std::string(1000, 'a'), 16).ok());
}

TEST_F(HostileTest, BytesThatAreNoModelAreRefused) {
  const std::string good = ReadBytes(std::string(kReference) + "t5_plain/spiece.model");
  for (const std::string& bytes : {std::string(), std::string("not a model"), std::string(64, '\xff'),
                                   std::string("\x0a\xff\xff\xff\xff\x0f", 6), std::string("\x0a\x03\x0a\x01\xff", 5),
                                   std::string("\x08\x01", 2), good.substr(0, good.size() / 2) + "\x0a\x7f"}) {
    Write("spiece.model", bytes);
    ExpectT5Error(kInvalid, {"spiece.model"});
  }
}

TEST_F(HostileTest, FilesThatAreNoFilesAreRefused) {
  std::filesystem::create_directory(folder_ / "spiece.model");
  ExpectT5Error(kInvalid, {"spiece.model", "not a regular file"});
}

TEST_F(HostileTest, TokenizerJsonGoesFirst) {
  Copy("clip_json", "tokenizer.json");
  Write("vocab.json", "broken");
  Write("merges.txt", "broken");
  EXPECT_TRUE(LoadClipTokenizer(folder_).ok());
}

TEST(EncodeTest, WrongArgumentsAreRefused) {
  const auto tokenizer = LoadClipTokenizer(std::string(kReference) + "clip_l");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  for (const char* text : {"\xff", "a\xc3", "\xed\xa0\x80", "\xc0\x80", "\xf4\x90\x80\x80"}) {
    const absl::Status status = (*tokenizer)->Encode(text, 77).status();
    EXPECT_EQ(status.code(), kInvalid);
    EXPECT_THAT(std::string(status.message()), HasSubstr("UTF-8"));
  }
  for (const int length : {-1, 0, 1, 2'000'000}) EXPECT_EQ((*tokenizer)->Encode("a", length).status().code(), kInvalid);
  EXPECT_EQ((*tokenizer)->Encode("a cat", 2)->ids.size(), 2u);
}

TEST(EncodeTest, WhatWasCutIsTold) {
  const auto clip = LoadClipTokenizer(std::string(kReference) + "demo_l");
  const auto t5 = LoadT5Tokenizer(std::string(kReference) + "demo_t5");
  ASSERT_TRUE(clip.ok() && t5.ok());
  const std::string text = "a red apple on a light blue background, beside it, much smaller, A Fox <|endoftext|>";
  EXPECT_THAT((*clip)->Encode(text, 16)->truncated_text, testing::EndsWith("a fox <|endoftext|>"));
  EXPECT_THAT((*t5)->Encode("a red apple on a light blue background, two red foxes", 6)->truncated_text,
              testing::EndsWith("two red foxes"));
  EXPECT_EQ((*clip)->Encode("a red fox", 16)->truncated_text, "");
}

// A word of 200 KB, marks in the order that sorting by insertion likes least, and a text of nothing but special tokens:
// with anything quadratic the test would not end within its time limit.
TEST(EncodeTest, LongTextsTakeLinearTime) {
  const auto clip = LoadClipTokenizer(std::string(kReference) + "clip_l");
  const auto t5 = LoadT5Tokenizer(std::string(kReference) + "demo_t5");
  ASSERT_TRUE(clip.ok() && t5.ok());
  constexpr int kBytes = 200'000;
  for (const std::string unit :
       {"a", "ab", "'", "1", " ", "\u0316\u0315", "\u0f73\u0f71", "<", "<|endoftext|>", "▁", "👩‍", "ﷺ"}) {
    std::string text = "x";
    while (text.size() < kBytes) text += unit;
    for (const Tokenizer* tokenizer : {clip->get(), t5->get()}) {
      const auto encoded = tokenizer->Encode(text, 77);
      ASSERT_TRUE(encoded.ok());
      EXPECT_EQ(encoded->ids.size(), 77u);
    }
  }
}

// Mutations of good files, by a fixed seed: whatever loads must encode within its own vocabulary.
class MutationTest : public HostileTest, public testing::WithParamInterface<std::pair<const char*, const char*>> {};

std::string Mutate(std::string bytes, std::mt19937& random) {
  for (uint32_t i = 0, count = 1 + random() % 4; i < count && !bytes.empty(); ++i) {
    const size_t at = random() % bytes.size();
    switch (random() % 5) {
      case 0:
        bytes[at] = static_cast<char>(random());
        break;
      case 1:
        bytes[at] = static_cast<char>(bytes[at] ^ (1 << random() % 8));
        break;
      case 2:
        bytes.erase(at, 1 + random() % 8);
        break;
      case 3:
        bytes.insert(at, bytes.substr(random() % bytes.size(), 1 + random() % 16));
        break;
      default:
        if (random() % 4 == 0) bytes.resize(at);
    }
  }
  return bytes;
}

TEST_P(MutationTest, EitherAnErrorOrATokenizerThatWorks) {
  const auto [source, file] = GetParam();
  const bool clip = std::string(source).find("clip") == 0;
  for (const auto& entry : std::filesystem::directory_iterator(std::string(kReference) + source)) {
    Copy(source, entry.path().filename());
  }
  const std::string good = ReadBytes(folder_ / file);
  std::mt19937 random(20261123);
  for (int round = 0; round < 150; ++round) {
    Write(file, Mutate(good, random));
    const auto tokenizer = clip ? LoadClipTokenizer(folder_) : LoadT5Tokenizer(folder_);
    if (!tokenizer.ok()) {
      EXPECT_EQ(tokenizer.status().code(), kInvalid) << tokenizer.status();
      EXPECT_THAT(std::string(tokenizer.status().message()), HasSubstr(folder_.string()));
      continue;
    }
    const auto encoded =
        (*tokenizer)->Encode("A red fox's ﬁ\u0301 <|endoftext|> </s>\u00a0１２３ 東京 👩‍🚀 e\u0301", 77);
    ASSERT_TRUE(encoded.ok()) << encoded.status();
    for (const int32_t id : encoded->ids) ASSERT_TRUE(0 <= id && id < (*tokenizer)->vocab_size());
  }
}

INSTANTIATE_TEST_SUITE_P(Files, MutationTest,
                         testing::Values(std::pair("clip_l", "vocab.json"), std::pair("clip_l", "merges.txt"),
                                         std::pair("clip_l", "tokenizer_config.json"),
                                         std::pair("clip_g", "special_tokens_map.json"),
                                         std::pair("clip_json", "tokenizer.json"),
                                         std::pair("t5_plain", "spiece.model"), std::pair("t5_json", "tokenizer.json"),
                                         std::pair("demo_t5", "spiece.model")));

}  // namespace
}  // namespace fresco
