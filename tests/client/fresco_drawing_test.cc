// One picture as its user meets it: a process, its words, its files and its exit code, against a scripted server.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <csignal>
#include <set>

#include "fake_server.h"
#include "fresco_fixture.h"

namespace fresco {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

TEST_F(FrescoTest, DrawsAPictureFromChunks) {
  FakeServer server;
  const Outcome outcome =
      Run({"generate", "-p", "a red fox", "--seed", "7", "-o", "new/folder/fox.png"}, server.address());
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(Read("new/folder/fox.png"), PictureOf(7));
  EXPECT_EQ(outcome.out, "");
  EXPECT_THAT(outcome.err,
              AllOf(HasSubstr("queued, 2 ahead"), HasSubstr("started on cpu"), HasSubstr("step 2/4, 0:02 left"),
                    HasSubstr("new/folder/fox.png  (seed 7)"), HasSubstr("warning: the prompt was cut"),
                    HasSubstr("done in 3.0 s"), Not(HasSubstr("\x1b"))));
}

TEST_F(FrescoTest, SendsEveryOption) {
  FakeServer server;
  const Outcome outcome = Run({"generate",
                               "-p",
                               "fox",
                               "--negative",
                               "dog",
                               "--prompt-2",
                               "",
                               "--prompt-3",
                               "a fox in the snow",
                               "--clip-skip",
                               "1",
                               "--no-noise-correction",
                               "--deterministic",
                               "--max-sequence-length",
                               "77",
                               "--model",
                               "demo",
                               "--width",
                               "512",
                               "--height",
                               "256",
                               "--steps",
                               "4",
                               "--guidance",
                               "0",
                               "--seed",
                               "18446744073709551615",
                               "--count",
                               "2",
                               "--format",
                               "webp",
                               "--quality",
                               "80",
                               "--preview-every",
                               "3",
                               "--priority",
                               "batch",
                               "--request-id",
                               "mine",
                               "--token",
                               "secret",
                               "--tenant",
                               "studio-7",
                               "-q"},
                              server.address());
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_THAT(outcome.err, Not(HasSubstr("step")));
  ASSERT_EQ(server.requests().size(), 1U);
  const v1::GenerateRequest request = server.requests()[0];
  EXPECT_EQ(request.negative_prompt(), "dog");
  EXPECT_TRUE(request.has_prompt_2());
  EXPECT_EQ(request.prompt_2(), "");
  EXPECT_EQ(request.prompt_3(), "a fox in the snow");
  EXPECT_EQ(request.clip_skip(), 1);
  EXPECT_TRUE(request.has_noise_correction());
  EXPECT_FALSE(request.noise_correction());
  EXPECT_TRUE(request.deterministic());
  EXPECT_EQ(request.max_sequence_length(), 77);
  EXPECT_EQ(request.model(), "demo");
  EXPECT_EQ(request.width(), 512);
  EXPECT_EQ(request.height(), 256);
  EXPECT_EQ(request.steps(), 4);
  EXPECT_TRUE(request.has_guidance_scale());
  EXPECT_EQ(request.guidance_scale(), 0);
  EXPECT_EQ(request.seed(), 18446744073709551615ULL);
  EXPECT_EQ(request.image_count(), 2);
  EXPECT_EQ(request.format(), v1::IMAGE_FORMAT_WEBP);
  EXPECT_EQ(request.quality(), 80);
  EXPECT_EQ(request.preview_every(), 3);
  EXPECT_EQ(request.priority(), v1::PRIORITY_BATCH);
  EXPECT_EQ(request.request_id(), "mine");
  EXPECT_EQ(server.authorization(), "Bearer secret");
  EXPECT_EQ(server.tenant(), "studio-7");
}

TEST_F(FrescoTest, LeavesToTheServerWhatIsNotGiven) {
  FakeServer server;
  Run({"generate", "-p", "fox"}, server.address());
  const v1::GenerateRequest request = server.requests().at(0);
  EXPECT_FALSE(request.has_seed());
  EXPECT_FALSE(request.has_guidance_scale());
  EXPECT_FALSE(request.has_prompt_2());
  EXPECT_FALSE(request.has_prompt_3());
  EXPECT_FALSE(request.has_noise_correction());
  EXPECT_FALSE(request.deterministic());
  EXPECT_EQ(request.width(), 0);
  EXPECT_EQ(request.preview_every(), 0);
  EXPECT_EQ(request.priority(), v1::PRIORITY_INTERACTIVE);
}

TEST_F(FrescoTest, MakesUpNamesAndReplacesNothing) {
  FakeServer server;
  for (int i = 0; i < 3; ++i) Run({"generate", "-p", "A red Fox, 2 hens!", "--seed", "5"}, server.address());
  EXPECT_THAT(Files(), ElementsAre("a-red-fox-2-hens-5-2.png", "a-red-fox-2-hens-5-3.png", "a-red-fox-2-hens-5.png"));
}

TEST_F(FrescoTest, NumbersSeveralPictures) {
  FakeServer server;
  Run({"generate", "-p", "x", "--count", "2", "--seed", "5", "-o", "a.jpg"}, server.address());
  Run({"generate", "-p", "x", "--count", "2", "--seed", "5", "-o", "{seed}.png"}, server.address());
  EXPECT_THAT(Files(), ElementsAre("5.png", "6.png", "a-1.jpg", "a-2.jpg"));
  EXPECT_EQ(Read("6.png"), PictureOf(6));
  EXPECT_EQ(server.requests()[0].format(), v1::IMAGE_FORMAT_JPEG);
}

TEST_F(FrescoTest, PrintsOneJsonObject) {
  FakeServer server;
  const Outcome outcome = Run({"generate", "-p", "x", "--count", "2", "-o", "a.png", "--json"}, server.address());
  const Json json = Json::parse(outcome.out);
  ASSERT_EQ(json.at("images").size(), 2U);
  EXPECT_EQ(json["images"][1]["file"], "a-2.png");
  EXPECT_EQ(json["images"][1]["seed"], 1001);
  EXPECT_EQ(json["images"][1]["bytes"], PictureOf(1001).size());
  EXPECT_EQ(json["images"][0]["provenance"]["model"], "demo");
  EXPECT_EQ(json["timings"]["total"], 3.0);
  EXPECT_EQ(json["warnings"], Json({"the prompt was cut"}));
  EXPECT_EQ(json["request_id"], "r-1");
}

// "00-<trace id>-<span id>-01"; the id, "" where it is not that.
std::string TraceIdOf(const std::string& traceparent) {
  EXPECT_THAT(traceparent, ::testing::MatchesRegex("00-[0-9a-f]{32}-[0-9a-f]{16}-01"));
  return traceparent.size() == 55 ? traceparent.substr(3, 32) : "";
}

TEST_F(FrescoTest, ACallIsATraceThatTheServerHearsOfAndJsonShows) {
  const std::string span = "-00000000000000ab-01";
  FakeServer server([&span](grpc::ServerContext* context, const v1::GenerateRequest& request, EventWriter* writer) {
    const auto sent = context->client_metadata().find("traceparent");
    context->AddInitialMetadata("traceparent", std::string(sent->second.data(), 35) + span);
    return DrawWell(context, request, writer);
  });
  std::set<std::string> traces;
  for (const char* file : {"a.png", "b.png"}) {
    const Json json = Json::parse(Run({"generate", "-p", "x", "-o", file, "--json"}, server.address()).out);
    const std::string trace_id = TraceIdOf(server.traceparents().back());
    EXPECT_EQ(json.at("trace_id"), trace_id);
    EXPECT_EQ(json.at("traceparent"), "00-" + trace_id + span);
    traces.insert(trace_id);
  }
  EXPECT_EQ(traces.size(), 2U);
}

TEST_F(FrescoTest, AttemptsOfOneCallShareItsTraceAndAnErrorNamesIt) {
  std::atomic<int> calls = 0;
  FakeServer server([&calls](grpc::ServerContext*, const v1::GenerateRequest&, EventWriter*) {
    if (++calls == 1) return RefuseFor(grpc::StatusCode::UNAVAILABLE, "loading", 1);
    return Refuse(grpc::StatusCode::NOT_FOUND, "no such model", {});
  });
  const Outcome outcome = Run({"generate", "-p", "x", "--wait", "60", "--json"}, server.address());
  EXPECT_EQ(outcome.exit_code, 3);
  const std::vector<std::string> sent = server.traceparents();
  ASSERT_EQ(sent.size(), 2U);
  EXPECT_EQ(TraceIdOf(sent[0]), TraceIdOf(sent[1]));
  EXPECT_NE(sent[0], sent[1]);
  EXPECT_EQ(Json::parse(outcome.out).at("error").at("trace_id"), TraceIdOf(sent[1]));
  EXPECT_THAT(outcome.err, HasSubstr("\n  trace " + TraceIdOf(sent[1])));
}

TEST_F(FrescoTest, RefusesImagesThatAreNotWhole) {
  FakeServer server([](auto*, const auto&, auto* writer) {
    v1::GenerateEvent event;
    event.mutable_image()->set_data("abc");
    event.mutable_image()->set_total_bytes(10);
    writer->Write(event);
    return grpc::Status::OK;
  });
  const Outcome outcome = Run({"generate", "-p", "x"}, server.address());
  EXPECT_EQ(outcome.exit_code, 3);
  EXPECT_THAT(outcome.err, HasSubstr("without image 1 of 1"));
  EXPECT_TRUE(Files().empty());
}

TEST_F(FrescoTest, AFileThatCanNotBeWrittenIsAnError) {
  FakeServer server;
  Write("occupied", "");
  const Outcome outcome = Run({"generate", "-p", "x", "-o", "occupied/a.png"}, server.address());
  EXPECT_EQ(outcome.exit_code, 3);
  EXPECT_THAT(outcome.err, HasSubstr("can not write into occupied: Not a directory"));
  Write("p.csv", "prompt,output\nx,occupied/deeper/a.png\n");
  EXPECT_EQ(Run({"generate", "--prompts-file", "p.csv"}, server.address()).exit_code, 3);
  EXPECT_EQ(Run({"generate", "-p", "x", "-o", "new/{seed}.png", "--contact-sheet", "occupied/a.png"}, server.address())
                .exit_code,
            3);
  EXPECT_TRUE(server.requests().empty());
  EXPECT_FALSE(fs::exists(folder_ / "new"));
}

TEST_F(FrescoTest, CtrlCCancelsOnTheServer) {
  Endless endless;
  FakeServer server([&endless](auto* context, const auto&, auto* writer) { return endless(context, writer); });
  Process process(Options({"generate", "-p", "x"}, server.address()));
  endless.begun.get_future().wait();
  process.Signal(SIGINT);
  EXPECT_EQ(process.Wait(), 130);
  EXPECT_TRUE(endless.cancelled.get_future().get());
  EXPECT_THAT(process.err(), HasSubstr("cancelled"));
  EXPECT_TRUE(Files().empty());
}

TEST_F(FrescoTest, ATerminalSeesALineThatMoves) {
  FakeServer server;
  ProcessOptions options = Options({"generate", "-p", "x", "-o", "a.png"}, server.address());
  options.terminal = true;
  options.environment.push_back("TERM=xterm");
  const Outcome outcome = Run(options);
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_THAT(outcome.err,
              AllOf(HasSubstr("\r2 ahead in the queue\x1b[K"), HasSubstr("█"), HasSubstr("step 2/4  0:02 left\x1b[K")));
}

TEST_F(FrescoTest, ATerminalSeesPreviewsInItsOwnWay) {
  FakeServer server;
  const std::pair<std::string, std::string> cases[] = {
      {"KITTY_WINDOW_ID=1", "\x1b_Ga=T,f=100,i=1,p=1,q=2,C=1,c=16,r=4,m=0;iVBOR"},
      {"TERM_PROGRAM=iTerm.app", "\x1b]1337;File=inline=1;"},
      {"COLORTERM=truecolor", "\x1b[38;2;232;232;232m\x1b[48;2;232;232;232m▀"}};
  for (const auto& [variable, expected] : cases) {
    ProcessOptions options = Options({"generate", "-p", "x", "-o", "a.png", "--preview-every", "1"}, server.address());
    options.terminal = true;
    options.environment.insert(options.environment.end(), {"TERM=xterm", variable});
    EXPECT_THAT(Run(options).err, HasSubstr(expected)) << variable;
  }
}

}  // namespace
}  // namespace fresco
