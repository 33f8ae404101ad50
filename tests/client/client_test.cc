// The parts that need no network.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <set>

#include "client/assembly.h"
#include "client/batch.h"
#include "client/batch_view.h"
#include "client/csv.h"
#include "client/files.h"
#include "client/journal.h"
#include "client/naming.h"
#include "client/preview.h"
#include "client/progress.h"
#include "client/prompts.h"
#include "client/rpc_status.h"
#include "client/tables.h"
#include "client/ticker.h"
#include "fresco/v1/image_generation.pb.h"
#include "google/rpc/error_details.pb.h"
#include "pipeline/base/format_bytes.h"
#include "pipeline/base/strings.h"
#include "tests/support/fake_clock.h"

namespace fresco {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string Message(const absl::Status& status) {
  return std::string(status.message());
}

TEST(NamingTest, SlugsAreShortAndSafe) {
  EXPECT_EQ(Slug("A Red Fox, in the snow!"), "a-red-fox-in-the-snow");
  EXPECT_EQ(Slug("../../etc/passwd"), "etc-passwd");
  EXPECT_EQ(Slug(""), "image");
  EXPECT_EQ(Slug("?!"), "image");
  EXPECT_EQ(Slug("水彩 狐"), "水彩-狐");
  EXPECT_EQ(Slug("one two three four five six seven eight nine ten eleven"),
            "one-two-three-four-five-six-seven-eight-nine-ten");
  std::string long_text;
  for (int i = 0; i < 100; ++i) long_text += "狐";
  EXPECT_EQ(Slug(long_text), long_text.substr(0, 48));
}

TEST(NamingTest, PatternsAreFilledIn) {
  const ImageName image{"A fox", 7, 1, 3, ImageFormat::kWebp};
  EXPECT_EQ(OutputPath("", image), "a-fox-7.webp");
  EXPECT_EQ(OutputPath("out/", image), "out/a-fox-7.webp");
  EXPECT_EQ(OutputPath("x.webp", image), "x-2.webp");
  EXPECT_EQ(OutputPath("v1.2/x", image), "v1.2/x-2");
  EXPECT_EQ(OutputPath("{prompt}.webp", image), "a-fox-2.webp");
  EXPECT_EQ(OutputPath("{index}/{seed}.webp", image), "2/7.webp");
  EXPECT_EQ(OutputPath("x.webp", {"A fox", 7, 0, 1, ImageFormat::kWebp}), "x.webp");
}

TEST(NamingTest, UnknownPlaceholdersAreNamed) {
  EXPECT_TRUE(CheckOutputPattern("{seed}-{index}-{prompt}.png").ok());
  EXPECT_THAT(Message(CheckOutputPattern("a{sed}.png")), HasSubstr("\"{sed}\""));
  EXPECT_THAT(Message(CheckOutputPattern("a{seed")), HasSubstr("\"{seed\""));
}

TEST(NamingTest, UnusedPathCountsOn) {
  const std::set<std::string> there = {"a/b.png", "a/b-2.png", "c"};
  const auto exists = [&](const std::string& path) { return there.count(path) > 0; };
  EXPECT_EQ(UnusedPath("a/b.png", exists), "a/b-3.png");
  EXPECT_EQ(UnusedPath("c", exists), "c-2");
  EXPECT_EQ(UnusedPath("d.png", exists), "d.png");
}

TEST(AssemblyTest, PutsInterleavedImagesTogether) {
  ImageAssembler assembler;
  EXPECT_EQ(assembler.Add(0, "ab", 0, 4).value(), std::nullopt);
  EXPECT_EQ(assembler.Add(1, "xyz", 0, 3).value(), "xyz");
  EXPECT_FALSE(assembler.CheckComplete(2).ok());
  EXPECT_EQ(assembler.Add(0, "cd", 2, 4).value(), "abcd");
  EXPECT_TRUE(assembler.CheckComplete(2).ok());
}

TEST(AssemblyTest, RefusesChunksThatDoNotFit) {
  for (const auto& [offset, total] : {std::pair<int64_t, int64_t>{3, 9},
                                      {1, 9},
                                      {2, 8},
                                      {2, 3},
                                      {-1, 9},
                                      {2, 0},
                                      {2, int64_t{1} << 40},
                                      {2, (int64_t{1} << 30) + 1},
                                      {INT64_MAX, 9},
                                      {INT64_MIN, 9}}) {
    ImageAssembler assembler;
    ASSERT_TRUE(assembler.Add(0, "ab", 0, 9).ok());
    EXPECT_EQ(assembler.Add(0, "cd", offset, total).status().code(), absl::StatusCode::kDataLoss)
        << offset << " " << total;
  }
  ImageAssembler assembler;
  ASSERT_TRUE(assembler.Add(0, "ab", 0, 2).ok());
  EXPECT_FALSE(assembler.Add(0, "ab", 0, 2).ok());  // a second time
}

TEST(CsvTest, ReadsQuotesLineEndsAndTheByteOrderMark) {
  const CsvTable table = ParseCsv(
                             "\xEF\xBB\xBF"
                             "a,b\r\n1,\"x, \"\"y\"\"\r\nz\"\r\n\r\n,\n\"\",2")
                             .value();
  EXPECT_THAT(table.header, ElementsAre("a", "b"));
  ASSERT_EQ(table.rows.size(), 3U);
  EXPECT_THAT(table.rows[0].fields, ElementsAre("1", "x, \"y\"\r\nz"));
  EXPECT_THAT(table.rows[1].fields, ElementsAre("", ""));
  EXPECT_THAT(table.rows[2].fields, ElementsAre("", "2"));
  EXPECT_EQ(table.rows[2].line, 6);
}

TEST(CsvTest, NamesTheLineThatIsWrong) {
  EXPECT_EQ(Message(ParseCsv("").status()), "it is empty: a header is expected");
  EXPECT_EQ(Message(ParseCsv("a,b\n1\n").status()), "line 2: 1 fields, the header has 2");
  EXPECT_EQ(Message(ParseCsv("a\n\"x\ny").status()), "line 2: a quote is opened and never closed");
  EXPECT_EQ(Message(ParseCsv("a\n\"x\"y\n").status()), "line 2: text after a closing quote");
  EXPECT_EQ(Message(ParseCsv("a,a\n").status()), "line 1: column \"a\" is there twice");
}

TEST(PromptsTest, LinesTakeSeedsInTurn) {
  PromptsOptions options;
  options.flags.seed = 100;
  options.output = "out/";
  const std::vector<BatchJob> jobs = ParsePrompts("fox\n\n  hen  \r\nfox", options).value();
  ASSERT_EQ(jobs.size(), 3U);
  EXPECT_EQ(jobs[1].request.prompt, "hen");
  EXPECT_EQ(jobs[1].request.seed, 101U);
  EXPECT_EQ(jobs[1].output, "out/0003-hen.png");
  EXPECT_EQ(jobs[2].output, "out/0004-fox.png");
}

TEST(PromptsTest, ImagesOfOneLineDoNotReplaceThoseOfTheNext) {
  PromptsOptions options;
  options.flags.seed = 1;
  options.flags.count = 2;
  options.output = "{seed}.png";
  EXPECT_THAT(Message(ParsePrompts("a\nb\n", options).status()),
              HasSubstr("line 2: its output \"2.png\" is that of line 1"));
  options.output = "{prompt}-{seed}.png";
  EXPECT_TRUE(ParsePrompts("a\nb\n", options).ok());
}

TEST(RpcStatusTest, OnlyWhatSaysWhenToComeBackIsTriedAgain) {
  EXPECT_FALSE(IsTransient(absl::ResourceExhaustedError("no space left on device")));
  EXPECT_TRUE(IsTransient(absl::UnavailableError("gone")));
}

TEST(PromptsTest, TemplatesKnowDoubledBraces) {
  PromptsOptions options;
  options.csv = true;
  options.prompt_template = "{{a {x}}} {y}";
  EXPECT_EQ(ParsePrompts("x,y\n1,2\n", options).value()[0].request.prompt, "{a 1} 2");
  options.prompt_template = "{z}";
  EXPECT_THAT(Message(ParsePrompts("x,y\n1,2\n", options).status()), HasSubstr("{z}: the file's columns are x, y"));
  options.prompt_template = "{x";
  EXPECT_THAT(Message(ParsePrompts("x,y\n1,2\n", options).status()), HasSubstr("without its }"));
}

TEST(PromptsTest, ColumnsReplaceFlags) {
  PromptsOptions options;
  options.csv = true;
  options.flags.seed = 1;
  options.flags.width = 64;
  options.output = "{seed}.png";
  const std::vector<BatchJob> jobs =
      ParsePrompts("prompt,seed,width,height,guidance,negative,output\nfox,1,32,16,2.5,dog,a.webp\nhen,,,,,,\n",
                   options)
          .value();
  EXPECT_EQ(jobs[0].request.seed, 1U);
  EXPECT_EQ(jobs[0].request.width, 32);
  EXPECT_EQ(jobs[0].request.height, 16);
  EXPECT_EQ(jobs[0].request.guidance, 2.5F);
  EXPECT_EQ(jobs[0].request.negative_prompt, "dog");
  EXPECT_EQ(jobs[0].request.format, ImageFormat::kWebp);
  EXPECT_EQ(jobs[0].output, "a.webp");
  EXPECT_EQ(jobs[1].request.seed, 2U);
  EXPECT_EQ(jobs[1].request.width, 64);
  EXPECT_EQ(jobs[1].output, "{seed}.png");
}

TEST(PromptsTest, RefusesWhatCanNotBeDrawn) {
  PromptsOptions options;
  EXPECT_EQ(Message(ParsePrompts("\n\n", options).status()), "it has no prompts");
  EXPECT_EQ(Message(ParsePrompts("\xFF", options).status()), "it is not UTF-8");
  options.output = "same.png";
  EXPECT_THAT(Message(ParsePrompts("a\nb\n", options).status()),
              HasSubstr("line 2: its output \"same.png\" is that of line 1"));
  options.csv = true;
  EXPECT_THAT(Message(ParsePrompts("animal\nfox\n", options).status()), HasSubstr("no column \"prompt\""));
  EXPECT_THAT(Message(ParsePrompts("prompt,output\nfox,{x}.png\n", options).status()),
              HasSubstr("line 2: output: unknown placeholder \"{x}\""));
}

TEST(PromptsTest, AnOutputColumnStaysInTheFolder) {
  PromptsOptions options;
  options.csv = true;
  options.output = "out/";
  for (const char* output : {"../x.png", "/tmp/x.png", "a/../../x.png", ".."}) {
    EXPECT_EQ(Message(ParsePrompts(StrCat("prompt,output\nhen,hen.png\nfox,", output, "\n"), options).status()),
              StrCat("line 3: column \"output\" has \"", output, "\", which leaves the output folder"));
  }
  EXPECT_EQ(ParsePrompts("prompt,output\nfox,a/../..x.png\n", options).value()[0].output, "out/a/../..x.png");
  // "out/a", for the system: over another's.
  EXPECT_EQ(Message(ParsePrompts(std::string("prompt,output\nfox,a\0.png\n", 25), options).status()),
            "line 2: column \"output\" has a NUL, which no file's name can have");
}

TEST(PromptsTest, AnOutputColumnNamesAFormatUnlessOneIsGiven) {
  PromptsOptions options;
  options.csv = true;
  EXPECT_EQ(Message(ParsePrompts("prompt,output\nfox,fox.gif\n", options).status()),
            "line 2: output: \"fox.gif\" does not end in .png, .jpg, .jpeg or .webp");
  options.format_given = true;
  options.flags.format = ImageFormat::kWebp;
  EXPECT_EQ(ParsePrompts("prompt,output\nfox,fox.gif\n", options).value()[0].request.format, ImageFormat::kWebp);
}

TEST(JournalTest, LiesInTheFolderOfThePictures) {
  EXPECT_EQ(JournalPath(""), ".fresco-journal.jsonl");
  EXPECT_EQ(JournalPath("out/"), "out/.fresco-journal.jsonl");
  EXPECT_EQ(JournalPath("a/b/x-{seed}.png"), "a/b/.fresco-journal.jsonl");
  EXPECT_EQ(JournalPath("a/{seed}/x.png"), "a/.fresco-journal.jsonl");
}

DrawProgress Step(int image, int step, int total, int seconds) {
  return {image, step, total, absl::Seconds(seconds), ""};
}

TEST(JournalTest, KnowsAJobWhosePathIsNotUtf8) {
  std::string folder = (std::filesystem::temp_directory_path() / "fresco-journal-XXXXXX").string();
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  const std::string path = folder + "/journal";
  BatchJob job;
  job.request.prompt = "a fox";
  job.output = "caf\xe9/";  // Latin-1
  EXPECT_TRUE(Journal(path).Add(job, {{"caf\xe9/fox.png", 7}}).ok());
  const std::vector<JournalImage> found = Journal(path).Find(job);
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].seed, 7U);
  std::filesystem::remove_all(folder);
}

