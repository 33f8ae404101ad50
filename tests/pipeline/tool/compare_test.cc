// `fresco-model compare`: its numbers, its page.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "pipeline/image/codec.h"
#include "pipeline/image/similarity.h"
#include "tests/pipeline/tool/tool_runner.h"

namespace fresco {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kRequest[] = " --width 64 --height 48 --steps 2 --guidance 3 --max-sequence-length 16 --threads 1";

class CompareTest : public ToolTest {
 protected:
  Result Compare(const std::string& arguments) const {
    return Run("compare " + std::string(kMedium) + kRequest + " --seed 5 " + arguments);
  }

  Image Draw(const std::string& prompt, const std::string& precision, int seed) const {
    const Result result = Run("draw " + std::string(kMedium) + kRequest + " --prompt '" + prompt + "' --precision " +
                              precision + " --seed " + std::to_string(seed) + " -o " + File("picture.png"));
    EXPECT_EQ(result.code, 0) << result.errors;
    return DecodeImage(ReadFile(File("picture.png"))).value().image;
  }
};

size_t Count(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

// The pictures of a page, in its order.
std::vector<Image> PicturesOf(const std::string& page) {
  const std::string start = "src=\"data:image/png;base64,";
  std::vector<Image> pictures;
  for (size_t at = page.find(start); at != std::string::npos; at = page.find(start, at + 1)) {
    const size_t begin = at + start.size();
    std::string bytes;
    EXPECT_TRUE(absl::Base64Unescape(page.substr(begin, page.find('"', begin) - begin), &bytes));
    pictures.push_back(DecodeImage(bytes).value().image);
  }
  return pictures;
}

TEST_F(CompareTest, MeasuresThePicturesThatAreDrawn) {
  std::ofstream(File("prompts.txt")) << "\xEF\xBB\xBF"
                                     << "a red apple\n\n  a <fox> & \"co\" \r\n";
  const Result result =
      Compare("--precisions fp8,fp32,int8 --json --prompts " + File("prompts.txt") + " --html " + File("page.html"));
  ASSERT_EQ(result.code, 0) << result.errors;
  const Json list = result.json();
  ASSERT_EQ(list.size(), 3u);
  EXPECT_EQ(list[0]["precision"], "fp8");
  EXPECT_EQ(list[1]["precision"], "fp32");
  EXPECT_EQ(list[2]["precision"], "int8");

  const Json& base = list[1];
  EXPECT_EQ(base["reference"], true);
  EXPECT_EQ(base["speed_up"], 1.0);
  EXPECT_TRUE(base["psnr"].is_null());  // equal to itself
  EXPECT_EQ(base["ssim"], 1.0);
  EXPECT_TRUE(base["saturated_share"].is_null());
  for (const Json& one : list) {
    EXPECT_GT(one["seconds_per_image"], 0.0);
    EXPECT_GE(one["peak_memory_bytes"], one["weight_bytes"]);
    EXPECT_EQ(one["pictures"].size(), 2u);
  }
  EXPECT_LT(list[0]["weight_bytes"], base["weight_bytes"]);

  EXPECT_EQ(list[0]["pictures"][0]["prompt"], "a red apple");  // without the file's byte order mark
  const Json& second = list[0]["pictures"][1];
  EXPECT_EQ(second["prompt"], "a <fox> & \"co\"");
  EXPECT_EQ(second["seed"], 6);
  const Image fp32 = Draw(second["prompt"], "fp32", 6), fp8 = Draw(second["prompt"], "fp8", 6);
  const double psnr = Psnr(fp8, fp32).value();
  EXPECT_DOUBLE_EQ(second["psnr"], psnr);
  EXPECT_DOUBLE_EQ(second["ssim"], Ssim(fp8, fp32).value());
  const double first = list[0]["pictures"][0]["psnr"];
  EXPECT_DOUBLE_EQ(list[0]["psnr"], (first + psnr) / 2);
  EXPECT_DOUBLE_EQ(list[0]["psnr_min"], std::min(first, psnr));

  const std::string page = ReadFile(File("page.html"));
  EXPECT_THAT(page, AllOf(HasSubstr("a &lt;fox&gt; &amp; &quot;co&quot;"), Not(HasSubstr("<fox>")),
                          Not(HasSubstr("http")), Not(HasSubstr("<script"))));
  EXPECT_EQ(Count(page, "<tr>"), 4u);
  const std::vector<Image> pictures = PicturesOf(page);
  ASSERT_EQ(pictures.size(), 2u * 5);  // a prompt's: fp8 and its difference, fp32, int8 and its difference
  EXPECT_EQ(pictures[5].rgb, fp8.rgb);
  EXPECT_EQ(pictures[6].rgb, DifferencePicture(fp8, fp32, 8).rgb);
  EXPECT_EQ(pictures[7].rgb, fp32.rgb);
}

TEST_F(CompareTest, PrintsATable) {
  std::ofstream(File("prompts.txt")) << "a red apple\n";
  const Result result = Compare("--precisions fp32,bf16 --prompts " + File("prompts.txt"));
  ASSERT_EQ(result.code, 0) << result.errors;
  EXPECT_THAT(result.output, AllOf(HasSubstr("speed-up"), HasSubstr("\nfp32 "), HasSubstr("\nbf16 "),
                                   HasSubstr("64x48, 2 steps, guidance 3"), HasSubstr("to fp32")));
}

TEST_F(CompareTest, RefusesWhatItCanNotCompare) {
  for (const auto& [precisions, message] :
       {std::pair{"fp32,fp64", "'fp64' is unknown"}, {"fp8,fp8", "'fp8' comes twice"}, {"auto", "'auto' is unknown"}}) {
    const Result result = Compare("--precisions " + std::string(precisions));
    EXPECT_EQ(result.code, 2) << precisions;
    EXPECT_THAT(result.errors, HasSubstr(message));
  }
  std::ofstream(File("prompts.txt")) << "\n \n";
  const Result empty = Compare("--prompts " + File("prompts.txt"));
  EXPECT_EQ(empty.code, 1);
  EXPECT_THAT(empty.errors, AllOf(HasSubstr("prompts.txt"), HasSubstr("holds no prompt")));
  EXPECT_THAT(Compare("--prompts " + File("none.txt")).errors, HasSubstr("none.txt"));
  // Before anything is drawn.
  const Result nowhere = Compare("--html " + File("no/such/page.html"));
  EXPECT_EQ(nowhere.code, 1);
  EXPECT_THAT(nowhere.errors, AllOf(HasSubstr("--html"), HasSubstr("no/such"), Not(HasSubstr("fp32"))));
}

}  // namespace
}  // namespace fresco
