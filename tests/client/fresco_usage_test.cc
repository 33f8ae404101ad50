// What the program says: help, usage errors, a server that refuses, is busy or away, and the other commands.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>

#include "fake_server.h"
#include "fresco_fixture.h"

namespace fresco {
namespace {

using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

TEST_F(FrescoTest, UsageErrorsExitWithTwo) {
  FakeServer server;
  const std::vector<std::vector<std::string>> wrong = {{},
                                                       {"paint"},
                                                       {"generate"},
                                                       {"generate", "-p", "x", "--count", "many"},
                                                       {"generate", "-p", "x", "--count", "0"},
                                                       {"generate", "-p", "x", "--seed", "-1"},
                                                       {"generate", "-p", "x", "--seed", "18446744073709551616"},
                                                       {"generate", "-p", "x", "--seed", "1.5"},
                                                       {"generate", "-p", "x", "-o", "a.gif"},
                                                       {"generate", "-p", "x", "-o", "{name}.png"},
                                                       {"generate", "-p", "x", "--format", "bmp"},
                                                       {"generate", "-p", "x", "--priority", "2"},
                                                       {"generate", "-p", "x", "--template", "{a}"},
                                                       {"generate", "-p", "\xff"},
                                                       {"generate", "--prompts-file", "missing.txt"},
                                                       {"cancel"},
                                                       {"load-model"},
                                                       {"unload-model"},
                                                       {"profile", "--steps", "65"}};
  for (const auto& arguments : wrong) {
    const Outcome outcome = Run(arguments, server.address());
    EXPECT_EQ(outcome.exit_code, 2) << ::testing::PrintToString(arguments);
    EXPECT_THAT(outcome.err, HasSubstr("fresco: "));
  }
  EXPECT_TRUE(server.requests().empty());
}

TEST_F(FrescoTest, OptionsReplaceTheEnvironment) {
  FakeServer server;
  ProcessOptions options = Options({"generate", "-p", "x", "--server", server.address()}, "127.0.0.1:1");
  options.environment.push_back("FRESCO_TOKEN=of the environment");
  EXPECT_EQ(Run(options).exit_code, 0);
  EXPECT_EQ(server.authorization(), "Bearer of the environment");
  options.arguments.insert(options.arguments.end(), {"--token", "given"});
  EXPECT_EQ(Run(options).exit_code, 0);
  EXPECT_EQ(server.authorization(), "Bearer given");
  for (const char* command : {"models", "status"})
    EXPECT_EQ(Run({command, "--server", server.address()}, "127.0.0.1:1").exit_code, 0) << command;
}

TEST_F(FrescoTest, ATenantIsAName) {
  FakeServer server;
  for (const std::string& tenant : {std::string("night shift"), std::string("a\nb"), std::string(65, 'a')}) {
    const Outcome outcome = Run({"generate", "-p", "x", "--tenant", tenant}, server.address());
    EXPECT_EQ(outcome.exit_code, 2) << tenant;
    EXPECT_THAT(outcome.err, HasSubstr("--tenant: expected a name of 1 to 64 letters")) << tenant;
  }
  EXPECT_TRUE(server.requests().empty());
  ProcessOptions options = Options({"generate", "-p", "x"}, server.address());
  options.environment.push_back("FRESCO_TENANT=studio_7.a");
  EXPECT_EQ(Run(options).exit_code, 0);
  EXPECT_EQ(server.tenant(), "studio_7.a");
}

TEST_F(FrescoTest, AServerIsAHostAndAPort) {
  for (const char* server :
       {"127.0.0.1:99999", "127.0.0.1:0", "127.0.0.1:", "127.0.0.1", ":8500", "http://localhost:8500",
        "http://localhost", "garbage", "::1:8500", "localhost:85x", "localhost:-1", ""}) {
    const Outcome outcome = Run({"status", "--server", server});
    EXPECT_EQ(outcome.exit_code, 2) << server;
    EXPECT_THAT(outcome.err, HasSubstr("expected HOST:PORT")) << server;
  }
  EXPECT_EQ(Run({"status"}, "garbage").exit_code, 2);
  for (const char* server : {"localhost:1", "[::1]:1"})
    EXPECT_EQ(Run({"status", "--server", server}).exit_code, 4) << server;
}

TEST_F(FrescoTest, TheNameAndTheFormatAgree) {
  FakeServer server;
  const Outcome outcome = Run({"generate", "-p", "x", "-o", "a.jpg", "--format", "png"}, server.address());
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("--output \"a.jpg\" is not what --format png writes"));
  EXPECT_TRUE(server.requests().empty());
  EXPECT_EQ(Run({"generate", "-p", "x", "-o", "a.jpg", "--format", "JPEG"}, server.address()).exit_code, 0);
  EXPECT_EQ(Run({"generate", "-p", "x", "-o", "a.image", "--format", "png"}, server.address()).exit_code, 0);
}

TEST_F(FrescoTest, HelpTeachesByExamples) {
  const Outcome outcome = Run({"generate", "--help"});
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_THAT(outcome.out,
              AllOf(HasSubstr("--prompts-file prompts.txt"), HasSubstr("--template \"a {colour} {animal}")));
  EXPECT_THAT(outcome.out, AllOf(HasSubstr("png, jpeg or webp"), Not(HasSubstr("ENUM")), Not(HasSubstr("->"))));
  for (const char* type : {" INT", " UINT", " FLOAT", ":FILE"}) EXPECT_THAT(outcome.out, Not(HasSubstr(type)));
  for (const char* named : {"--count N=1 ", "--quality N=90 ", "--parallel N=4 ", "--wait SECONDS=0 ",
                            "[interactive; batch with --prompts-file]", "finer [the model's default]"})
    EXPECT_THAT(outcome.out, HasSubstr(named));
  EXPECT_THAT(Run({"--help"}).out, HasSubstr("4 no server there"));
  for (const std::string command : {"models", "status", "health", "cancel", "load-model", "unload-model", "profile"}) {
    EXPECT_THAT(Run({command, "--help"}).out,
                AllOf(HasSubstr("  fresco " + command), Not(HasSubstr("--prompts-file"))));
  }
}

TEST_F(FrescoTest, AnUnknownCommandHearsOfTheOthers) {
  const Outcome outcome = Run({"frob"});
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("unknown command 'frob'; there are generate, models, status, health, cancel, "
                                     "load-model, unload-model, profile\n"));
}