// By hand, or of another program: neither a crash nor a seed that nobody has written.
// Whoever throws a picture away as root still has the device afterwards.
TEST(FilesTest, ADeviceIsWrittenIntoAndStays) {
  const std::filesystem::path link = std::filesystem::path(::testing::TempDir()) / "fresco-null";
  std::filesystem::remove(link);
  std::filesystem::create_symlink("/dev/null", link);
  EXPECT_TRUE(WriteFileAtomically(link.string(), "a picture").ok());
  EXPECT_TRUE(std::filesystem::is_symlink(link));
  EXPECT_TRUE(std::filesystem::is_character_file(link));
  std::filesystem::remove(link);
}

TEST(JournalTest, LinesThatAreNoEntriesArePassedOver) {
  std::string folder = (std::filesystem::temp_directory_path() / "fresco-journal-XXXXXX").string();
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  const std::string path = folder + "/journal";
  BatchJob job;
  job.request.prompt = "a fox";
  ASSERT_TRUE(Journal(path).Add(job, {{"fox.png", 7}}).ok());
  const std::string entry = ReadFile(path).value();
  constexpr size_t kDepth = 500'000;
  std::string lines = R"({"images": [], "request": )" + std::string(kDepth, '[') + std::string(kDepth, ']') + "}\n";
  for (const char* seed : {"-1", "1e300", "7.5", "\"7\""}) {
    std::string line = entry;
    lines += line.replace(line.find(":7"), 2, ":" + std::string(seed));
  }
  ASSERT_TRUE(WriteFileAtomically(path, lines).ok());
  EXPECT_TRUE(Journal(path).Find(job).empty());
  ASSERT_TRUE(WriteFileAtomically(path, entry + lines).ok());
  EXPECT_EQ(Journal(path).Find(job).size(), 1U);
  std::filesystem::remove_all(folder);
}

