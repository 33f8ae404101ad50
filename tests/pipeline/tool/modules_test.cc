// `fresco-model inspect`: the tree of modules, as a table, as JSON and as a page.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "pipeline/checkpoint/safetensors.h"
#include "tests/pipeline/checkpoint/single_file_maker.h"
#include "tests/pipeline/tool/tool_runner.h"

namespace fresco {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class ModulesTest : public ToolTest {
 protected:
  Json Modules(const std::string& arguments) const {
    const Result result = Run("inspect --json " + arguments);
    EXPECT_EQ(result.code, 0) << result.errors;
    return result.code == 0 ? result.json()["modules"] : Json::array();
  }
};

// By its path; null where there is none.
Json Find(const Json& modules, const std::string& path) {
  for (const Json& module : modules) {
    if (module["path"] == path) return module;
    if (Json found = Find(module["modules"], path); !found.is_null()) return found;
  }
  return nullptr;
}

// Of the tensors whose names begin so, as the file itself has them.
std::pair<int64_t, int64_t> TensorsAndBytes(const std::string& file, const std::string& prefix) {
  const auto opened = SafetensorsFile::Open(file).value();
  int64_t tensors = 0, bytes = 0;
  for (const auto& [name, entry] : opened->entries()) {
    if (!name.starts_with(prefix)) continue;
    ++tensors;
    bytes += static_cast<int64_t>(entry.bytes());
  }
  return {tensors, bytes};
}

TEST_F(ModulesTest, AModuleIsTheSumOfItsTensors) {
  const Json parts = Modules(kMedium);
  const std::string file = std::string(kMedium) + "/transformer/diffusion_pytorch_model.safetensors";
  ASSERT_EQ(parts.size(), 5u);
  EXPECT_EQ(parts[0]["name"], "transformer");
  for (const char* path : {"", "transformer_blocks", "transformer_blocks.1.attn", "transformer_blocks.1.attn.to_q"}) {
    const Json module = Find(parts, path);
    ASSERT_FALSE(module.is_null()) << path;
    const auto [tensors, bytes] = TensorsAndBytes(file, *path == '\0' ? "" : std::string(path) + ".");
    EXPECT_EQ(module["tensors"], tensors) << path;
    EXPECT_EQ(module["bytes"], bytes) << path;
    EXPECT_EQ(module["dtypes"], Json({{"BF16", bytes}})) << path;
    EXPECT_EQ(module["device"], "cpu") << path;
  }
  double share = 0;
  for (const Json& part : parts) share += part["share"].get<double>();
  EXPECT_NEAR(share, 1, 1e-9);
}

TEST_F(ModulesTest, SaysWhatEachLayerIsComputedIn) {
  const Json parts = Modules(std::string(kMedium) + " --precision int8");
  EXPECT_EQ(Find(parts, "transformer_blocks.0.attn.to_q")["computed"], Json({{"int8", 1}}));
  EXPECT_EQ(Find(parts, "transformer_blocks.0.norm1.linear")["computed"], Json({{"int8-weight-only", 1}}));
  EXPECT_EQ(Find(parts, "transformer_blocks.0.attn.norm_q")["computed"], Json::object());
  const Json exact = Modules(std::string(kMedium) + " --precision fp32");
  EXPECT_EQ(Find(exact, "transformer_blocks.0.attn.to_q")["computed"], Json({{"fp32", 1}}));
  EXPECT_EQ(Run("inspect " + std::string(kMedium) + " --precision fp9").code, 1);
}

TEST_F(ModulesTest, ScalesAreThoseOfTheFile) {
  ASSERT_EQ(Run("quantize " + std::string(kMedium) + " --precision fp8 --output " + File("fp8")).code, 0);
  const std::string layer = "transformer_blocks.1.ff.net.2";
  const auto file = SafetensorsFile::Open(File("fp8/transformer/diffusion_pytorch_model.safetensors")).value();
  const TensorView stored = file->Find(layer + ".weight_scale").value();
  const auto* const scales = reinterpret_cast<const float*>(stored.data);
  const auto [least, most] = std::minmax_element(scales, scales + stored.numel());
  const Json module = Find(Modules(File("fp8")), layer);
  EXPECT_EQ(module["scales"], Json({{"count", stored.numel()}, {"min", *least}, {"max", *most}}));
  EXPECT_TRUE(Find(Modules(kMedium), layer)["scales"].is_null());
}

TEST_F(ModulesTest, EqualBlocksAreReadOnce) {
  // The third block has no second attention, and its texts end there.
  const std::string table = Run("inspect --depth 2 " + std::string(kMedium)).output;
  EXPECT_THAT(table, AllOf(HasSubstr("   ├─ 0-1 (2 alike) "), HasSubstr("   └─ 2 "), Not(HasSubstr("to_q"))));
  EXPECT_THAT(Run("inspect --depth 0 " + std::string(kMedium)).output,
              AllOf(HasSubstr("│  ├─ to_q "), Not(HasSubstr("│  ├─ to_q.weight"))));
  // Not in JSON: whoever reads that asks for a block by its number.
  EXPECT_FALSE(Find(Modules(kMedium), "transformer_blocks.1").is_null());
}

TEST_F(ModulesTest, ThePageShowsTheTree) {
  ASSERT_EQ(Run("quantize " + std::string(kMedium) + " --precision int8 --output " + File("int8")).code, 0);
  std::filesystem::rename(File("int8"), File("<b>"));
  const Result result = Run("inspect '" + File("<b>") + "' --html " + File("page.html"));
  ASSERT_EQ(result.code, 0) << result.errors;
  const std::string page = ReadFile(File("page.html"));
  EXPECT_THAT(page, AllOf(HasSubstr("<b>to_q</b>"), HasSubstr("/&lt;b&gt;</h1>"), HasSubstr("<details open>"),
                          HasSubstr("Scales of weights"), HasSubstr("transformer.transformer_blocks.2.attn.to_q")));
  EXPECT_THAT(page, AllOf(Not(HasSubstr("<script")), Not(HasSubstr("http")), Not(HasSubstr("src="))));
  EXPECT_EQ(Run("inspect " + std::string(kMedium) + " --html /no/such/folder/page.html").code, 1);
}

TEST_F(ModulesTest, NamesOfAnyDepthAndKindAreShown) {
  std::string deep = "a";
  for (int i = 0; i < 20000; ++i) deep += ".a";
  MadeTensors tensors = OriginalTensors("medium", "vae", "first_stage_model.");
  tensors["first_stage_model.decoder." + deep + ".weight"] = {"F32", {1}, "1234"};
  tensors["first_stage_model.decoder.\\u001b[31m.weight"] = {"F32", {1}, "1234"};
  WriteFile("model.safetensors", SafetensorsBytes(tensors));
  const Result result = Run("inspect --depth 0 " + File("model.safetensors"));
  EXPECT_EQ(result.code, 0) << result.errors;
  EXPECT_THAT(result.output, Not(HasSubstr("\x1b")));
  EXPECT_EQ(Run("inspect --json " + File("model.safetensors")).code, 0);
}

}  // namespace
}  // namespace fresco
