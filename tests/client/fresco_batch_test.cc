// Many prompts from a file: what is drawn, what is resumed, what failed, against a scripted server.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <csignal>

#include "fake_server.h"
#include "fresco_fixture.h"

namespace fresco {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

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

}  // namespace
}  // namespace fresco