TEST(JournalTest, OtherWaysToReadThePromptAreOtherJobs) {
  std::string folder = (std::filesystem::temp_directory_path() / "fresco-journal-XXXXXX").string();
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  Journal journal(folder + "/journal");
  BatchJob job;
  job.request.prompt = "a fox";
  ASSERT_TRUE(journal.Add(job, {{"fox.png", 7}}).ok());
  EXPECT_EQ(journal.Find(job).size(), 1U);
  std::vector<BatchJob> others(6, job);
  others[0].request.prompt_2 = "";
  others[1].request.prompt_3 = "a fox";
  others[2].request.clip_skip = 1;
  others[3].request.max_sequence_length = 77;
  others[4].request.noise_correction = false;
  others[5].request.deterministic = true;
  for (const BatchJob& other : others) EXPECT_TRUE(journal.Find(other).empty());
  std::filesystem::remove_all(folder);
}

TEST(RetryPauseTest, TakesTheServersWordUpToFiveMinutes) {
  const auto asking = [](int64_t seconds) {
    google::rpc::RetryInfo info;
    info.mutable_retry_delay()->set_seconds(seconds);
    absl::Status status = absl::UnavailableError("busy");
    status.SetPayload("type.googleapis.com/google.rpc.RetryInfo", absl::Cord(info.SerializeAsString()));
    return status;
  };
  EXPECT_EQ(RetryPause(asking(40), 1), absl::Seconds(40));
  EXPECT_EQ(RetryPause(asking(1000000), 1), absl::Minutes(5));
  EXPECT_EQ(RetryPause(absl::UnavailableError("away"), 3), absl::Seconds(4));
}

