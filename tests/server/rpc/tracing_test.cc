// The trace that a call belongs to, in the log and to its caller, and the one line that every call ends in.
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "server/rpc/trace_context.h"
#include "tests/server/rpc/service_fixture.h"

namespace fresco {
namespace {

constexpr char kTraceId[] = "4bf92f3577b34da6a3ce929d0e0e4736";
constexpr char kSpanId[] = "00f067aa0ba902b7";
constexpr char kTraceparent[] = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

using Metadata = std::vector<std::pair<std::string, std::string>>;

class TracingTest : public ServiceTest {
 protected:
  void StartWithJsonLog() {
    Options options;
    options.log.format = LogFormat::kJson;
    Start(options);
  }

  // The traceparent that the server answers with.
  std::optional<Traceparent> AnsweredTo(const Metadata& metadata, const v1::GenerateRequest& request) {
    grpc::ClientContext context;
    for (const auto& [name, value] : metadata) context.AddMetadata(name, value);
    ReadAll(stub_->Generate(&context, request).get());
    return AnswerOf(context);
  }

  // With the first message.
  static std::optional<Traceparent> AnswerOf(const grpc::ClientContext& context) {
    return In(context.GetServerInitialMetadata());
  }

  static std::optional<Traceparent> In(const std::multimap<grpc::string_ref, grpc::string_ref>& answered) {
    EXPECT_EQ(answered.count("traceparent"), 1u);
    const auto found = answered.find("traceparent");
    if (found == answered.end()) return std::nullopt;
    return ParseTraceparent({found->second.data(), found->second.size()});
  }