TEST_F(FrescoTest, ACommandComesFirst) {
  const std::string known = "there are generate, models, status, health, cancel, load-model, unload-model, profile\n";
  EXPECT_THAT(Run(std::vector<std::string>()).err, HasSubstr("a command comes first; " + known));
  const Outcome outcome = Run({"--server", "127.0.0.1:1", "status"});
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("a command comes before '--server'; " + known));
}

TEST_F(FrescoTest, SaysWhoseVersionItIs) {
  EXPECT_THAT(Run({"--version"}).out, ::testing::MatchesRegex("fresco [0-9]+\\.[0-9]+\\.[0-9]+\n"));
}

TEST_F(FrescoTest, UsageErrorsSayWhatWouldBeRight) {
  Write("p.txt", "a fox\n");
  const std::pair<std::vector<std::string>, std::string> cases[] = {
      {{"-o", "a.gif"},
       "--output: \"a.gif\" does not end in .png, .jpg, .jpeg or .webp, the formats that can be written"},
      {{"-o", "{sed}.png"}, "unknown placeholder \"{sed}\": there are {seed}, {index} and {prompt}"},
      {{"--prompts-file", "p.txt"}, "exactly one of --prompt and --prompts-file is needed"},
      {{"--count", "1.5"}, "--count: \"1.5\" is not a whole number from 1 to 1048576"},
      {{"--steps", "many"}, "--steps: \"many\" is not a whole number from 1 to 1048576"},
      {{"--steps", "0"}, "--steps: \"0\" is not a whole number from 1 to 1048576"},
      {{"--guidance", "31"}, "--guidance: \"31\" is not a number from 0 to 30"},
      {{"--promt", "a fox"}, "unknown option '--promt'\n"},
      {{"red", "fox"}, "unexpected 'red': a prompt comes after --prompt, in quotes\n"},
      {{"--wait", "nan"}, "--wait: \"nan\" is not a number from 0 to"}};
  for (const auto& [options, expected] : cases) {
    std::vector<std::string> arguments = {"generate", "-p", "x"};
    arguments.insert(arguments.end(), options.begin(), options.end());
    const Outcome outcome = Run(arguments);
    EXPECT_EQ(outcome.exit_code, 2) << expected;
    EXPECT_THAT(outcome.err, HasSubstr(expected));
  }
}

