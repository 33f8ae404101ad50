// A sample's result is the same, bit for bit, whatever else is in its batch: alone, or anywhere in batches of up to
// nine, computed by one thread or by two.
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <ostream>
#include <string>
#include <tuple>
#include <vector>

#include "pipeline/models/autoencoder.h"
#include "pipeline/models/clip.h"
#include "pipeline/models/mmdit.h"
#include "pipeline/models/t5.h"
#include "tests/support/reference.h"

namespace fresco {
namespace {

struct Param {
  at::ScalarType dtype;
  int threads;
  std::string quantised = "";  // a precision with a table of layers, in which the rest is in dtype
};

std::string NameOf(const Param& param) {
  std::string name = param.quantised + (param.quantised.empty() ? "" : "_in_");
  name += std::string(param.dtype == at::kFloat ? "fp32" : "bf16") + "_" + std::to_string(param.threads) + "threads";
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

void PrintTo(const Param& param, std::ostream* out) {
  *out << NameOf(param);
}

class Batch : public ::testing::TestWithParam<Param> {
 protected:
  Batch() : threads_before_(at::get_num_threads()) { at::set_num_threads(GetParam().threads); }
  ~Batch() override { at::set_num_threads(threads_before_); }

  Placement placement() const { return {at::kCPU, GetParam().dtype}; }

  // `run` takes how many of nine samples to compute, and from where on; `what` is said on failure.
  template <typename Run>
  void ExpectIndependent(const std::string& what, const Run& run) {
    std::vector<at::Tensor> alone;
    for (int64_t i = 0; i < kSamples; ++i) alone.push_back(run(i, 1)[0].clone());
    for (int64_t size : {2, 3, 4, 5, 8, 9}) {
      for (int64_t first : {int64_t{0}, kSamples - size}) {
        const at::Tensor together = run(first, size);
        for (int64_t i = 0; i < size; ++i) {
          ASSERT_TRUE(at::equal(together[i], alone[first + i])) << what << ": sample " << i << " of " << size;
        }
      }
    }
  }

  static constexpr int64_t kSamples = 9;
  const c10::InferenceMode inference_;

 private:
  const int threads_before_;
};

TEST_P(Batch, Transformer) {
  for (const char* checkpoint : {"medium", "large", "sd3"}) {
    const Mmdit model = Mmdit::Load(ReferencePath(std::string("checkpoints/") + checkpoint + "/transformer"),
                                    placement(), LayerTable::ForTransformer(GetParam().quantised))
                            .value();
    const MmditConfig& config = model.config();
    const at::Tensor pooled = at::randn({kSamples, config.pooled_projection_dim}).to(GetParam().dtype);
    const at::Tensor timesteps = at::rand({kSamples}) * 1000;
    // Patches from one to 64; text of one token, of an odd number and of a multiple of 16.
    const std::vector<std::vector<int64_t>> kSizes = {{2, 2, 1}, {2, 6, 5}, {6, 10, 93}, {16, 16, 32}};
    for (const std::vector<int64_t>& size : kSizes) {
      const at::Tensor latents = at::randn({kSamples, config.in_channels, size[0], size[1]}).to(GetParam().dtype);
      const at::Tensor text = at::randn({kSamples, size[2], config.joint_attention_dim}).to(GetParam().dtype);
      const std::string what = std::string(checkpoint) + " " + std::to_string(size[0]) + "x" + std::to_string(size[1]);
      ExpectIndependent(what, [&](int64_t first, int64_t count) {
        return model.Forward(latents.narrow(0, first, count), text.narrow(0, first, count),
                             pooled.narrow(0, first, count), timesteps.narrow(0, first, count));
      });
    }
  }
}

TEST_P(Batch, TransformerOfSeveralShapes) {
  const Mmdit model = Mmdit::Load(ReferencePath("checkpoints/medium/transformer"), placement(),
                                  LayerTable::ForTransformer(GetParam().quantised))
                          .value();
  const MmditConfig& config = model.config();
  const at::ScalarType type = GetParam().dtype;
  std::vector<at::Tensor> latents;
  for (const auto& [count, height, width] : {std::tuple<int64_t, int64_t, int64_t>{2, 6, 8}, {1, 8, 6}, {3, 4, 12}})
    latents.push_back(at::randn({count, config.in_channels, height, width}).to(type));
  const at::Tensor text = at::randn({6, 7, config.joint_attention_dim}).to(type);
  const at::Tensor pooled = at::randn({6, config.pooled_projection_dim}).to(type);
  const at::Tensor timesteps = at::rand({6}) * 1000;
  const std::vector<at::Tensor> together = model.Forward(latents, text, pooled, timesteps);
  ASSERT_EQ(together.size(), latents.size());
  int64_t row = 0;
  for (size_t i = 0; i < latents.size(); ++i) {
    const int64_t count = latents[i].size(0);
    EXPECT_TRUE(at::equal(together[i], model.Forward(latents[i], text.narrow(0, row, count),
                                                     pooled.narrow(0, row, count), timesteps.narrow(0, row, count))));
    row += count;
  }
}

// As wide as SD3.5's feed-forwards are, which the reference checkpoints are not.
TEST_P(Batch, WideLinear) {
  constexpr int64_t kIn = 1536, kOut = 384;
  if (!GetParam().quantised.empty()) GTEST_SKIP() << "quantised products have tests of their own";
  const at::ScalarType type = GetParam().dtype;
  Linear linear{at::randn({kOut, kIn}).to(type), at::randn({kOut}).to(type), nullptr, nullptr};
  if (Linear::CanPack(at::kCPU, type)) linear = linear.Pack();
  for (const int64_t tokens : {16, 26, 48, 130}) {
    const at::Tensor x = at::randn({kSamples, tokens, kIn}).to(type);
    ExpectIndependent(std::to_string(tokens) + " tokens",
                      [&](int64_t first, int64_t count) { return linear.Tokens(x.narrow(0, first, count)); });
  }
}

// Samples of different sizes in one forward; neighbours of one area and of one size, patches from one to 64, and one
// whose positions are another's turned.
TEST_P(Batch, TransformerOfSeveralSizes) {
  using Size = std::tuple<int64_t, int64_t, int64_t>;  // samples, height, width
  for (const char* checkpoint : {"medium", "large", "sd3"}) {
    const Mmdit model = Mmdit::Load(ReferencePath(std::string("checkpoints/") + checkpoint + "/transformer"),
                                    placement(), LayerTable::ForTransformer(GetParam().quantised))
                            .value();
    const MmditConfig& config = model.config();
    const at::ScalarType type = GetParam().dtype;
    std::vector<at::Tensor> latents;
    for (const auto& [count, height, width] :
         {Size{2, 6, 8}, Size{1, 8, 6}, Size{1, 16, 16}, Size{3, 2, 2}, Size{1, 10, 6}, Size{1, 6, 8}})
      latents.push_back(at::randn({count, config.in_channels, height, width}).to(type));
    for (const int64_t text_tokens : {1, 7, 32}) {
      const at::Tensor text = at::randn({kSamples, text_tokens, config.joint_attention_dim}).to(type);
      const at::Tensor pooled = at::randn({kSamples, config.pooled_projection_dim}).to(type);
      const at::Tensor timesteps = at::rand({kSamples}) * 1000;
      const std::vector<at::Tensor> together = model.Forward(latents, text, pooled, timesteps);
      ASSERT_EQ(together.size(), latents.size());
      int64_t row = 0;
      for (size_t i = 0; i < latents.size(); ++i) {
        for (int64_t sample = 0; sample < latents[i].size(0); ++sample, ++row) {
          EXPECT_TRUE(at::equal(together[i].narrow(0, sample, 1),
                                model.Forward(latents[i].narrow(0, sample, 1), text.narrow(0, row, 1),
                                              pooled.narrow(0, row, 1), timesteps.narrow(0, row, 1))))
              << checkpoint << ": sample " << row << ", " << text_tokens << " tokens of text";
        }
      }
      ASSERT_EQ(row, kSamples);
    }
  }
}

TEST_P(Batch, Clip) {
  for (const char* folder : {"text_encoder", "text_encoder_2"}) {
    const ClipTextModel model =
        ClipTextModel::Load(ReferencePath(std::string("checkpoints/medium/") + folder), placement()).value();
    for (int64_t length : {int64_t{5}, int64_t{16}, model.config().max_positions}) {
      const at::Tensor ids = at::randint(model.config().vocab_size, {kSamples, length}, at::kLong);
      ExpectIndependent(folder, [&](int64_t first, int64_t count) {
        const auto output = model.Encode(ids.narrow(0, first, count), 0);
        return at::cat({output.hidden.flatten(1), output.pooled}, 1);
      });
    }
  }
}

TEST_P(Batch, T5) {
  const T5Encoder model = T5Encoder::Load(ReferencePath("checkpoints/medium/text_encoder_3"), placement(),
                                          LayerTable::ForT5(GetParam().quantised))
                              .value();
  for (int64_t length : {7, 16, 77}) {
    const at::Tensor ids = at::randint(model.config().vocab_size, {kSamples, length}, at::kLong);
    ExpectIndependent("t5", [&](int64_t first, int64_t count) { return model.Encode(ids.narrow(0, first, count)); });
  }
}

TEST_P(Batch, Autoencoder) {
  const Autoencoder model = Autoencoder::Load(ReferencePath("checkpoints/medium/vae"), placement()).value();
  const at::Tensor z = at::randn({kSamples, model.config().latent_channels, 4, 6}).to(GetParam().dtype);
  ExpectIndependent("decode", [&](int64_t first, int64_t count) { return model.Decode(z.narrow(0, first, count)); });
  const at::Tensor images = at::rand({kSamples, 3, 16, 32}).to(GetParam().dtype);
  ExpectIndependent("encode",
                    [&](int64_t first, int64_t count) { return model.Encode(images.narrow(0, first, count)).mean; });
}

INSTANTIATE_TEST_SUITE_P(All, Batch,
                         ::testing::Values(Param{at::kFloat, 1}, Param{at::kFloat, 2}, Param{at::kBFloat16, 1},
                                           Param{at::kBFloat16, 2}, Param{at::kFloat, 3}, Param{at::kBFloat16, 3},
                                           Param{at::kFloat, 2, "fp8"}, Param{at::kBFloat16, 1, "fp8"},
                                           Param{at::kFloat, 3, "fp8-weight-only"},
                                           Param{at::kBFloat16, 2, "fp8-weight-only"}, Param{at::kFloat, 2, "int8"},
                                           Param{at::kBFloat16, 3, "int8"}),
                         [](const auto& info) { return NameOf(info.param); });

}  // namespace
}  // namespace fresco
