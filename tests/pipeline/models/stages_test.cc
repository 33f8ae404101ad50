// Every model against what diffusers and transformers compute (tests/reference), stage by stage.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

#include "pipeline/models/autoencoder.h"
#include "pipeline/models/clip.h"
#include "pipeline/models/mmdit.h"
#include "pipeline/models/t5.h"
#include "tests/support/reference.h"
#include "tests/support/reference_tensor.h"

namespace fresco {
namespace {

// How far the error must stay below the signal, in dB. fp32: only the order of sums differs, which leaves 117 dB or
// more. bf16: our results from inputs rounded to bf16 against the references in fp32, so that this bounds all that bf16
// costs; diffusers' own bf16 is as far.
constexpr double kFp32 = 100.0;
constexpr double kBf16 = 30.0;

// Our bf16 beside diffusers', from its own inputs. A rounding to 8 bits errs by 2^-9 at most, in root mean square by
// 0.11 % (59 dB), and K of them, at other places on either side, by sqrt(2 K) times that. Measured: texts 44 dB or
// more, the transformer 39, the autoencoder 36; 3 dB are left, twice as many roundings, for other processors' sums.
double LeastBesideBf16(std::string_view stage) {
  if (stage.starts_with("vae.")) return 33;
  return stage.starts_with("transformer.") ? 36 : 40;
}

struct Param {
  const char* name;  // of the case
  at::ScalarType dtype;
  const char* reference = "fp32";  // what diffusers computed in; our inputs are its stages too
};

std::string NameOf(const Param& param) {
  return std::string(param.name) + (param.dtype == at::kFloat ? "_fp32" : "_bf16") + "_beside_" + param.reference;
}

void PrintTo(const Param& param, std::ostream* out) {
  *out << NameOf(param);
}

class Stages : public ::testing::TestWithParam<Param> {
 protected:
  Stages()
      : case_(ReferenceCaseNamed(GetParam().name)), reference_(ReferenceStages(case_.name, GetParam().reference)) {}

  bool BesideBf16() const { return GetParam().reference == std::string("bf16"); }
  double Least(std::string_view stage) const {
    if (GetParam().dtype == at::kFloat) return kFp32;
    return BesideBf16() ? LeastBesideBf16(stage) : kBf16;
  }
  Placement placement() const { return {at::kCPU, GetParam().dtype}; }
  std::string Component(const std::string& name) const {
    const std::string own = case_.checkpoint + "/" + name;
    return std::filesystem::exists(own) ? own : case_.base + "/" + name;
  }
  at::Tensor Input(const std::string& name) const { return TensorOf(reference_, name).to(GetParam().dtype); }

  void ExpectNear(const at::Tensor& actual, const std::string& stage) const {
    ExpectNear(actual, TensorOf(reference_, stage), stage);
  }

  void ExpectNear(const at::Tensor& actual, const at::Tensor& expected, const std::string& stage) const {
    EXPECT_EQ(actual.scalar_type(), GetParam().dtype) << stage;
    ASSERT_EQ(actual.sizes(), expected.sizes()) << stage;
    const double distance = SignalToError(actual, expected);
    RecordProperty(stage, std::to_string(distance));
    EXPECT_GE(distance, Least(stage)) << stage;
  }

  // The prompts of which every stage is kept: the negative's are in medium.fp32 alone.
  std::vector<std::string> Sides() const {
    if (case_.name == "medium" && !BesideBf16()) return {"negative.", "positive."};
    return {"positive."};
  }

  void CheckClip(const std::string& folder, const std::string& stage) const {
    const ClipTextModel model = ClipTextModel::Load(Component(folder), placement()).value();
    for (const std::string& side : Sides()) {
      const at::Tensor ids = TensorOf(reference_, side + stage + ".ids").unsqueeze(0);
      const auto output = model.Encode(ids, side == "positive." ? case_.spec.clip_skip : 0);
      ExpectNear(output.hidden[0], side + stage + ".hidden");
      ExpectNear(output.pooled[0], side + stage + ".pooled");
    }
  }