  // The `count`-th line, when it is there.
  nlohmann::json Line(size_t count) { return nlohmann::json::parse(AwaitLog(count)[count - 1]); }
};

TEST_F(TracingTest, TheCallersTraceIsInTheLogAndGoesBackWithTheServersSpan) {
  StartWithJsonLog();
  const auto answered =
      AnsweredTo({{"traceparent", kTraceparent}, {"tracestate", "rojo=1"}, {"tracestate", "congo=t61"}}, Request("a"));
  ASSERT_TRUE(answered.has_value());
  EXPECT_EQ(answered->trace_id, kTraceId);
  EXPECT_NE(answered->span_id, kSpanId);
  EXPECT_EQ(answered->flags, 1);
  const nlohmann::json line = Line(1);
  EXPECT_EQ(line.at("trace_id"), kTraceId);
  EXPECT_EQ(line.at("span_id"), answered->span_id);
  EXPECT_EQ(line.at("parent_span_id"), kSpanId);
  EXPECT_EQ(line.at("tracestate"), "rojo=1,congo=t61");
}

TEST_F(TracingTest, ATraceBeginsWhereTheCallerHasNoneOrAnInvalidOne) {
  StartWithJsonLog();
  size_t lines = 0;
  std::set<std::string> traces;
  for (const Metadata& metadata :
       {Metadata(), Metadata{{"traceparent", "00-nonsense"}}, Metadata{{"tracestate", "a=1"}},
        Metadata{{"traceparent", kTraceparent}, {"traceparent", kTraceparent}}}) {
    const auto answered = AnsweredTo(metadata, Request("a"));
    ASSERT_TRUE(answered.has_value());
    EXPECT_NE(answered->trace_id, kTraceId);
    traces.insert(answered->trace_id);
    const nlohmann::json line = Line(++lines);
    EXPECT_EQ(line.at("trace_id"), answered->trace_id);
    EXPECT_EQ(line.at("span_id"), answered->span_id);
    EXPECT_FALSE(line.contains("parent_span_id"));
    EXPECT_FALSE(line.contains("tracestate"));
  }
  EXPECT_EQ(traces.size(), lines);
}

TEST_F(TracingTest, ACallThatIsRefusedHasItsTraceToo) {
  StartWithJsonLog();
  v1::GenerateRequest request = Request("a");
  request.set_model("nobody's");
  grpc::ClientContext context;
  context.AddMetadata("traceparent", kTraceparent);
  const auto stream = stub_->Generate(&context, request);
  EXPECT_EQ(ReadAll(stream.get()).status.error_code(), grpc::StatusCode::NOT_FOUND);
  // With the status, and nothing before it: what comes before would be an answer to a proxy, which tries no other
  // server then.
  EXPECT_TRUE(context.GetServerInitialMetadata().empty());
  const auto answered = In(context.GetServerTrailingMetadata());
  ASSERT_TRUE(answered.has_value());
  EXPECT_EQ(answered->trace_id, kTraceId);
  const nlohmann::json line = Line(1);
  EXPECT_EQ(line.at("code"), "NOT_FOUND");
  EXPECT_EQ(line.at("trace_id"), kTraceId);
  EXPECT_EQ(line.at("span_id"), answered->span_id);
  EXPECT_FALSE(line.contains("denoise_s"));
}

TEST_F(TracingTest, CreateImageToo) {
  StartWithJsonLog();
  grpc::ClientContext context;
  context.AddMetadata("traceparent", kTraceparent);
  v1::CreateImageRequest request;
  request.set_prompt("a");
  v1::CreateImageResponse response;
  ASSERT_TRUE(stub_->CreateImage(&context, request, &response).ok());
  const auto answered = AnswerOf(context);
  ASSERT_TRUE(answered.has_value());
  EXPECT_EQ(answered->trace_id, kTraceId);
  const nlohmann::json line = Line(1);
  EXPECT_EQ(line.at("method"), "CreateImage");
  EXPECT_EQ(line.at("span_id"), answered->span_id);
  EXPECT_EQ(line.at("images_done"), 1);
}

TEST_F(TracingTest, TheLineOfAPictureHasEveryStage) {
  StartWithJsonLog();
  v1::GenerateRequest request = Request("a");
  request.set_steps(3);
  request.set_image_count(2);
  request.set_priority(v1::PRIORITY_BATCH);
  const Drawn drawn = Generate(request);
  ASSERT_TRUE(drawn.status.ok()) << drawn.status.error_message();
  const nlohmann::json line = Line(1);
  for (const char* seconds : {"queue_s", "prepare_s", "denoise_s", "decode_s", "encode_s", "first_byte_s",
                              "first_image_s", "write_s", "total_s"}) {
    ASSERT_TRUE(line.contains(seconds)) << seconds << ": " << line;
    EXPECT_GE(line.at(seconds).get<double>(), 0) << seconds;
  }
  EXPECT_LE(line.at("first_byte_s").get<double>(), line.at("total_s").get<double>());
  size_t bytes = 0;
  for (const auto& [index, image] : drawn.images()) bytes += image.size();
  const nlohmann::json expected = {{"event", "request"},  {"method", "Generate"}, {"model", "fake"}, {"code", "OK"},
                                   {"priority", "batch"}, {"images", 2},          {"steps", 3},      {"steps_done", 6},
                                   {"images_done", 2},    {"image_bytes", bytes}, {"device", "cpu"}, {"warnings", 0}};
  for (const auto& [name, value] : expected.items()) EXPECT_EQ(line.value(name, nlohmann::json()), value) << name;
  EXPECT_GE(line.at("batch_max"), line.at("batch_min"));
  EXPECT_GE(line.at("batch_min"), 1);
  EXPECT_GT(line.at("peak_memory_bytes"), 0);
}

TEST_F(TracingTest, TheLineTellsWhetherItsTextsWereInTheCache) {
  StartWithJsonLog();
  for (const bool hit : {false, true}) {
    ASSERT_TRUE(Generate(Request("the same")).status.ok());
    const nlohmann::json line = Line(hit ? 2 : 1);
    EXPECT_EQ(line.at("prompt_cache_hit"), hit) << line;
    EXPECT_EQ(line.at("texts_encoded") == 0, hit) << line;
  }
}

TEST_F(TracingTest, OneThatFailsOnTheWayHasTheStagesThatItHadBegun) {
  StartWithJsonLog();
  script_->Fail("broken", FakeScript::Stage::kStep, absl::InternalError("no"), 1);
  EXPECT_EQ(Generate(Request("broken")).status.error_code(), grpc::StatusCode::INTERNAL);
  const nlohmann::json line = Line(1);
  EXPECT_EQ(line.at("code"), "INTERNAL");
  EXPECT_EQ(line.at("images_done"), 0);
  EXPECT_TRUE(line.contains("queue_s") && line.contains("prepare_s") && line.contains("denoise_s")) << line;
}

}  // namespace
}  // namespace fresco
