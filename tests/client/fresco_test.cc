// The program as its user meets it: a process, its words, its files and its exit code, against a scripted server.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <future>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>

#include "fake_server.h"
#include "process.h"

namespace fresco {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::json;
namespace fs = std::filesystem;

struct Outcome {
  int exit_code = 0;
  std::string out, err;
};

class FrescoTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "fresco-client-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { fs::remove_all(folder_); }

  ProcessOptions Options(std::vector<std::string> arguments, const std::string& server) const {
    return {std::move(arguments), folder_.string(), {"FRESCO_SERVER=" + server}, false};
  }

  Outcome Run(std::vector<std::string> arguments, const std::string& server = "127.0.0.1:1") const {
    return Run(Options(std::move(arguments), server));
  }

  static Outcome Run(const ProcessOptions& options) {
    Process process(options);
    const int exit_code = process.Wait();
    return {exit_code, process.out(), process.err()};
  }

  std::string Read(const std::string& name) const {
    std::ifstream file(folder_ / name, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  void Write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ / name, std::ios::binary) << text;
  }

  // Names of the files in a folder, hidden ones left out.
  std::set<std::string> Files(const std::string& name = ".") const {
    std::set<std::string> files;
    for (const auto& entry : fs::directory_iterator(folder_ / name)) {
      if (entry.is_regular_file() && entry.path().filename().string()[0] != '.')
        files.insert(entry.path().filename().string());
    }
    return files;
  }

  static std::vector<Json> JsonLines(const std::string& text) {
    std::vector<Json> lines;
    std::istringstream stream(text);
    for (std::string line; std::getline(stream, line);) lines.push_back(Json::parse(line));
    return lines;
  }

  fs::path folder_;
};

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
}

TEST_F(FrescoTest, LeavesToTheServerWhatIsNotGiven) {
  FakeServer server;
  Run({"generate", "-p", "fox"}, server.address());
  const v1::GenerateRequest request = server.requests().at(0);
  EXPECT_FALSE(request.has_seed());
  EXPECT_FALSE(request.has_guidance_scale());
  EXPECT_FALSE(request.has_prompt_2());
  EXPECT_FALSE(request.has_prompt_3());
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
                                                       {"cancel"}};
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
  for (const std::string command : {"models", "status", "cancel"}) {
    EXPECT_THAT(Run({command, "--help"}).out,
                AllOf(HasSubstr("  fresco " + command), Not(HasSubstr("--prompts-file"))));
  }
}