  const c10::InferenceMode inference_;
  const ReferenceCase case_;
  const ReferenceResult reference_;
};

class ClipStages : public Stages {};

TEST_P(ClipStages, AreNear) {
  CheckClip("text_encoder", "clip_l");
  CheckClip("text_encoder_2", "clip_g");
}

class T5Stages : public Stages {};

TEST_P(T5Stages, AreNear) {
  const T5Encoder model = T5Encoder::Load(Component("text_encoder_3"), placement()).value();
  for (const std::string& side : Sides()) {
    ExpectNear(model.Encode(TensorOf(reference_, side + "t5.ids").unsqueeze(0))[0], side + "t5.hidden");
  }
}

class TransformerStages : public Stages {
 protected:
  // [1, S, J]: prompt_embeds; in bf16 only what it is joined from is kept.
  at::Tensor Text(const std::string& side, int64_t joint_dim) const {
    if (!BesideBf16()) return Input(side + "prompt_embeds").unsqueeze(0);
    const at::Tensor clip = at::cat({Input(side + "clip_l.hidden"), Input(side + "clip_g.hidden")}, -1);
    const at::Tensor t5 = reference_.Contains(side + "t5.hidden")
                              ? Input(side + "t5.hidden")
                              : at::zeros({case_.spec.max_sequence_length, joint_dim}, clip.options());
    return at::cat({at::constant_pad_nd(clip, {0, joint_dim - clip.size(1)}), t5}).unsqueeze(0);
  }
};

TEST_P(TransformerStages, AreNear) {
  const Mmdit model = Mmdit::Load(Component("transformer"), placement()).value();
  std::vector<at::Tensor> texts, pooled;
  for (const std::string& side : Sides()) {
    texts.push_back(Text(side, model.config().joint_attention_dim));
    pooled.push_back(Input(side + "pooled").unsqueeze(0));
  }
  const auto batch = static_cast<int64_t>(texts.size());
  int compared = 0;
  const auto compare = [&](std::string_view name, const at::Tensor& value) {
    const std::string stage = "transformer." + std::string(name);
    if (!reference_.Contains(stage)) return;
    const at::Tensor expected = TensorOf(reference_, stage);
    ExpectNear(value, expected.narrow(0, expected.size(0) - batch, batch), stage);
    ++compared;
  };
  // fp32 in either type, and kept in fp32's file alone.
  const at::Tensor timestep = TensorOf(ReferenceStages(case_.name, "fp32"), "timesteps").narrow(0, 0, 1);
  model.Forward(Input("latents.0").expand({batch, -1, -1, -1}), at::cat(texts), at::cat(pooled),
                timestep.expand({batch}), compare);
  // Patches, time, context, two streams per block of which the last has one, the final norm, the velocity; in bf16
  // time, the image's stream and the velocity are kept.
  const int64_t layers = model.config().num_layers;
  EXPECT_EQ(compared, BesideBf16() ? layers + 2 : 2 * layers - 1 + 5);
}

class AutoencoderStages : public Stages {};

TEST_P(AutoencoderStages, AreNear) {
  const Autoencoder model = Autoencoder::Load(Component("vae"), placement()).value();
  ExpectNear(model.Decode(Input("vae.decode.input")), "vae.decode.output");
  const Autoencoder::Posterior posterior = model.Encode(Input("vae.decode.output"));
  ExpectNear(posterior.mean, "vae.encode.mean");
  ExpectNear(posterior.logvar, "vae.encode.logvar");

  const at::Tensor last = Input("latents." + std::to_string(case_.spec.steps));
  ExpectNear(model.FromTransformer(last), "vae.decode.input");
  EXPECT_LE(LargestDifference(model.ToTransformer(model.FromTransformer(last)), last),
            GetParam().dtype == at::kFloat ? 1e-5 : 0.1);
}

// The shapes of Medium (dual attention), Large (none), SD3 Medium (no qk norm) and a checkpoint without T5.
const Param kMedium[] = {{"medium", at::kFloat}, {"medium", at::kBFloat16}, {"medium", at::kBFloat16, "bf16"}};
const Param kOthers[] = {{"large", at::kFloat}, {"large", at::kBFloat16}, {"large", at::kBFloat16, "bf16"},
                         {"sd3", at::kFloat},   {"sd3", at::kBFloat16},   {"sd3", at::kBFloat16, "bf16"}};
const Param kNoT5[] = {{"no_t5", at::kFloat}, {"no_t5", at::kBFloat16}, {"no_t5", at::kBFloat16, "bf16"}};
const Param kTexts[] = {{"clip_skip", at::kFloat}, {"longer_than_77", at::kFloat}};

const auto kName = [](const auto& info) { return NameOf(info.param); };
INSTANTIATE_TEST_SUITE_P(Medium, ClipStages, ::testing::ValuesIn(kMedium), kName);
INSTANTIATE_TEST_SUITE_P(Others, ClipStages, ::testing::ValuesIn(kOthers), kName);
INSTANTIATE_TEST_SUITE_P(NoT5, ClipStages, ::testing::ValuesIn(kNoT5), kName);
INSTANTIATE_TEST_SUITE_P(Texts, ClipStages, ::testing::ValuesIn(kTexts), kName);
INSTANTIATE_TEST_SUITE_P(Medium, T5Stages, ::testing::ValuesIn(kMedium), kName);
INSTANTIATE_TEST_SUITE_P(Others, T5Stages, ::testing::ValuesIn(kOthers), kName);
INSTANTIATE_TEST_SUITE_P(Texts, T5Stages, ::testing::ValuesIn(kTexts), kName);
INSTANTIATE_TEST_SUITE_P(Medium, TransformerStages, ::testing::ValuesIn(kMedium), kName);
INSTANTIATE_TEST_SUITE_P(Others, TransformerStages, ::testing::ValuesIn(kOthers), kName);
INSTANTIATE_TEST_SUITE_P(NoT5, TransformerStages, ::testing::ValuesIn(kNoT5), kName);
INSTANTIATE_TEST_SUITE_P(Medium, AutoencoderStages, ::testing::ValuesIn(kMedium), kName);
INSTANTIATE_TEST_SUITE_P(Others, AutoencoderStages, ::testing::ValuesIn(kOthers), kName);
INSTANTIATE_TEST_SUITE_P(NoT5, AutoencoderStages, ::testing::ValuesIn(kNoT5), kName);

}  // namespace
}  // namespace fresco
