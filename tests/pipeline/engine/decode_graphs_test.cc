// Decodes by graphs, with a graph of the CPU that does its work again: against the autoencoder itself, whole, in slices
// and in tiles, on one thread and on two.
#include "pipeline/engine/decode_graphs.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "pipeline/base/clock.h"
#include "pipeline/base/scope_log.h"
#include "pipeline/precision/kernel_choice.h"
#include "tests/pipeline/engine/fake_graphs.h"

namespace fresco {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kDemo[] = "models/demo/vae";

Autoencoder Load(VaeTiling tiling, VaePrecision precision = VaePrecision::kAuto,
                 std::shared_ptr<SaturationCount> saturation = nullptr) {
  VaeOptions options;
  options.tiling = tiling;
  options.tile_size = 128;
  options.precision = precision;
  return Autoencoder::Load(kDemo, {at::kCPU, at::kFloat}, options, std::move(saturation)).value();
}

class DecodeGraphsTest : public ::testing::Test {
 protected:
  // Other numbers each time.
  at::Tensor Draw(int64_t samples, int64_t height, int64_t width) {
    return at::randn({samples, 16, height, width}, generator_, at::TensorOptions());
  }

  std::unique_ptr<DecodeGraphs> Make(const Autoencoder& vae, int64_t bytes = int64_t{1} << 40) {
    DecodeGraphs::Options options;
    options.maker = fake_.Maker();
    options.limits = {.bytes = bytes, .uses_before = 1};
    options.warn = [this](const std::string& why) { warnings_.push_back(why); };
    return std::make_unique<DecodeGraphs>(vae, std::move(options));
  }

  // By graphs, against the model itself.
  void ExpectDecode(DecodeGraphs* graphs, const Autoencoder& vae, const at::Tensor& z) {
    EXPECT_TRUE(at::equal(graphs->Decode(z), vae.Decode(z)));
  }