TEST(ExplainTest, SaysNothingTwice) {
  const auto refused = [](const std::string& message, int fields) {
    google::rpc::BadRequest bad;
    for (int i = 0; i < fields; ++i) {
      bad.add_field_violations()->set_field("width");
      bad.mutable_field_violations()->rbegin()->set_description("is odd");
    }
    absl::Status status = absl::InvalidArgumentError(message);
    status.SetPayload("type.googleapis.com/google.rpc.BadRequest", absl::Cord(bad.SerializeAsString()));
    return status;
  };
  EXPECT_EQ(Explain(refused("width is odd", 1)), "width is odd");
  EXPECT_EQ(Explain(refused("width: is odd", 1)), "width: is odd");
  EXPECT_EQ(Explain(refused("no", 1)), "no\n  width: is odd");
  EXPECT_EQ(Explain(refused("width is odd", 2)), "width is odd\n  width: is odd\n  width: is odd");
  EXPECT_EQ(Explain(refused("width is odd; width is odd", 2)), "width is odd; width is odd");
}

TEST(ProgressTest, CountsOverAllImages) {
  const absl::Time start = absl::UnixEpoch();
  RequestProgress progress(2, start);
  progress.Started("cpu", start);
  progress.Step(Step(0, 5, 10, 5), start + absl::Seconds(5));
  EXPECT_EQ(progress.Fraction(), 0.25);
  // A quarter took five seconds; nothing is known of the second image.
  EXPECT_EQ(progress.Remaining(start + absl::Seconds(5)), absl::Seconds(15));
  progress.Step(Step(1, 1, 10, 9), start + absl::Seconds(6));
  EXPECT_EQ(progress.Remaining(start + absl::Seconds(6)), absl::Seconds(9));
  // A step may take long, and time passes in it.
  EXPECT_EQ(progress.Remaining(start + absl::Seconds(10)), absl::Seconds(5));
  progress.ImageDone(0);
  progress.ImageDone(1);
  EXPECT_EQ(progress.Fraction(), 1);
}