TEST_F(FrescoTest, ChoicesAreWords) {
  const Outcome outcome = Run({"generate", "-p", "x", "--format", "2"});
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("\"2\" is not png, jpeg or webp"));
}

TEST_F(FrescoTest, ShowsEveryFieldThatTheServerRefuses) {
  FakeServer server([](auto*, const auto&, auto*) {
    google::rpc::BadRequest bad;
    for (const auto& [field, why] :
         {std::pair{"width", "must be a multiple of 16"}, {"steps", "must be at most 100"}}) {
      bad.add_field_violations()->set_field(field);
      bad.mutable_field_violations()->rbegin()->set_description(why);
    }
    return Refuse(grpc::StatusCode::INVALID_ARGUMENT, "two fields are wrong", {&bad});
  });
  const Outcome outcome = Run({"generate", "-p", "x", "-o", "a.png", "--json"}, server.address());
  EXPECT_EQ(outcome.exit_code, 3);
  EXPECT_THAT(
      outcome.err,
      HasSubstr("fresco: two fields are wrong\n  width: must be a multiple of 16\n  steps: must be at most 100"));
  const Json error = Json::parse(outcome.out).at("error");
  EXPECT_EQ(error["code"], "INVALID_ARGUMENT");
  EXPECT_EQ(error["fields"][1], Json({{"field", "steps"}, {"description", "must be at most 100"}}));
  EXPECT_TRUE(Files().empty());
}

TEST_F(FrescoTest, ABusyServerIsNoUnreachableOne) {
  FakeServer server([](auto*, const auto&, auto*) { return RefuseFor(grpc::StatusCode::UNAVAILABLE, "loading", 500); });
  const Outcome outcome = Run({"generate", "-p", "x"}, server.address());
  EXPECT_EQ(outcome.exit_code, 3);
  EXPECT_THAT(outcome.err, HasSubstr("loading\n  try again in 500ms"));
}

TEST_F(FrescoTest, AServerThatGivesUpHalfWayIsNoUnreachableOne) {
  FakeServer server([](auto*, const auto&, auto* writer) {
    WriteStep(0, 1, 4, "", writer);
    return grpc::Status(grpc::StatusCode::UNAVAILABLE, "the device is gone");
  });
  const Outcome outcome = Run({"generate", "-p", "x"}, server.address());
  EXPECT_EQ(outcome.exit_code, 3);
  EXPECT_THAT(outcome.err, AllOf(HasSubstr("fresco: the device is gone"), Not(HasSubstr("no server answers"))));
}

TEST_F(FrescoTest, UnreachableServersExitWithFour) {
  for (const auto& arguments : std::vector<std::vector<std::string>>{
           {"generate", "-p", "x"}, {"models"}, {"status"}, {"health"}, {"cancel", "x"}}) {
    const Outcome outcome = Run(arguments);
    EXPECT_EQ(outcome.exit_code, 4);
    EXPECT_THAT(outcome.err, AllOf(HasSubstr("no server answers at 127.0.0.1:1"), HasSubstr("--wait SECONDS")));
  }
}

TEST_F(FrescoTest, WaitsForAServerThatIsLoading) {
  std::atomic<int> calls = 0;
  FakeServer server([&calls](auto* context, const auto& request, auto* writer) {
    return ++calls < 3 ? RefuseFor(grpc::StatusCode::UNAVAILABLE, "loading", 5) : DrawWell(context, request, writer);
  });
  EXPECT_EQ(Run({"generate", "-p", "x", "--wait", "60"}, server.address()).exit_code, 0);
  EXPECT_EQ(calls, 3);
}

TEST_F(FrescoTest, HealthIsAnExitCode) {
  FakeServer server;
  server.SetServing("demo", true);
  server.SetServing("large", false);
  EXPECT_EQ(Run({"health"}, server.address()).exit_code, 0);
  EXPECT_EQ(Run({"health", "demo"}, server.address()).out, "serving\n");
  const Outcome loading = Run({"health", "large"}, server.address());
  EXPECT_EQ(loading.exit_code, 3);
  EXPECT_THAT(loading.err, HasSubstr("large does not serve now"));
  const Outcome unknown = Run({"health", "small"}, server.address());
  EXPECT_EQ(unknown.exit_code, 3);
  EXPECT_THAT(unknown.err, HasSubstr("the server has no model \"small\""));
  server.SetServing("", false);
  EXPECT_EQ(Run({"health"}, server.address()).exit_code, 3);
}

