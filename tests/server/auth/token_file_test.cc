#include "server/auth/token_file.h"

#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "pipeline/base/strings.h"

namespace fresco {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;

// printf secret | sha256sum
constexpr char kSecret[] = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

std::string Message(const absl::Status& status) {
  return std::string(status.message());
}

TEST(TokenFileTest, SaysAllOfAnEntry) {
  const auto entries = ParseTokens(StrCat("tokens:\n  - name: studio\n    sha256: ", kSecret, R"(
    tenant: paint
    scopes: [generate, operate]
    names_tenants: true
    requests_per_minute: 90
    burst: 7
    max_concurrent: 3
    expires: 2027-12-31T18:00:00Z
  - name: mesh
    certificate: spiffe://cluster/mesh
    expires: 2027-12-31
)"),
                                   "tokens.yaml");
  ASSERT_TRUE(entries.ok()) << entries.status();
  ASSERT_EQ(entries->size(), 2u);
  const TokenEntry& studio = (*entries)[0];
  EXPECT_EQ(studio.name, "studio");
  EXPECT_EQ(studio.digest, DigestOf("secret"));
  EXPECT_EQ(studio.tenant, "paint");
  EXPECT_TRUE(studio.scopes.all());  // who operates may ask what there is, too
  EXPECT_TRUE(studio.names_tenants);
  EXPECT_EQ(studio.requests_per_minute, 90);
  EXPECT_EQ(studio.burst, 7);
  EXPECT_EQ(studio.max_concurrent, 3);
  EXPECT_EQ(studio.expires, absl::FromCivil(absl::CivilSecond(2027, 12, 31, 18, 0, 0), absl::UTCTimeZone()));
  const TokenEntry& mesh = (*entries)[1];
  EXPECT_EQ(mesh.certificate, "spiffe://cluster/mesh");
  EXPECT_EQ(mesh.tenant, "mesh");
  EXPECT_EQ(mesh.scopes.to_string(), "001");  // generate alone
  EXPECT_EQ(mesh.expires, absl::FromCivil(absl::CivilDay(2027, 12, 31), absl::UTCTimeZone()));
}

TEST(TokenFileTest, NobodyIsAllowedToo) {
  const auto entries = ParseTokens("tokens: []", "tokens.yaml");
  ASSERT_TRUE(entries.ok()) << entries.status();
  EXPECT_TRUE(entries->empty());
}

TEST(TokenFileTest, EveryMistakeIsToldWithItsLine) {
  const auto entries = ParseTokens(StrCat(R"(tokens:
  - name: a b
    sha256: hunter2
  - name: twice
    sha256: )",
                                          kSecret, R"(
    scopes: [paint]
  - name: twice
    sha256: )",
                                          kSecret, R"(
    expires: soon
    burst: 0
  - name: neither
  - name: typo
    certificate: x
    scope: generate
)"),
                                   "t.yaml");
  EXPECT_EQ(entries.status().code(), absl::StatusCode::kInvalidArgument);
  const std::string message = Message(entries.status());
  for (const char* told :
       {"t.yaml:2: tokens[0].name:", "t.yaml:3: tokens[0].sha256: expected the 64", "t.yaml:6: tokens[1].scopes:",
        "'twice' is the name of another too", "is the token or the certificate of another too",
        "t.yaml:9: tokens[2].expires:", "t.yaml:10: tokens[2].burst:", "tokens[3].sha256: expected it or `certificate`",
        "tokens[4].scope: unknown setting; did you mean 'scopes'?"}) {
    EXPECT_THAT(message, HasSubstr(told));
  }
  EXPECT_THAT(message, Not(HasSubstr("hunter2")));  // somebody's token, by mistake
}

TEST(TokenFileTest, WhatIsNoListIsRefused) {
  for (const char* text : {"", "tokens:", "tokens: {a: b}", "token: []", "[]", "a: [", "tokens: []\n---\ntokens: []"}) {
    EXPECT_EQ(ParseTokens(text, "t.yaml").status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
  EXPECT_EQ(LoadTokenFile("/no/such/file").status().code(), absl::StatusCode::kNotFound);
}

TEST(TokenFileTest, ANewTokenIsWhatItsEntryTakes) {
  uint64_t next = 1;
  const auto made = MakeToken("ci", [&next] { return next++ * 0x9E3779B97F4A7C15; });
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_THAT(made->token, MatchesRegex("fresco_[A-Za-z0-9_-]+"));
  EXPECT_GE(made->token.size(), std::string("fresco_").size() + 43);  // 256 bits, six a letter
  const auto entries = ParseTokens(StrCat("tokens:\n", made->entry), "t.yaml");
  ASSERT_TRUE(entries.ok()) << entries.status();
  EXPECT_EQ(entries->front().name, "ci");
  EXPECT_EQ(entries->front().digest, DigestOf(made->token));
  EXPECT_THAT(made->entry, Not(HasSubstr(made->token)));
  EXPECT_FALSE(MakeToken("a b", [] { return 0; }).ok());
}

}  // namespace
}  // namespace fresco