  const c10::InferenceMode inference_;
  at::Generator generator_ = at::make_generator<at::CPUGeneratorImpl>(3);
  const Autoencoder whole_ = Load(VaeTiling::kNever);
  FakeGraphs fake_;
  std::vector<std::string> warnings_;
};

TEST_F(DecodeGraphsTest, EachReplayIsOfItsOwnLatents) {
  const auto graphs = Make(whole_);
  for (int i = 0; i < 4; ++i) ExpectDecode(graphs.get(), whole_, Draw(1, 8, 6));
  EXPECT_EQ(fake_.captures, 1);
  EXPECT_EQ(fake_.replays, 3);
  EXPECT_THAT(warnings_, ElementsAre());
}

TEST_F(DecodeGraphsTest, APictureStaysAsItIs) {
  const auto graphs = Make(whole_);
  at::Tensor kept;
  for (int i = 0; i < 2; ++i) kept = graphs->Decode(Draw(1, 8, 8));
  const at::Tensor before = kept.clone();
  ExpectDecode(graphs.get(), whole_, Draw(1, 8, 8));
  EXPECT_TRUE(at::equal(kept, before));
}

TEST_F(DecodeGraphsTest, EachSizeHasItsOwn) {
  const auto graphs = Make(whole_);
  for (int i = 0; i < 3; ++i) {
    for (const auto& [height, width] : {std::pair(8, 8), std::pair(4, 16), std::pair(16, 4)})
      ExpectDecode(graphs.get(), whole_, Draw(1, height, width));
  }
  EXPECT_EQ(fake_.captures, 3);
  EXPECT_EQ(fake_.replays, 6);
}

// A batch is samples of one size, one after the other.
TEST_F(DecodeGraphsTest, SlicesOfABatchShareOne) {
  const auto graphs = Make(whole_);
  ExpectDecode(graphs.get(), whole_, Draw(4, 8, 8));
  EXPECT_EQ(fake_.captures, 1);
  EXPECT_EQ(fake_.replays, 3);
}

// 24 × 40 latents in tiles of 16, each 12 after the one before it: four columns, 16 wide but for the last, which is 4;
// two rows, 16 and 12 high. Those of the last column come once in a picture.
TEST_F(DecodeGraphsTest, TilesOfAPictureShareOneBySize) {
  const Autoencoder tiled = Load(VaeTiling::kAlways);
  const auto graphs = Make(tiled);
  ASSERT_TRUE(tiled.Tiles(24 * 8, 40 * 8));
  ExpectDecode(graphs.get(), tiled, Draw(1, 24, 40));
  EXPECT_EQ(fake_.captures, 2);
  EXPECT_EQ(fake_.replays, 4);
  ExpectDecode(graphs.get(), tiled, Draw(1, 24, 40));
  EXPECT_EQ(fake_.captures, 4);
  EXPECT_EQ(fake_.replays, 12);
}

TEST_F(DecodeGraphsTest, LargePicturesHaveNone) {
  EXPECT_TRUE(DecodeGraphs::Pays(512, 512));
  EXPECT_TRUE(DecodeGraphs::Pays(1024, 256));
  EXPECT_FALSE(DecodeGraphs::Pays(512, 520));
  EXPECT_FALSE(DecodeGraphs::Pays(1024, 1024));
}

TEST_F(DecodeGraphsTest, PinnedKernelsHaveTheirOwn) {
  const auto graphs = Make(whole_);
  for (int i = 0; i < 2; ++i) ExpectDecode(graphs.get(), whole_, Draw(1, 8, 8));
  const PinnedKernels pinned(true);
  for (int i = 0; i < 2; ++i) ExpectDecode(graphs.get(), whole_, Draw(1, 8, 8));
  EXPECT_EQ(fake_.captures, 2);
}

TEST_F(DecodeGraphsTest, WhereNoneCanBeMadePicturesComeWithoutThemAndItIsSaidOnce) {
  fake_.fails = true;
  const auto graphs = Make(whole_);
  for (int i = 0; i < 3; ++i) {
    ExpectDecode(graphs.get(), whole_, Draw(1, 8, 8));
    ExpectDecode(graphs.get(), whole_, Draw(1, 8, 6));
  }
  EXPECT_EQ(fake_.captures, 2);
  EXPECT_EQ(fake_.replays, 0);
  EXPECT_THAT(warnings_, ElementsAre(HasSubstr("capturing")));
}

TEST_F(DecodeGraphsTest, AShortageTakesThemAndTheyComeAgain) {
  const auto graphs = Make(whole_);
  EXPECT_FALSE(graphs->Drop());
  for (int i = 0; i < 2; ++i) ExpectDecode(graphs.get(), whole_, Draw(1, 8, 8));
  EXPECT_GE(graphs->bytes(), whole_.DecodeBytes(64, 64, 1));
  EXPECT_TRUE(graphs->Drop());
  EXPECT_EQ(graphs->bytes(), 0);
  for (int i = 0; i < 2; ++i) ExpectDecode(graphs.get(), whole_, Draw(1, 8, 8));
  EXPECT_EQ(fake_.captures, 2);
}

TEST_F(DecodeGraphsTest, NoneIsMadeThatTakesMoreThanThereIs) {
  const auto graphs = Make(whole_, /*bytes=*/whole_.DecodeBytes(64, 64, 1));
  for (int i = 0; i < 3; ++i) ExpectDecode(graphs.get(), whole_, Draw(1, 8, 8));
  EXPECT_EQ(fake_.captures, 0);
}

TEST_F(DecodeGraphsTest, AProfilerSeesTheDecodeItself) {
  const auto graphs = Make(whole_);
  for (int i = 0; i < 2; ++i) ExpectDecode(graphs.get(), whole_, Draw(1, 8, 8));
  const int replays = fake_.replays;
  const SystemClock clock;
  ScopeLog log(&clock);
  log.Open();
  graphs->Decode(Draw(1, 8, 8));
  EXPECT_EQ(fake_.replays, replays);
  EXPECT_FALSE(log.Take().empty());
}

// A step's preview does not wait until a finished picture's decode is recorded on another thread.
TEST_F(DecodeGraphsTest, WhileOneThreadRecordsAnotherDecodesWithoutThem) {
  const auto graphs = Make(whole_);
  const at::Tensor first = Draw(1, 8, 8), second = Draw(1, 8, 8);
  graphs->Decode(first);
  at::Tensor meanwhile;
  fake_.on_capture = [&] {
    std::thread([&] {
      const c10::InferenceMode inference;
      meanwhile = graphs->Decode(second);
    }).join();
  };
  EXPECT_TRUE(at::equal(graphs->Decode(first), whole_.Decode(first)));
  EXPECT_TRUE(at::equal(meanwhile, whole_.Decode(second)));
  EXPECT_EQ(fake_.captures, 1);
  EXPECT_EQ(fake_.replays, 1);
}

TEST_F(DecodeGraphsTest, CpusHaveNone) {
  EXPECT_EQ(DecodeGraphs::OnGpu(whole_, 1 << 30, nullptr), nullptr);
}

// Layers that another thread computes while one is recorded are not the recorded one's.
TEST(DecodeGraphs, ReplaysCountWhatTheirLayersDo) {
  const c10::InferenceMode inference;
  const auto count = std::make_shared<SaturationCount>();
  const Autoencoder vae = Load(VaeTiling::kNever, VaePrecision::kFp8, count);
  const at::Tensor z = at::zeros({1, 16, 8, 8});
  vae.Decode(z);
  const int64_t of_one = count->Total().elements;
  ASSERT_GT(of_one, 0);

  // Whose recording another thread decodes beside.
  class Beside final : public GraphMaker {
   public:
    explicit Beside(std::function<void()> other) : other_(std::move(other)) {}
    std::unique_ptr<DeviceGraph> Capture(const std::function<void()>& work) override {
      return HollowMaker().Capture([&] {
        const std::jthread beside(other_);
        work();
      });
    }

   private:
    const std::function<void()> other_;
  };
  DecodeGraphs::Options options;
  options.maker = std::make_unique<Beside>([&] {
    const c10::InferenceMode own;
    vae.Decode(z);
  });
  options.limits = {.bytes = int64_t{1} << 40, .uses_before = 0};
  options.saturation = count;
  DecodeGraphs graphs(vae, std::move(options));
  for (int i = 0; i < 3; ++i) graphs.Decode(z);
  // The one above, the maker's first, the other thread's two, and three replays.
  EXPECT_EQ(count->Total().elements, 7 * of_one);
}

}  // namespace
}  // namespace fresco
