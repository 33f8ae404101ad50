// Every model against what diffusers and transformers compute (tests/reference), stage by stage.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <ostream>
#include <string>

#include "pipeline/models/autoencoder.h"
#include "pipeline/models/clip.h"
#include "pipeline/models/mmdit.h"
#include "pipeline/models/t5.h"
#include "tests/support/reference.h"
#include "tests/support/reference_tensor.h"

namespace fresco {
namespace {

// How far the error must stay below the signal, in dB. fp32: only the order of sums differs. bf16: our results from
// inputs rounded to bf16 against the references in fp32, so that this bounds all that bf16 costs; diffusers' own bf16
// is as far.
constexpr double kFp32 = 100.0;
constexpr double kBf16 = 30.0;

struct Param {
  const char* name;  // of the case
  at::ScalarType dtype;
};

std::string NameOf(const Param& param) {
  return std::string(param.name) + (param.dtype == at::kFloat ? "_fp32" : "_bf16");
}

void PrintTo(const Param& param, std::ostream* out) {
  *out << NameOf(param);
}

class Stages : public ::testing::TestWithParam<Param> {
 protected:
  Stages() : case_(ReferenceCaseNamed(GetParam().name)), reference_(ReferenceStages(case_.name, "fp32")) {}

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
    EXPECT_GE(distance, GetParam().dtype == at::kFloat ? kFp32 : kBf16) << stage;
  }

  void CheckClip(const std::string& folder, const std::string& stage) const {
    const ClipTextModel model = ClipTextModel::Load(Component(folder), placement()).value();
    for (const std::string side : {"positive.", "negative."}) {
      if (!reference_.Contains(side + stage + ".hidden")) continue;
      const at::Tensor ids = TensorOf(reference_, side + stage + ".ids").unsqueeze(0);
      const auto output = model.Encode(ids, side == "positive." ? case_.spec.clip_skip : 0);
      ExpectNear(output.hidden[0], side + stage + ".hidden");
      ExpectNear(output.pooled[0], side + stage + ".pooled");
    }
  }

  // [B, …]: the negative's, then the positive's; the positive's alone where no text of the negative is kept.
  at::Tensor Guided(const std::string& name) const {
    const at::Tensor positive = Input("positive." + name).unsqueeze(0);
    if (!reference_.Contains("negative.prompt_embeds")) return positive;
    return at::cat({Input("negative." + name).unsqueeze(0), positive});
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
  for (const std::string side : {"positive.", "negative."}) {
    if (!reference_.Contains(side + "t5.hidden")) continue;
    ExpectNear(model.Encode(TensorOf(reference_, side + "t5.ids").unsqueeze(0))[0], side + "t5.hidden");
  }
}

class TransformerStages : public Stages {};

TEST_P(TransformerStages, AreNear) {
  const Mmdit model = Mmdit::Load(Component("transformer"), placement()).value();
  const at::Tensor text = Guided("prompt_embeds");
  const int64_t batch = text.size(0);
  int compared = 0;
  const auto compare = [&](std::string_view name, const at::Tensor& value) {
    const std::string stage = "transformer." + std::string(name);
    if (!reference_.Contains(stage)) return;
    const at::Tensor expected = TensorOf(reference_, stage);
    ExpectNear(value, expected.narrow(0, expected.size(0) - batch, batch), stage);
    ++compared;
  };
  const at::Tensor timestep = TensorOf(reference_, "timesteps").narrow(0, 0, 1);
  model.Forward(Input("latents.0").expand({batch, -1, -1, -1}), text, Guided("pooled"), timestep.expand({batch}),
                compare);
  // Patches, time, context, two streams per block of which the last has one, the final norm, the velocity.
  EXPECT_EQ(compared, 2 * model.config().num_layers - 1 + 5);
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
const Param kMedium[] = {{"medium", at::kFloat}, {"medium", at::kBFloat16}};
const Param kOthers[] = {{"large", at::kFloat}, {"large", at::kBFloat16}, {"sd3", at::kFloat}, {"sd3", at::kBFloat16}};
const Param kNoT5[] = {{"no_t5", at::kFloat}, {"no_t5", at::kBFloat16}};
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
