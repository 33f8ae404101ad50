#include "server/auth/authenticator.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/scheduler/retry.h"
#include "tests/support/fake_clock.h"

namespace fresco {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TokenEntry Entry(const std::string& name, const std::string& token) {
  TokenEntry entry;
  entry.name = name;
  entry.digest = DigestOf(token);
  entry.tenant = name + "-tenant";
  entry.scopes.set(static_cast<size_t>(Scope::kGenerate));
  return entry;
}

Credentials Bearer(const std::string& token) {
  Credentials credentials;
  credentials.authorization = {"Bearer " + token};
  return credentials;
}

class AuthenticatorTest : public ::testing::Test {
 protected:
  absl::StatusCode CodeFor(const Credentials& credentials, Scope scope = Scope::kGenerate) {
    return callers_.Authenticate(credentials, scope).status().code();
  }
  // How many of 100 calls at once are let in; all are open as long as `open` is.
  int LetIn(const std::string& name, std::vector<std::shared_ptr<Authenticator::Permit>>* open) {
    const size_t before = open->size();
    for (int i = 0; i < 100; ++i) {
      auto permit = callers_.Admit({name, ""});
      if (permit.ok()) open->push_back(*std::move(permit));
    }
    return static_cast<int>(open->size() - before);
  }

  FakeClock clock_;
  Authenticator callers_{{}, &clock_};
};

TEST_F(AuthenticatorTest, KnowsCallersByTheirTokens) {
  callers_.Replace({Entry("a", "alpha"), Entry("b", "beta")});
  const auto caller = callers_.Authenticate(Bearer("beta"), Scope::kGenerate);
  ASSERT_TRUE(caller.ok()) << caller.status();
  EXPECT_EQ(caller->token, "b");
  EXPECT_EQ(caller->tenant, "b-tenant");
  Credentials lower = Bearer("");
  lower.authorization = {"bearer alpha"};  // RFC 7235: the scheme's case does not matter
  EXPECT_EQ(CodeFor(lower), absl::StatusCode::kOk);
}

TEST_F(AuthenticatorTest, TurnsAwayWhoShowsNothingThatIsKnown) {
  callers_.Replace({Entry("a", "alpha")});
  EXPECT_EQ(CodeFor({}), absl::StatusCode::kUnauthenticated);
  for (const char* token : {"", "alph", "alphaa", "ALPHA", " alpha", "alpha ", "a"}) {
    EXPECT_EQ(CodeFor(Bearer(token)), absl::StatusCode::kUnauthenticated) << token;
  }
  for (const char* text : {"alpha", "Basic alpha", "Beareralpha", ""}) {
    Credentials credentials;
    credentials.authorization = {text};
    EXPECT_EQ(CodeFor(credentials), absl::StatusCode::kUnauthenticated) << text;
  }
  Credentials two;
  two.authorization = {"Bearer alpha", "Bearer alpha"};
  EXPECT_EQ(CodeFor(two), absl::StatusCode::kUnauthenticated);
  // What was shown is not said back.
  EXPECT_THAT(std::string(callers_.Authenticate(Bearer("hunter2"), Scope::kGenerate).status().message()),
              Not(HasSubstr("hunter2")));
}

// An entry for a certificate has no digest: the token whose digest is all zeros would be anybody's, if there were one.
TEST_F(AuthenticatorTest, ACertificateIsNoTokenNorTheOtherWayRound) {
  TokenEntry mesh = Entry("mesh", "");
  mesh.digest = DigestOf("secret");
  mesh.certificate = "mesh.example";
  callers_.Replace({mesh});
  EXPECT_EQ(CodeFor(Bearer("secret")), absl::StatusCode::kUnauthenticated);
  Credentials shown;
  shown.certificate = {"other.example", "mesh.example"};
  EXPECT_EQ(CodeFor(shown), absl::StatusCode::kOk);
  shown.certificate = {"sh.example", "mesh.example.evil"};
  EXPECT_EQ(CodeFor(shown), absl::StatusCode::kUnauthenticated);
  // A wrong token is not made good by a certificate.
  shown.certificate = {"mesh.example"};
  shown.authorization = {"Bearer wrong"};
  EXPECT_EQ(CodeFor(shown), absl::StatusCode::kUnauthenticated);
}

TEST_F(AuthenticatorTest, EachMayDoWhatItsScopesSay) {
  TokenEntry operate = Entry("op", "op");
  operate.scopes.reset();
  operate.scopes.set(static_cast<size_t>(Scope::kOperate));
  callers_.Replace({Entry("draw", "draw"), operate});
  EXPECT_EQ(CodeFor(Bearer("draw"), Scope::kGenerate), absl::StatusCode::kOk);
  EXPECT_EQ(CodeFor(Bearer("draw"), Scope::kOperate), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(CodeFor(Bearer("draw"), Scope::kReflect), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(CodeFor(Bearer("op"), Scope::kOperate), absl::StatusCode::kOk);
  EXPECT_EQ(CodeFor(Bearer("op"), Scope::kGenerate), absl::StatusCode::kPermissionDenied);
  EXPECT_TRUE(callers_.Authenticate(Bearer("op"), std::nullopt).ok());
}

TEST_F(AuthenticatorTest, ATokenEndsWhenItsEntrySays) {
  TokenEntry entry = Entry("a", "alpha");
  entry.expires = clock_.WallTime() + absl::Hours(1);
  callers_.Replace({entry});
  EXPECT_EQ(CodeFor(Bearer("alpha")), absl::StatusCode::kOk);
  clock_.Advance(absl::Hours(1));
  const absl::Status late = callers_.Authenticate(Bearer("alpha"), Scope::kGenerate).status();
  EXPECT_EQ(late.code(), absl::StatusCode::kUnauthenticated);
  EXPECT_THAT(std::string(late.message()), HasSubstr("'a' has expired on"));
}

TEST_F(AuthenticatorTest, ATokenCallsForItsTenantAlone) {
  TokenEntry gateway = Entry("gateway", "gate");
  gateway.names_tenants = true;
  callers_.Replace({Entry("a", "alpha"), gateway});
  Credentials credentials = Bearer("alpha");
  credentials.tenant = {"a-tenant"};
  EXPECT_EQ(CodeFor(credentials), absl::StatusCode::kOk);
  credentials.tenant = {"other"};
  EXPECT_EQ(CodeFor(credentials), absl::StatusCode::kPermissionDenied);
  credentials.authorization = {"Bearer gate"};
  EXPECT_EQ(callers_.Authenticate(credentials, Scope::kGenerate)->tenant, "other");
  credentials.tenant = {"no name"};
  EXPECT_EQ(CodeFor(credentials), absl::StatusCode::kInvalidArgument);
}

TEST_F(AuthenticatorTest, ARateIsKeptAndComesBack) {
  TokenEntry entry = Entry("a", "alpha");
  entry.requests_per_minute = 60;
  entry.burst = 5;
  callers_.Replace({entry});
  std::vector<std::shared_ptr<Authenticator::Permit>> open;
  EXPECT_EQ(LetIn("a", &open), 5);
  const absl::Status refused = callers_.Admit({"a", ""}).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  ASSERT_TRUE(RetryAfter(refused).has_value());
  EXPECT_NEAR(absl::ToDoubleSeconds(*RetryAfter(refused)), 1, 1e-6);
  clock_.Advance(*RetryAfter(refused));
  EXPECT_EQ(LetIn("a", &open), 1);
  clock_.Advance(absl::Seconds(3));
  EXPECT_EQ(LetIn("a", &open), 3);
  clock_.Advance(absl::Hours(1));
  EXPECT_EQ(LetIn("a", &open), 5);  // no more than that at once, however long it was quiet
}

// Who asks again for what was counted already is not held back by that.
TEST_F(AuthenticatorTest, ARateIsGivenBack) {
  TokenEntry entry = Entry("a", "alpha");
  entry.requests_per_minute = 60;
  entry.burst = 5;
  callers_.Replace({entry});
  std::vector<std::shared_ptr<Authenticator::Permit>> open;
  EXPECT_EQ(LetIn("a", &open), 5);
  open[0]->GiveBackRate();
  open[1]->GiveBackRate();
  EXPECT_EQ(LetIn("a", &open), 2);
}

TEST_F(AuthenticatorTest, WhatIsOpenIsCountedUntilItCloses) {
  TokenEntry entry = Entry("a", "alpha");
  entry.max_concurrent = 2;
  callers_.Replace({entry, Entry("b", "beta")});
  std::vector<std::shared_ptr<Authenticator::Permit>> open, others;
  EXPECT_EQ(LetIn("a", &open), 2);
  const absl::Status refused = callers_.Admit({"a", ""}).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(RetryAfter(refused).has_value());
  EXPECT_EQ(LetIn("b", &others), 100);
  open.pop_back();
  EXPECT_EQ(LetIn("a", &open), 1);
}

// Writing the file anew is no way around a limit.
TEST_F(AuthenticatorTest, OtherEntriesLeaveWhatWasUsed) {
  TokenEntry entry = Entry("a", "alpha");
  entry.requests_per_minute = 60;
  entry.burst = 5;
  callers_.Replace({entry});
  std::vector<std::shared_ptr<Authenticator::Permit>> open;
  EXPECT_EQ(LetIn("a", &open), 5);
  entry.digest = DigestOf("rotated");
  callers_.Replace({entry});
  EXPECT_EQ(LetIn("a", &open), 0);
  EXPECT_EQ(CodeFor(Bearer("alpha")), absl::StatusCode::kUnauthenticated);
  EXPECT_EQ(CodeFor(Bearer("rotated")), absl::StatusCode::kOk);
  callers_.Replace({});
  EXPECT_EQ(callers_.Admit({"a", ""}).status().code(), absl::StatusCode::kUnauthenticated);
  open.clear();  // outlives the entry
}

}  // namespace
}  // namespace fresco