TEST(ProgressTest, SaysWhatHappens) {
  const absl::Time now = absl::UnixEpoch();
  RequestProgress progress(2, now);
  EXPECT_THAT(RenderProgress(progress, 80, now), HasSubstr("connecting"));
  progress.Queued(3, absl::Seconds(61));
  EXPECT_THAT(RenderProgress(progress, 80, now), HasSubstr("3 ahead in the queue, about 1:01"));
  progress.Queued(0, absl::ZeroDuration());
  EXPECT_THAT(RenderProgress(progress, 80, now), HasSubstr("next in the queue"));
  progress.Started("cuda:0", now);
  EXPECT_EQ(RenderProgress(progress, 80, now), "preparing on cuda:0");
  EXPECT_EQ(RenderProgress(progress, 80, now + absl::Milliseconds(12'700)), "preparing on cuda:0, 0:12");
  progress.Step(Step(0, 2, 4, 2), now);
  progress.Step(Step(1, 1, 4, 3), now);
  EXPECT_THAT(RenderProgress(progress, 80, now), HasSubstr("image 1/2  step 3/8  0:03 left"));
  EXPECT_THAT(RenderProgress(progress, 80, now + absl::Seconds(2)), HasSubstr("image 1/2  step 3/8  0:01 left"));
  EXPECT_LE(RenderProgress(progress, 10, now).size(), 10U);
}

TEST(TickerTest, TicksWheneverItsIntervalHasPassed) {
  FakeClock clock;
  std::atomic<int> ticks = 0;
  const Ticker ticker(absl::Seconds(1), &clock, [&] { ++ticks; });
  for (int passed = 0; passed < 3; ++passed) {
    clock.AwaitWaiter(clock.Now() + absl::Seconds(1));
    EXPECT_EQ(ticks, passed);
    clock.Advance(absl::Milliseconds(999));
    EXPECT_EQ(ticks, passed);
    clock.Advance(absl::Milliseconds(1));
  }
}

TEST(TickerTest, EndsThoughItsIntervalHasNotPassed) {
  FakeClock clock;
  std::atomic<int> ticks = 0;
  {
    const Ticker ticker(absl::Hours(1), &clock, [&] { ++ticks; });
  }
  EXPECT_EQ(ticks, 0);
}

TEST(ProgressTest, BarsFillByEighths) {
  EXPECT_EQ(RenderBar(0, 4), "····");
  EXPECT_EQ(RenderBar(0.5, 4), "██··");
  EXPECT_EQ(RenderBar(0.53125, 4), "██▏·");
  EXPECT_EQ(RenderBar(1, 4), "████");
  EXPECT_EQ(RenderBar(7, 2), "██");
}

TEST(ProgressTest, TimesAreReadable) {
  EXPECT_EQ(FormatClock(absl::Milliseconds(1)), "0:01");
  EXPECT_EQ(FormatClock(absl::Seconds(3723)), "1:02:03");
  EXPECT_EQ(FormatClock(absl::Seconds(-5)), "0:00");
  EXPECT_EQ(FormatSeconds(absl::Milliseconds(350)), "350 ms");
  EXPECT_EQ(FormatSeconds(absl::Milliseconds(1250)), "1.2 s");
}

TEST(BatchViewTest, SaysWhatIsLeft) {
  EXPECT_THAT(RenderBatch({10, 3, 1, 1}, 2, 1.0, 80, absl::Seconds(10)),
              HasSubstr("5/10  2 running  1 failed  0:08 left"));
  EXPECT_THAT(RenderBatch({4, 4, 0, 0}, 0, 0, 80, absl::Seconds(10)), HasSubstr("████  4/4"));
}

TEST(PreviewTest, KnowsTerminalsByTheirEnvironment) {
  const auto detect = [](std::map<std::string, std::string> set) {
    return DetectPreviewMode([&set](const char* name) { return set[name]; });
  };
  EXPECT_EQ(detect({}), PreviewMode::kOff);
  EXPECT_EQ(detect({{"TERM", "dumb"}, {"COLORTERM", "truecolor"}}), PreviewMode::kOff);
  EXPECT_EQ(detect({{"TERM", "xterm-256color"}}), PreviewMode::kOff);
  EXPECT_EQ(detect({{"TERM", "xterm-kitty"}}), PreviewMode::kKitty);
  EXPECT_EQ(detect({{"TERM", "xterm-256color"}, {"TERM_PROGRAM", "WezTerm"}}), PreviewMode::kKitty);
  EXPECT_EQ(detect({{"TERM", "xterm-256color"}, {"TERM_PROGRAM", "iTerm.app"}}), PreviewMode::kIterm);
  EXPECT_EQ(detect({{"TERM", "xterm-256color"}, {"COLORTERM", "truecolor"}}), PreviewMode::kBlocks);
  EXPECT_EQ(detect({{"TERM", "tmux"}, {"TMUX", "x"}, {"KITTY_WINDOW_ID", "1"}, {"COLORTERM", "24bit"}}),
            PreviewMode::kBlocks);
}

TEST(PreviewTest, BlocksAreTwoPixelsHigh) {
  const Image image{2, 3, {255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9, 1, 2, 3, 4, 5, 6}};
  const std::string png = EncodeImage(image, {}).value();
  const TerminalPicture picture = RenderPicture(png, PreviewMode::kBlocks, 80, false).value();
  EXPECT_EQ(picture.rows, 2);
  EXPECT_EQ(picture.bytes,
            "\x1b[38;2;255;0;0m\x1b[48;2;0;0;255m▀\x1b[38;2;0;255;0m\x1b[48;2;9;9;9m▀\x1b[0m\x1b[K\n"
            "\x1b[38;2;1;2;3m▀\x1b[38;2;4;5;6m▀\x1b[0m\x1b[K\n");
  EXPECT_FALSE(RenderPicture("no picture", PreviewMode::kBlocks, 80, false).ok());
}

TEST(PreviewTest, KittyPicturesComeInChunksOfItsLimit) {
  Image image{200, 100, {}};
  uint32_t state = 1;
  for (int i = 0; i < 200 * 100 * 3; ++i)
    image.rgb.push_back(static_cast<uint8_t>((state = state * 1664525 + 1013904223) >> 24));
  const TerminalPicture picture = RenderPicture(EncodeImage(image, {}).value(), PreviewMode::kKitty, 80, false).value();
  EXPECT_EQ(picture.rows, 12);
  EXPECT_THAT(picture.bytes, HasSubstr("c=48,r=12,m=1;"));
  size_t chunks = 0;
  for (size_t at = picture.bytes.find("\x1b_G"); at != std::string::npos; at = picture.bytes.find("\x1b_G", at + 1)) {
    const size_t payload = picture.bytes.find(';', at) + 1;
    EXPECT_LE(picture.bytes.find("\x1b\\", payload) - payload, 4096U);
    ++chunks;
  }
  EXPECT_GT(chunks, 10U);
}

TEST(TablesTest, AFailedModelsErrorIsBelowTheTable) {
  v1::ListModelsResponse response;
  v1::Model* good = response.add_models();
  good->set_name("good");
  good->set_state(v1::Model::READY);
  good->set_architecture("sd3.5-medium");
  good->set_precision("bf16");
  good->add_devices("cpu");
  good->set_default_width(256);
  good->set_default_height(128);
  good->set_default_steps(28);
  good->set_default_guidance_scale(4.5);
  good->set_max_width(512);
  good->set_max_height(512);
  good->set_max_steps(100);
  v1::Model* bad = response.add_models();
  bad->set_name("bad");
  bad->set_state(v1::Model::FAILED);
  bad->set_error("no/such/folder: there is no model_index.json");
  EXPECT_EQ(ModelsText(response),
            "MODEL  STATE   ARCHITECTURE  PRECISION  DEVICES  SIZE     STEPS  GUIDANCE  LIMITS\n"
            "good   ready   sd3.5-medium  bf16       cpu      256x128  28     4.5       up to 512x512, 100 steps\n"
            "bad    failed  -             -          -        -        -      -         -\n"
            "\n"
            "bad: no/such/folder: there is no model_index.json\n");
}

TEST(TablesTest, ColumnsLineUp) {
  EXPECT_EQ(FormatTable({{"A", "B"}, {"größe", "x"}, {"y"}}), "A      B\ngröße  x\ny\n");
  EXPECT_EQ(FormatBytes(0), "0 B");
  EXPECT_EQ(FormatBytes(1536), "1.5 KiB");
  EXPECT_EQ(FormatBytes(int64_t{20} << 30), "20 GiB");
}

}  // namespace
}  // namespace fresco