TEST_F(FrescoTest, AnUnknownCommandHearsOfTheOthers) {
  const Outcome outcome = Run({"frob"});
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("unknown command 'frob'; there are generate, models, status, cancel\n"));
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
  for (const auto& arguments :
       std::vector<std::vector<std::string>>{{"generate", "-p", "x"}, {"models"}, {"status"}, {"cancel", "x"}}) {
    const Outcome outcome = Run(arguments);
    EXPECT_EQ(outcome.exit_code, 4);
    EXPECT_THAT(outcome.err, HasSubstr("no server answers at 127.0.0.1:1"));
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

// Draws until the client goes away, and says when it began and whether the client went.
struct Endless {
  std::promise<void> begun;
  std::promise<bool> cancelled;

  grpc::Status operator()(grpc::ServerContext* context, EventWriter* writer) {
    WriteStep(0, 1, 100, "", writer);
    begun.set_value();
    for (int i = 0; i < 6000 && !context->IsCancelled(); ++i) usleep(10000);
    cancelled.set_value(context->IsCancelled());
    return grpc::Status::CANCELLED;
  }
};

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

TEST_F(FrescoTest, CtrlCEndsABatch) {
  Endless endless;
  FakeServer server([&endless](auto* context, const auto& request, auto* writer) {
    return request.prompt() == "endless" ? endless(context, writer) : DrawWell(context, request, writer);
  });
  Write("p.txt", "first\nendless\nnever\n");
  Process process(Options({"generate", "--prompts-file", "p.txt", "--parallel", "1"}, server.address()));
  endless.begun.get_future().wait();
  process.Signal(SIGINT);
  EXPECT_EQ(process.Wait(), 130);
  EXPECT_TRUE(endless.cancelled.get_future().get());
  EXPECT_THAT(Files(), ElementsAre("0001-first.png", "p.txt"));
  EXPECT_EQ(server.requests().size(), 2U);
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

TEST_F(FrescoTest, DrawsALineAtATimeAndResumes) {
  FakeServer server;
  Write("p.txt",
        "\xEF\xBB\xBF"
        "a fox\r\n\r\na hen\r\nein Huhn, größer\r\n");
  const std::vector<std::string> arguments = {"generate", "--prompts-file", "p.txt",           "--seed",    "10",
                                              "-o",       "out/",           "--contact-sheet", "sheet.png", "--json"};
  const Outcome first = Run(arguments, server.address());
  EXPECT_EQ(first.exit_code, 0) << first.err;
  EXPECT_THAT(Files("out"), ElementsAre("0001-a-fox.png", "0003-a-hen.png", "0004-ein-huhn-größer.png"));
  EXPECT_EQ(Read("out/0003-a-hen.png"), PictureOf(11));
  const DecodedImage sheet = DecodeImage(Read("sheet.png")).value();
  EXPECT_EQ(sheet.image.width, 12 + 2 * (16 + 12));
  ASSERT_EQ(JsonLines(first.out).size(), 4U);
  EXPECT_EQ(JsonLines(first.out)[3]["summary"]["done"], 3);

  fs::remove(folder_ / "out/0003-a-hen.png");
  Write("p.txt", "a fox\n\na hen\nein Huhn, größer\na goat\n");
  const Outcome second = Run(arguments, server.address());
  EXPECT_EQ(second.exit_code, 0);
  ASSERT_EQ(server.requests().size(), 5U);  // the one that was removed and the one that is new
  const Json summary = JsonLines(second.out).back()["summary"];
  EXPECT_EQ(summary["skipped"], 2);
  EXPECT_EQ(summary["done"], 2);
  EXPECT_THAT(second.err, HasSubstr("2 drawn, 2 there already, 0 failed"));

  std::vector<std::string> other = arguments;
  other[4] = "11";  // another seed: other pictures
  Run(other, server.address());
  EXPECT_EQ(server.requests().size(), 9U);
}

TEST_F(FrescoTest, DrawsManyIntoAFolderWhoseNameIsNotUtf8) {
  FakeServer server;
  Write("p.txt", "a fox\n");
  const Outcome outcome =
      Run({"generate", "--prompts-file", "p.txt", "--seed", "7", "-o", "caf\xe9/", "--json"}, server.address());
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(Read("caf\xe9/0001-a-fox.png"), PictureOf(7));
}

TEST_F(FrescoTest, ResumesAfterItWasKilled) {
  std::promise<void> second_begun;
  std::atomic<bool> stuck = true;
  FakeServer server([&](auto* context, const auto& request, auto* writer) {
    if (request.prompt() == "two" && stuck.exchange(false)) {
      second_begun.set_value();
      for (int i = 0; i < 6000 && !context->IsCancelled(); ++i) usleep(10000);
    }
    return DrawWell(context, request, writer);
  });
  Write("p.txt", "one\ntwo\n");
  const std::vector<std::string> arguments = {"generate", "--prompts-file", "p.txt", "--parallel", "1", "-o", "out/"};
  Process process(Options(arguments, server.address()));
  second_begun.get_future().wait();
  process.Signal(SIGKILL);
  EXPECT_EQ(process.Wait(), -SIGKILL);
  std::ofstream(folder_ / "out/.fresco-journal.jsonl", std::ios::app) << "{\"request\": {\"pro";  // a torn line
  for (int run = 0; run < 2; ++run) EXPECT_EQ(Run(arguments, server.address()).exit_code, 0);
  EXPECT_THAT(Files("out"), ElementsAre("0001-one.png", "0002-two.png"));
  EXPECT_EQ(server.requests().size(), 3U);  // one, two, two
}

TEST_F(FrescoTest, DrawsCsvRowsFromATemplate) {
  FakeServer server;
  Write("animals.csv",
        "colour,animal,seed,output,steps\nred,fox,5,fox.png,\n\"dark \"\"blue\"\"\",\"hen,\nsitting\",,,7\n");
  const Outcome outcome = Run({"generate", "--prompts-file", "animals.csv", "--template", "a {colour} {animal}",
                               "--steps", "3", "-o", "out/", "--parallel", "1"},
                              server.address());
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_THAT(Files("out"), ElementsAre("0003-a-dark-blue-hen-sitting.png", "fox.png"));
  const std::vector<v1::GenerateRequest> requests = server.requests();
  EXPECT_EQ(requests[0].prompt(), "a red fox");
  EXPECT_EQ(requests[0].seed(), 5U);
  EXPECT_EQ(requests[0].steps(), 3);
  EXPECT_EQ(requests[0].priority(), v1::PRIORITY_BATCH);
  EXPECT_EQ(requests[1].prompt(), "a dark \"blue\" hen,\nsitting");
  EXPECT_FALSE(requests[1].has_seed());
  EXPECT_EQ(requests[1].steps(), 7);
}

TEST_F(FrescoTest, DrawsSeveralPromptsAtATime) {
  Mutex mutex;
  CondVar changed;
  int running = 0;
  // Nobody is answered before three are there.
  FakeServer server([&](auto* context, const auto& request, auto* writer) {
    {
      MutexLock lock(&mutex);
      ++running;
      changed.NotifyAll();
      while (running < 3) {
        if (!changed.WaitFor(&mutex, std::chrono::seconds(60)))
          return grpc::Status(grpc::StatusCode::INTERNAL, "alone");
      }
    }
    return DrawWell(context, request, writer);
  });
  Write("p.txt", "a\nb\nc\n");
  EXPECT_EQ(Run({"generate", "--prompts-file", "p.txt", "--parallel", "3"}, server.address()).exit_code, 0);
  EXPECT_EQ(Files().size(), 4U);
}

TEST_F(FrescoTest, RetriesABusyServerAndListsWhatFailed) {
  std::atomic<int> refusals = 0;
  FakeServer server([&](auto* context, const auto& request, auto* writer) {
    if (request.prompt() == "wrong") return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "not that");
    if (request.prompt() == "never") return RefuseFor(grpc::StatusCode::UNAVAILABLE, "gone", 1);
    if (refusals++ < 2) return RefuseFor(grpc::StatusCode::RESOURCE_EXHAUSTED, "the queue is full", 1);
    return DrawWell(context, request, writer);
  });
  Write("p.txt", "busy\nwrong\nnever\n");
  const Outcome outcome =
      Run({"generate", "--prompts-file", "p.txt", "--parallel", "1", "--retries", "2", "--json"}, server.address());
  EXPECT_EQ(outcome.exit_code, 3);
  EXPECT_THAT(Files(), ElementsAre("0001-busy.png", "p.txt"));
  EXPECT_EQ(server.requests().size(), 3U + 1U + 3U);
  EXPECT_THAT(outcome.err, HasSubstr("failed:\n  line 2: \"wrong\": not that\n  line 3: \"never\": gone\n"));
  const std::vector<Json> lines = JsonLines(outcome.out);
  EXPECT_EQ(lines[1]["status"], "failed");
  EXPECT_EQ(lines[1]["error"]["message"], "not that");
  EXPECT_EQ(lines.back()["summary"]["failed"], 2);
}

TEST_F(FrescoTest, APromptsFileThatIsWrongDrawsNothing) {
  FakeServer server;
  Write("wrong.csv", "prompt,seed\nfox,1\nhen,many\n");
  const Outcome outcome = Run({"generate", "--prompts-file", "wrong.csv"}, server.address());
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("wrong.csv: line 3: column \"seed\" has \"many\""));
  EXPECT_TRUE(server.requests().empty());
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
  const Outcome unknown = Run({"cancel", "r-2"}, server.address());
  EXPECT_EQ(unknown.exit_code, 3);
  EXPECT_THAT(unknown.err, HasSubstr("there is no request \"r-2\""));
}

}  // namespace
}  // namespace fresco