TEST_F(FrescoTest, AnswersAboutTheServer) {
  FakeServer server;
  EXPECT_THAT(Run({"models"}, server.address()).out,
              AllOf(HasSubstr("MODEL"), HasSubstr("demo"), HasSubstr("256x256")));
  EXPECT_EQ(Json::parse(Run({"models", "--json"}, server.address()).out)["models"][0]["state"], "READY");
  EXPECT_THAT(Run({"status"}, server.address()).out,
              AllOf(HasSubstr("fresco 0.1.0"), HasSubstr("1 running"), HasSubstr("r-1")));
  EXPECT_EQ(Json::parse(Run({"status", "--json"}, server.address()).out)["requests_running"], 1);
  EXPECT_EQ(Run({"cancel", "r-1"}, server.address()).out, "cancelled r-1\n");
  EXPECT_EQ(Run({"load-model", "large", "--device", "cuda:0", "--device", "cuda:1"}, server.address()).out,
            "loaded large on cuda:0, cuda:1; unloaded for it: demo\n");
  EXPECT_EQ(Json::parse(Run({"load-model", "large", "--device", "cpu", "--json"}, server.address()).out)["evicted"][0],
            "demo");
  EXPECT_EQ(Run({"unload-model", "demo"}, server.address()).out, "unloaded demo\n");
  EXPECT_EQ(Run({"unload-model", "demo", "--device", "cpu"}, server.address()).out,
            "unloaded demo; it is still on cuda:0\n");
  const Outcome loaded = Run({"load-model", "demo"}, server.address());
  EXPECT_EQ(loaded.exit_code, 3);
  EXPECT_THAT(loaded.err, HasSubstr("demo is loaded already"));
  const Outcome unknown = Run({"cancel", "r-2"}, server.address());
  EXPECT_EQ(unknown.exit_code, 3);
  EXPECT_THAT(unknown.err, HasSubstr("there is no request \"r-2\""));
}

TEST_F(FrescoTest, ProfilesARunningModel) {
  FakeServer server;
  const std::string trace = "traces/trace.json";
  const Outcome table = Run({"profile", "-m", "demo", "--steps", "3", "--trace", trace}, server.address());
  EXPECT_EQ(table.exit_code, 0) << table.err;
  EXPECT_THAT(table.out,
              AllOf(HasSubstr("demo on cpu: a step takes 20.000 ms (3 recorded), 19.000 ms where it is not"),
                    HasSubstr("recording adds 5.0 % to a step (median), and 7.000 ms in all to begin"),
                    HasSubstr("15.000 ms  75.0 %  transformer, MLP"), HasSubstr("5.000 ms   25.0 %  between layers"),
                    HasSubstr("transformer.ff.net.2"), HasSubstr("its memory moves 20.0 GB/s"), HasSubstr(trace)));
  // GFLOP a second, of the peak, MiB, GB a second, of the memory's, and what binds.
  EXPECT_THAT(table.out, ContainsRegex("2000.0 +40.0 % +100.14 +7.0 +35.0 % +compute +fp8 +transformer.ff.net.2"));
  EXPECT_EQ(Read(trace), "{\"traceEvents\":[]}");
  const Json json = Json::parse(Run({"profile", "--device", "cpu", "--json"}, server.address()).out);
  EXPECT_EQ(json["steps"], 5);
  EXPECT_EQ(json["layers"][0]["dtype"], "fp8");
  EXPECT_EQ(json["memory_bandwidth"], 20e9);
  EXPECT_EQ(json["layers"][0]["share_of_bandwidth"], 0.35);
  EXPECT_EQ(json["layers"][0]["bound"], "compute");
  const Outcome refused = Run({"profile", "-m", "large"}, server.address());
  EXPECT_EQ(refused.exit_code, 3);
  EXPECT_THAT(refused.err, HasSubstr("no step of the model 'large'"));
}

}  // namespace
}  // namespace fresco
