// Against the grammar of https://www.w3.org/TR/trace-context/.
#include "server/rpc/trace_context.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace fresco {
namespace {

using ::testing::Optional;

constexpr char kTraceId[] = "4bf92f3577b34da6a3ce929d0e0e4736";
constexpr char kSpanId[] = "00f067aa0ba902b7";
constexpr char kValid[] = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

// 1, 2, 3 …
std::function<uint64_t()> Counter() {
  return [next = uint64_t{0}]() mutable { return ++next; };
}

TEST(TraceparentTest, TheFourFieldsAreRead) {
  const std::optional<Traceparent> read = ParseTraceparent(kValid);
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(read->trace_id, kTraceId);
  EXPECT_EQ(read->span_id, kSpanId);
  EXPECT_EQ(read->flags, 1);
  EXPECT_EQ(ToString(*read), kValid);
}

TEST(TraceparentTest, WhatTheSpecificationCallsInvalidIsNone) {
  const std::string trace = kTraceId, span = kSpanId;
  for (const std::string& value : {
           std::string(),
           std::string("00"),
           absl::StrCat("00-", trace, "-", span),                                  // no flags
           absl::StrCat("00-", trace, "-", span, "-1"),                            // one digit of them
           absl::StrCat("00-", trace, "-", span, "-011"),                          // three
           absl::StrCat("00-", trace, "-", span, "-01-what"),                      // version 00 ends there
           absl::StrCat("ff-", trace, "-", span, "-01"),                           // is no version
           absl::StrCat("0g-", trace, "-", span, "-01"),                           // nor this
           absl::StrCat("0A-", trace, "-", span, "-01"),                           // upper case
           absl::StrCat("00-", "4BF92F3577B34DA6A3CE929D0E0E4736-", span, "-01"),  // likewise
           absl::StrCat("00-", trace, "-00F067AA0BA902B7-01"),                     // likewise
           absl::StrCat("00-", trace, "-", span, "-0A"),                           // likewise
           absl::StrCat("00-", std::string(32, '0'), "-", span, "-01"),            // all zeros
           absl::StrCat("00-", trace, "-", std::string(16, '0'), "-01"),           // likewise
           absl::StrCat("00-", trace.substr(1), "-", span, "-01"),                 // too short
           absl::StrCat("00-", trace, "0-", span, "-01"),                          // too long
           absl::StrCat("00_", trace, "-", span, "-01"),                           // not a dash
           absl::StrCat("00-", trace, "_", span, "-01"),                           // likewise
           absl::StrCat("00-", trace, "-", span, "_01"),                           // likewise
           absl::StrCat(" 00-", trace, "-", span, "-01"),                          // a blank
           absl::StrCat("00-", trace, "-", span, "-01 "),                          // likewise
           absl::StrCat("00-", trace, "-", span, "-0x"),                           // no digit
           absl::StrCat("00-", trace.substr(0, 31), std::string(1, '\0'), "-", span, "-01"),
           absl::StrCat("01-", trace, "-", span, "-01what"),  // a later version's fields begin with a dash
       }) {
    EXPECT_FALSE(ParseTraceparent(value).has_value()) << '"' << value << '"';
  }
}

TEST(TraceparentTest, OfALaterVersionWhatThisOneKnowsIsTaken) {
  for (const char* end : {"-01", "-01-", "-01-what-the-future-will-be-like"}) {
    const std::optional<Traceparent> read = ParseTraceparent(absl::StrCat("cc-", kTraceId, "-", kSpanId, end));
    ASSERT_TRUE(read.has_value()) << end;
    EXPECT_EQ(ToString(*read), kValid);  // in this version's words
  }
}

TEST(TraceparentTest, UnknownFlagsAreNotPassedOn) {
  EXPECT_EQ(ParseTraceparent(absl::StrCat("00-", kTraceId, "-", kSpanId, "-ff"))->flags, 3);
  EXPECT_EQ(ParseTraceparent(absl::StrCat("00-", kTraceId, "-", kSpanId, "-00"))->flags, 0);
}

TEST(TracestateTest, MembersOfAllHeadersAreOneListWithoutBlanks) {
  EXPECT_THAT(ParseTracestate({}), Optional(std::string()));
  EXPECT_THAT(ParseTracestate({"rojo=00f067aa0ba902b7"}), Optional(std::string("rojo=00f067aa0ba902b7")));
  EXPECT_THAT(ParseTracestate({"a=1 ,\tb=2,, ,", "c=x y!~"}), Optional(std::string("a=1,b=2,c=x y!~")));
  EXPECT_THAT(ParseTracestate({"fw529a3039@dt=FfAA,0tenant@a-b=:"}),
              Optional(std::string("fw529a3039@dt=FfAA,0tenant@a-b=:")));
}

TEST(TracestateTest, OneThatIsInvalidMakesAllSo) {
  for (const std::string& value : {
           std::string("a"),
           std::string("=1"),
           std::string("a="),
           std::string("A=1"),
           std::string("1a=1"),
           std::string("a =1"),
           std::string("a=1=2"),
           std::string("a=\x01"),
           std::string("a=\xc3\xa4"),
           std::string("a@=1"),
           std::string("@b=1"),
           std::string("a@B=1"),
           std::string("a@b@c=1"),
           std::string("a@0b=1"),
           std::string("a.b=1"),
           std::string("a=1,b=2,a=3"),
           absl::StrCat(std::string(257, 'a'), "=1"),
           absl::StrCat("a=", std::string(257, '1')),
           absl::StrCat("a@", std::string(15, 'b'), "=1"),
           absl::StrCat(std::string(242, 'a'), "@b=1"),
       }) {
    EXPECT_FALSE(ParseTracestate({"good=1", value}).has_value()) << '"' << value << '"';
  }
}

TEST(TracestateTest, ThereAre32AtTheMost) {
  std::string list;
  for (int i = 0; i < 32; ++i) absl::StrAppend(&list, i == 0 ? "" : ",", "k", i, "=1");
  EXPECT_THAT(ParseTracestate({list}), Optional(list));
  EXPECT_FALSE(ParseTracestate({list, "one-more=1"}).has_value());
}

TEST(ContinueTraceTest, TheCallersTraceGoesOnWithASpanOfTheServers) {
  const TraceContext context = ContinueTrace({kValid}, {"a=1", "b=2"}, Counter());
  EXPECT_EQ(context.own.trace_id, kTraceId);
  EXPECT_EQ(context.own.span_id, "0000000000000001");
  EXPECT_EQ(context.own.flags, 1);
  EXPECT_EQ(context.parent_span_id, kSpanId);
  EXPECT_EQ(context.tracestate, "a=1,b=2");
}

TEST(ContinueTraceTest, WithoutAValidOneATraceBegins) {
  const std::string begun = "00-00000000000000020000000000000003-0000000000000001-00";
  for (const std::vector<std::string_view>& given :
       {std::vector<std::string_view>(), {"nonsense"}, {kValid, kValid}, {""}}) {
    const TraceContext context = ContinueTrace(given, {"a=1"}, Counter());
    EXPECT_EQ(ToString(context.own), begun);
    EXPECT_EQ(context.parent_span_id, "");
    EXPECT_EQ(context.tracestate, "");  // of a trace that is not gone on with
  }
}

TEST(ContinueTraceTest, ABadTracestateIsDroppedAndTheTraceKept) {
  const TraceContext context = ContinueTrace({kValid}, {"a=1,a=2"}, Counter());
  EXPECT_EQ(context.own.trace_id, kTraceId);
  EXPECT_EQ(context.tracestate, "");
}

TEST(ContinueTraceTest, NoIdIsAllZeros) {
  const TraceContext context = ContinueTrace({}, {}, [] { return uint64_t{0}; });
  EXPECT_TRUE(ParseTraceparent(ToString(context.own)).has_value());
}

}  // namespace
}  // namespace fresco
