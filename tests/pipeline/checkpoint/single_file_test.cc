#include "pipeline/checkpoint/single_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <random>

#include "pipeline/checkpoint/stored_weight.h"
#include "tests/pipeline/checkpoint/single_file_maker.h"

namespace fresco {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

using Components = std::vector<std::string>;

std::string Message(const absl::Status& status) {
  return std::string(status.message());
}

MadeTensors operator+(MadeTensors a, const MadeTensors& b) {
  a.insert(b.begin(), b.end());
  return a;
}

absl::StatusOr<SingleFile> OpenMade(const TempFolder& folder, const MadeTensors& tensors,
                                    const std::string& metadata = "") {
  return SingleFile::Open(folder.Write("any name", SafetensorsBytes(tensors, metadata)));
}

MadeTensor Bytes(std::vector<int64_t> shape, std::string data, std::string dtype = "U8") {
  return {std::move(dtype), std::move(shape), std::move(data)};
}

std::string DataOf(const WeightStore& store, std::string_view name) {
  const auto tensor = store.Find(name);
  if (!tensor.ok()) return Message(tensor.status());
  return std::string(reinterpret_cast<const char*>(tensor->data), tensor->bytes);
}

std::vector<int64_t> ShapeOf(const WeightStore& store, std::string_view name) {
  const SafetensorsFile::Entry* const entry = store.FindEntry(name);
  return entry == nullptr ? std::vector<int64_t>{-1} : entry->shape;
}

void ExpectSame(const WeightStore& store, const WeightStore& folder) {
  EXPECT_EQ(store.Names(), folder.Names());
  for (const std::string& name : folder.Names()) {
    const auto tensor = store.Find(name), expected = folder.Find(name);
    ASSERT_TRUE(tensor.ok()) << tensor.status();
    EXPECT_EQ(tensor->dtype, expected->dtype) << name;
    EXPECT_EQ(tensor->shape, expected->shape) << name;
    EXPECT_EQ(DataOf(store, name), DataOf(folder, name)) << name;
  }
  EXPECT_EQ(store.Digest().value(), folder.Digest().value());
  EXPECT_EQ(store.total_bytes(), folder.total_bytes());
}

// --- Whole checkpoints ---

// A folder's component as an original file is to be understood: ComfyUI and diffusers do not read CLIP-L's projection.
WeightStore OriginalPart(const TempFolder& folder, const std::string& checkpoint, const std::string& component) {
  if (component != "text_encoder") return OpenReferencePart(checkpoint, component);
  MadeTensors tensors = DiffusersTensors(checkpoint, component, "");
  MadeTensor& projection = tensors.at("text_projection.weight");
  projection = IdentityProjection(projection.shape.front());
  return WeightStore::OpenFile(folder.Write("clip_l", SafetensorsBytes(tensors))).value();
}

struct Prefixes {
  const char* what;
  bool original;                          // names
  std::map<std::string, std::string> of;  // components
};

void PrintTo(const Prefixes& prefixes, std::ostream* out) {
  *out << prefixes.what;
}

const Prefixes kPrefixes[] = {
    {"Full",
     true,
     {{"transformer", "model.diffusion_model."},
      {"text_encoder", "text_encoders.clip_l.transformer."},
      {"text_encoder_2", "text_encoders.clip_g.transformer."},
      {"text_encoder_3", "text_encoders.t5xxl.transformer."},
      {"vae", "first_stage_model."}}},
    {"Bare", true, {{"transformer", ""}}},
    {"BareWithTexts",
     true,
     {{"transformer", ""}, {"text_encoder", "text_encoders.clip_l.transformer."}, {"vae", "vae."}}},
    {"Transformer", true, {{"transformer", "transformer."}, {"vae", "first_stage_model."}}},
    {"Diffusers",
     false,
     {{"transformer", "transformer."},
      {"text_encoder", "text_encoder."},
      {"text_encoder_2", "text_encoder_2."},
      {"text_encoder_3", "text_encoder_3."},
      {"vae", "vae."}}},
    {"DiffusersBare", false, {{"transformer", ""}}},
    {"DiffusersInOriginalPrefixes", false, {{"transformer", "model.diffusion_model."}, {"vae", "first_stage_model."}}},
    {"VaeAlone", true, {{"vae", "first_stage_model."}}},
};

class WholeFileTest : public ::testing::TestWithParam<std::tuple<const char*, Prefixes>> {};

TEST_P(WholeFileTest, HasEveryTensorAsInTheFolder) {
  const auto& [checkpoint, prefixes] = GetParam();
  MadeTensors tensors = {{"alphas_cumprod", Bytes({1}, "x")}, {"model_ema.decay", Bytes({}, "x")}};
  Components components;
  for (const auto& [component, prefix] : prefixes.of) {
    if (!std::filesystem::exists("tests/reference/checkpoints/" + std::string(checkpoint) + "/" + component)) continue;
    components.push_back(component);
    tensors.merge(prefixes.original ? OriginalTensors(checkpoint, component, prefix)
                                    : DiffusersTensors(checkpoint, component, prefix));
  }
  TempFolder folder;
  const auto file = OpenMade(folder, tensors);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->Components(), components);
  for (const std::string& component : components) {
    SCOPED_TRACE(component);
    EXPECT_TRUE(file->Has(component));
    ExpectSame(file->Component(component).value(), prefixes.original ? OriginalPart(folder, checkpoint, component)
                                                                     : OpenReferencePart(checkpoint, component));
  }
  EXPECT_EQ(file->file().entries().size(), tensors.size());
  std::vector<std::string> used = {"alphas_cumprod", "model_ema.decay"};
  for (const std::string& component : components) {
    for (const std::string& name : file->StoredNames(component)) used.push_back(name);
  }
  if (prefixes.original && tensors.contains("text_encoders.clip_l.transformer.text_projection.weight"))
    used.push_back("text_encoders.clip_l.transformer.text_projection.weight");
  std::vector<std::string> all;
  for (const auto& [name, tensor] : tensors) all.push_back(name);
  EXPECT_THAT(used, ::testing::UnorderedElementsAreArray(all));
}

INSTANTIATE_TEST_SUITE_P(SingleFile, WholeFileTest,
                         ::testing::Combine(::testing::Values("medium", "large", "sd3"),
                                            ::testing::ValuesIn(kPrefixes)),
                         [](const auto& info) {
                           return std::string(std::get<0>(info.param)) + std::get<1>(info.param).what;
                         });

TEST(SingleFile, SaysWhatItLacks) {
  TempFolder folder;
  const SingleFile file = OpenMade(folder, OriginalTensors("sd3", "transformer", "")).value();
  EXPECT_FALSE(file.Has("vae"));
  EXPECT_TRUE(file.StoredNames("vae").empty());
  const absl::Status status = file.Component("vae").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Message(status), file.path() + ": holds no vae, only transformer");
  EXPECT_EQ(SingleFile::Open(folder.path() + "/none").status().code(), absl::StatusCode::kNotFound);
}

TEST(SingleFile, OutlivesNothingThatItsTensorsNeed) {
  TempFolder folder;
  absl::StatusOr<TensorView> mapped, own;
  {
    const SingleFile file = OpenMade(folder, OriginalTensors("sd3", "transformer", "")).value();
    const WeightStore store = file.Component("transformer").value();
    mapped = store.Find("transformer_blocks.0.attn.to_v.bias");
    own = store.Find("norm_out.linear.bias");
  }
  const WeightStore folder_store = OpenReferencePart("sd3", "transformer");
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(mapped->data), mapped->bytes),
            DataOf(folder_store, "transformer_blocks.0.attn.to_v.bias"));
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(own->data), own->bytes),
            DataOf(folder_store, "norm_out.linear.bias"));
}

// --- Single layers ---

// What every file here has, so that it is one of a transformer.
MadeTensors Fused(const std::string& weight = "QqKkVv", int64_t columns = 1) {
  const auto rows = static_cast<int64_t>(weight.size()) / columns;
  return {{"joint_blocks.0.x_block.attn.qkv.weight", Bytes({rows, columns}, weight)}};
}

WeightStore TransformerOf(const MadeTensors& tensors, const std::string& metadata = "") {
  TempFolder folder;  // a mapping outlives its file
  const auto file = OpenMade(folder, tensors, metadata);
  if (!file.ok()) throw std::runtime_error(Message(file.status()));
  return file->Component("transformer").value();
}

constexpr const char* kQ = "transformer_blocks.0.attn.to_q";
constexpr const char* kK = "transformer_blocks.0.attn.to_k";
constexpr const char* kV = "transformer_blocks.0.attn.to_v";

std::string Of(const char* layer, const char* what) {
  return std::string(layer) + what;
}

TEST(SingleFile, FusedRowsAreSlicesOfTheMapping) {
  const WeightStore store = TransformerOf(Fused());
  const auto q = store.Find(Of(kQ, ".weight")), k = store.Find(Of(kK, ".weight")), v = store.Find(Of(kV, ".weight"));
  EXPECT_EQ(k->data, q->data + 2);
  EXPECT_EQ(v->data, k->data + 2);
  EXPECT_EQ(DataOf(store, Of(kV, ".weight")), "Vv");
  EXPECT_THAT(ShapeOf(store, Of(kV, ".weight")), ElementsAre(2, 1));
}

// A type that is not known is sliced as bytes, and refused by who asks for its values.
TEST(SingleFile, FusedRowsMayBeOfAnUnknownType) {
  const WeightStore store = TransformerOf({{"joint_blocks.0.x_block.attn.qkv.weight", Bytes({6, 2}, "QqKkVv", "F4")}});
  EXPECT_EQ(store.FindEntry(Of(kK, ".weight"))->bytes(), 2u);
  EXPECT_THAT(Message(store.Find(Of(kK, ".weight")).status()), AllOf(HasSubstr("F4"), HasSubstr(Of(kK, ".weight"))));
}

TEST(SingleFile, ScalesPerRowAreSliced) {
  for (const char* ending : {".scale_weight", ".weight_scale", ".weight._scale", ".weight_of_tomorrow"}) {
    for (const std::vector<int64_t>& shape : {std::vector<int64_t>{6}, {6, 1}}) {
      const WeightStore store =
          TransformerOf(Fused() + MadeTensors{{Of("joint_blocks.0.x_block.attn.qkv", ending), Bytes(shape, "012345")}});
      EXPECT_EQ(DataOf(store, Of(kQ, ending)), "01") << ending;
      EXPECT_EQ(DataOf(store, Of(kK, ending)), "23") << ending;
      EXPECT_EQ(DataOf(store, Of(kV, ending)), "45") << ending;
      EXPECT_EQ(ShapeOf(store, Of(kV, ending)).front(), 2);
      EXPECT_EQ(ShapeOf(store, Of(kV, ending)).size(), shape.size());
    }
  }
}

TEST(SingleFile, WhatDescribesALayerIsShared) {
  for (const char* ending : {".scale_weight", ".weight_scale", ".weight._scale", ".scale_input", ".input_scale",
                             ".output_scale", ".weight_scale_2"}) {
    const WeightStore store =
        TransformerOf(Fused() + MadeTensors{{Of("joint_blocks.0.x_block.attn.qkv", ending), Bytes({}, "s")}});
    for (const char* layer : {kQ, kK, kV}) EXPECT_EQ(DataOf(store, Of(layer, ending)), "s") << ending;
  }
  // As many bytes as the weight has rows: still one text.
  const WeightStore store =
      TransformerOf(Fused() + MadeTensors{{"joint_blocks.0.x_block.attn.qkv.comfy_quant", Bytes({6}, "{\"a\":1")}});
  for (const char* layer : {kQ, kK, kV}) EXPECT_EQ(DataOf(store, Of(layer, ".comfy_quant")), "{\"a\":1");
}

// A name that its owner does not find in the file is of no use to him.
TEST(SingleFile, ErrorsSayWhatTheFileCallsATensor) {
  const std::string fused = "model.diffusion_model.joint_blocks.0.x_block.attn.qkv";
  const WeightStore store = TransformerOf({{fused + ".weight", Bytes({6, 2}, "QQQQKKKKVVVV", "F8_E4M3")},
                                           {fused + ".weight_scale", Bytes({}, std::string(4, '\0'), "F32")}});
  const absl::Status zero = FindStoredWeight(store, {}, kK, 2, 2).status();
  EXPECT_THAT(Message(zero), HasSubstr(Of(kK, ".weight_scale\" (there \"") + fused + ".weight_scale\"): "));
  const absl::Status shape = FindStoredWeight(store, {}, kK, 3, 2).status();
  EXPECT_THAT(Message(shape), HasSubstr("(there \"" + fused + ".weight\"): shape [2, 2]"));
}

// Left out, the weights would be taken for plain FP8, or for ones whose inputs need no scaling.
TEST(SingleFile, WhatMakesALayerUnreadableStaysWithIt) {
  const std::string fused = "joint_blocks.0.x_block.attn.qkv", swapped = "final_layer.adaLN_modulation.1";
  for (const std::string suffix : {".weight_scale_inv", ".pre_quant_scale", ".weight_zero_point", ".weight.absmax"}) {
    const MadeTensor blocks = Bytes({1, 2}, std::string(8, 'x'), "F32");
    const WeightStore store = TransformerOf({{fused + ".weight", Bytes({6, 2}, "QQQQKKKKVVVV", "F8_E4M3")},
                                             {fused + suffix, blocks},
                                             {swapped + ".weight", Bytes({2, 2}, "aabb", "F8_E4M3")},
                                             {swapped + suffix, blocks}});
    for (const char* layer : {kQ, kV, "norm_out.linear"}) {
      const absl::Status status = FindStoredWeight(store, {}, layer, 2, 2).status();
      EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << layer << suffix << ": " << status;
    }
  }
}

TEST(SingleFile, QuantoCodesAreSliced) {
  const std::string layer = "joint_blocks.1.context_block.attn.qkv";
  const WeightStore store = TransformerOf({{layer + ".weight._data", Bytes({3, 2}, "QqKkVv", "I8")},
                                           {layer + ".weight._scale", Bytes({3, 1}, "abc")},
                                           {layer + ".output_scale", Bytes({}, "o")},
                                           {layer + ".bias", Bytes({3}, "xyz")}});
  EXPECT_EQ(DataOf(store, "transformer_blocks.1.attn.add_k_proj.weight._data"), "Kk");
  EXPECT_EQ(DataOf(store, "transformer_blocks.1.attn.add_k_proj.weight._scale"), "b");
  EXPECT_EQ(DataOf(store, "transformer_blocks.1.attn.add_k_proj.output_scale"), "o");
  EXPECT_EQ(DataOf(store, "transformer_blocks.1.attn.add_v_proj.bias"), "z");
}

// Only the last block's context modulation, and with it the scales of its rows.
TEST(SingleFile, HalvesAreSwapped) {
  const std::string last = "joint_blocks.1.context_block.adaLN_modulation.1";
  const WeightStore store =
      TransformerOf(Fused() + MadeTensors{{"joint_blocks.0.context_block.adaLN_modulation.1.bias", Bytes({2}, "ab")},
                                          {last + ".weight", Bytes({4, 2}, "AaBbCcDd", "F8_E4M3")},
                                          {last + ".scale_weight", Bytes({4}, "0123")},
                                          {last + ".scale_input", Bytes({1}, "i")},
                                          {last + ".comfy_quant", Bytes({4}, "json")},
                                          {"final_layer.adaLN_modulation.1.weight", Bytes({2, 1}, "ab")},
                                          {"final_layer.adaLN_modulation.1.weight_scale", Bytes({}, "s")}});
  EXPECT_EQ(DataOf(store, "transformer_blocks.0.norm1_context.linear.bias"), "ab");
  EXPECT_EQ(DataOf(store, "transformer_blocks.1.norm1_context.linear.weight"), "CcDdAaBb");
  EXPECT_THAT(ShapeOf(store, "transformer_blocks.1.norm1_context.linear.weight"), ElementsAre(4, 2));
  EXPECT_EQ(DataOf(store, "transformer_blocks.1.norm1_context.linear.scale_weight"), "2301");
  EXPECT_EQ(DataOf(store, "transformer_blocks.1.norm1_context.linear.scale_input"), "i");
  EXPECT_EQ(DataOf(store, "transformer_blocks.1.norm1_context.linear.comfy_quant"), "json");
  EXPECT_EQ(DataOf(store, "norm_out.linear.weight"), "ba");
  EXPECT_EQ(DataOf(store, "norm_out.linear.weight_scale"), "s");
}

TEST(SingleFile, EachComponentHasItsOwnMarker) {
  TempFolder folder;
  const SingleFile file =
      OpenMade(folder, {{"model.diffusion_model.joint_blocks.0.x_block.mlp.fc1.weight", Bytes({1, 1}, "w")},
                        {"model.diffusion_model.scaled_fp8", Bytes({2}, "mm")},
                        {"text_encoders.t5xxl.transformer.encoder.block.0.layer.0.layer_norm.weight", Bytes({1}, "w")},
                        {"text_encoders.t5xxl.transformer.scaled_fp8", Bytes({0}, "", "F8_E4M3")},
                        {"text_encoders.clip_g.transformer.text_model.final_layer_norm.bias", Bytes({1}, "b")}})
          .value();
  EXPECT_THAT(file.Components(), ElementsAre("text_encoder_2", "text_encoder_3", "transformer"));
  EXPECT_EQ(DataOf(file.Component("transformer").value(), "scaled_fp8"), "mm");
  EXPECT_EQ(file.Component("text_encoder_3")->FindEntry("scaled_fp8")->dtype_name, "F8_E4M3");
  EXPECT_FALSE(file.Component("text_encoder_2")->Contains("scaled_fp8"));
}

nlohmann::json LayersOf(const WeightStore& store) {
  return nlohmann::json::parse(store.metadata().at("_quantization_metadata")).at("layers");
}

TEST(SingleFile, QuantisationMetadataHasDiffusersNames) {
  TempFolder folder;
  const auto file =
      OpenMade(folder,
               {{"model.diffusion_model.joint_blocks.0.x_block.mlp.fc1.weight", Bytes({1, 1}, "w")},
                {"text_encoders.t5xxl.transformer.encoder.block.0.layer.0.layer_norm.weight", Bytes({1}, "w")}},
               R"({"format":"pt","_quantization_metadata":"{\"format_version\":\"1.0\",\"layers\":{)"
               R"(\"model.diffusion_model.joint_blocks.0.x_block.attn.qkv\":{\"format\":\"float8_e4m3fn\"},)"
               R"(\"joint_blocks.0.x_block.mlp.fc2\":{\"format\":\"int8_tensorwise\"},)"
               R"(\"text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q\":{\"format\":\"x\"},)"
               R"(\"shared\":{\"format\":\"z\"},\"somewhere.else\":{\"format\":\"y\"}}}"})");
  ASSERT_TRUE(file.ok()) << file.status();
  const WeightStore transformer = file->Component("transformer").value();
  EXPECT_EQ(transformer.metadata().at("format"), "pt");
  const auto e4m3 = R"({"format":"float8_e4m3fn"})"_json;
  EXPECT_EQ(
      LayersOf(transformer),
      (nlohmann::json{
          {kQ, e4m3}, {kK, e4m3}, {kV, e4m3}, {"transformer_blocks.0.ff.net.2", {{"format", "int8_tensorwise"}}}}));
  EXPECT_EQ(LayersOf(file->Component("text_encoder_3").value()),
            R"({"encoder.block.0.layer.0.SelfAttention.q":{"format":"x"}})"_json);
}

TEST(SingleFile, ABareTransformersMetadataMayHaveAPrefix) {
  const WeightStore store =
      TransformerOf(Fused(), R"({"_quantization_metadata":"{\"layers\":{)"
                             R"(\"model.diffusion_model.joint_blocks.0.x_block.attn.proj\":{}}}"})");
  EXPECT_EQ(LayersOf(store), R"({"transformer_blocks.0.attn.to_out.0":{}})"_json);
}

TEST(SingleFile, LeavesOutWhatNoLayoutKnows) {
  const WeightStore store =
      TransformerOf(Fused() + MadeTensors{{"model_ema.joint_blocks.0.x_block.attn.qkv.weight", Bytes({1}, "x")},
                                          {"joint_blocks.00.x_block.attn.qkv.weight", Bytes({1}, "x")},
                                          {"joint_blocks.99999.x_block.attn.qkv.weight", Bytes({1}, "x")},
                                          {"joint_blocks.7.x_block.nothing", Bytes({1}, "x")},  // no block 7
                                          {"joint_blocks.0.context_block.adaLN_modulation.1.bias", Bytes({2}, "ab")},
                                          {"joint_blocks.0.x_block.attn.qkv", Bytes({1}, "x")},
                                          {"joint_blocks.0.x_block.attn.qkvw.weight", Bytes({1}, "x")},
                                          {"joint_blocks.", Bytes({1}, "x")},
                                          {"pos_embed.extra", Bytes({1}, "x")},
                                          {"transformer_blocks", Bytes({1}, "x")},
                                          {"", Bytes({1}, "x")}});
  EXPECT_THAT(store.Names(), UnorderedElementsAre(Of(kQ, ".weight"), Of(kK, ".weight"), Of(kV, ".weight"),
                                                  "transformer_blocks.0.norm1_context.linear.bias"));
  EXPECT_EQ(DataOf(store, "transformer_blocks.0.norm1_context.linear.bias"), "ba");
}

MadeTensors WithoutProjection(const std::string& component, const std::string& prefix) {
  MadeTensors tensors = OriginalTensors("medium", component, prefix);
  tensors.erase(prefix + "text_projection.weight");
  return tensors;
}

TEST(SingleFile, AClipLProjectsWithTheIdentity) {
  TempFolder folder;
  const SingleFile file = OpenMade(folder, WithoutProjection("text_encoder", "text_encoders.clip_l.transformer.") +
                                               WithoutProjection("text_encoder_2", "text_encoders.clip_g.transformer."))
                              .value();
  const WeightStore store = file.Component("text_encoder").value();
  EXPECT_THAT(ShapeOf(store, "text_projection.weight"), ElementsAre(24, 24));
  EXPECT_EQ(store.FindEntry("text_projection.weight")->dtype_name, "BF16");
  EXPECT_EQ(DataOf(store, "text_projection.weight"), IdentityProjection(24).data);
  EXPECT_FALSE(file.Component("text_encoder_2")->Contains("text_projection.weight"));
}

// In the type of the embeddings where that is one of numbers, else in fp32.
TEST(SingleFile, TheIdentityIsInTheTypeOfTheRest) {
  const std::string prefix = "text_encoders.clip_l.transformer.";
  const std::pair<std::string, std::string> kOnes[] = {{"F32", std::string("\0\0\x80\x3f", 4)},
                                                       {"F16", std::string("\0\x3c", 2)},
                                                       {"F8_E4M3", std::string("\0\0\x80\x3f", 4)}};
  for (const auto& [dtype, one] : kOnes) {
    TempFolder folder;
    const int64_t bytes = dtype == "F32" ? 4 : dtype == "F16" ? 2 : 1;
    const auto file = OpenMade(folder, {{prefix + "text_model.embeddings.position_embedding.weight",
                                         Bytes({1, 2}, std::string(static_cast<size_t>(2 * bytes), 'x'), dtype)},
                                        {prefix + "text_projection.weight",
                                         Bytes({2, 2}, std::string(static_cast<size_t>(4 * bytes), 'x'), dtype)}});
    const WeightStore store = file->Component("text_encoder").value();
    const std::string zero(one.size(), '\0');
    EXPECT_EQ(DataOf(store, "text_projection.weight"), one + zero + zero + one) << dtype;
    EXPECT_EQ(store.FindEntry("text_projection.weight")->dtype_name, dtype == "F16" ? "F16" : "F32");
  }
}

TEST(SingleFile, ADiffusersClipLWithoutProjectionLacksIt) {
  TempFolder folder;
  const SingleFile file = OpenMade(folder, WithoutProjection("text_encoder", "text_encoder.")).value();
  EXPECT_FALSE(file.Component("text_encoder")->Contains("text_projection.weight"));
}

// --- Files that are refused ---

struct BadFile {
  const char* name;
  MadeTensors tensors;
  std::vector<const char*> message;
  std::string metadata;
};

void PrintTo(const BadFile& bad, std::ostream* out) {
  *out << bad.name;
}

class BadSingleFileTest : public ::testing::TestWithParam<BadFile> {};

TEST_P(BadSingleFileTest, IsRefused) {
  TempFolder folder;
  const absl::Status status = OpenMade(folder, GetParam().tensors, GetParam().metadata).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(Message(status), HasSubstr(folder.path() + "/any name: "));
  for (const char* part : GetParam().message) EXPECT_THAT(Message(status), HasSubstr(part));
}

const std::string kQkv = "joint_blocks.0.x_block.attn.qkv";

INSTANTIATE_TEST_SUITE_P(
    SingleFile, BadSingleFileTest,
    ::testing::Values(
        BadFile{"Empty", {}, {"holds no tensors"}},
        BadFile{"AnotherModel",
                {{"double_blocks.0.img_attn.qkv.weight", Bytes({1}, "x")}, {R"(in\u001bput)", Bytes({1}, "x")}},
                {"no part of Stable Diffusion 3",
                 "its 2 tensors: \"double_blocks.0.img_attn.qkv.weight\", \"in\\x1bput\""}},
        BadFile{
            "TwoRoots",
            Fused() + MadeTensors{{"model.diffusion_model." + kQkv + ".weight", Bytes({3}, "qkv")}},
            {"the transformer in two layouts", "\"joint_blocks.0.x_block", "\"model.diffusion_model.joint_blocks.0.x"}},
        BadFile{"TwoNamings",
                Fused() + MadeTensors{{Of(kQ, ".weight"), Bytes({1}, "q")}},
                {"the transformer in two layouts", kQ, "\"joint_blocks.0.x_block.attn.qkv.weight\""}},
        BadFile{"TwoVaes",
                {{"vae.decoder.up.0.block.0.norm1.bias", Bytes({1}, "x")},
                 {"first_stage_model.decoder.up.0.block.0.norm1.bias", Bytes({1}, "x")}},
                {"the vae in two layouts"}},
        BadFile{"RowsNotThirds", Fused("QKVxx"), {"qkv.weight\": shape [5, 1] does not divide into 3 equal parts"}},
        BadFile{"WeightWithoutRows", {{kQkv + ".weight", Bytes({}, "x")}}, {"shape [] does not divide into 3"}},
        BadFile{
            "BiasNotThirds", Fused() + MadeTensors{{kQkv + ".bias", Bytes({4}, "xxxx")}}, {"qkv.bias\": shape [4]"}},
        BadFile{"BytesNotThirds", {{kQkv + ".weight", Bytes({3, 2}, "xxxx", "F4")}}, {"does not divide into 3"}},
        BadFile{"HalvesOdd",
                Fused() + MadeTensors{{"final_layer.adaLN_modulation.1.bias", Bytes({3}, "xxx")}},
                {"final_layer.adaLN_modulation.1.bias\": shape [3] does not divide into 2"}},
        BadFile{"ScaleMisfits",
                Fused() + MadeTensors{{kQkv + ".weight_scale", Bytes({3}, "xxx")}},
                {"qkv.weight_scale\": shape [3] is neither one value nor one per row"}},
        BadFile{"ScaleEmpty",
                Fused() + MadeTensors{{kQkv + ".scale_weight", Bytes({0}, "")}},
                {"qkv.scale_weight\": shape [0] is neither"}},
        BadFile{"SwappedScaleMisfits",
                Fused() + MadeTensors{{"final_layer.adaLN_modulation.1.weight", Bytes({2}, "xx")},
                                      {"final_layer.adaLN_modulation.1.weight._scale", Bytes({4}, "xxxx")}},
                {"final_layer.adaLN_modulation.1.weight._scale\": shape [4] is neither"}},
        BadFile{"ScaleAlone",
                Fused() + MadeTensors{{"joint_blocks.0.x_block.mlp.fc1.scale_weight", Bytes({}, "x")}},
                {"fc1.scale_weight\": the weight that it belongs to is missing",
                 "neither \"joint_blocks.0.x_block.mlp.fc1.weight\" nor"}},
        BadFile{"FusedScaleAlone",
                Fused() + MadeTensors{{"joint_blocks.1.x_block.attn.qkv.weight._scale", Bytes({3}, "xxx")}},
                {"qkv.weight._scale\": the weight that it belongs to is missing"}},
        BadFile{"ComfyQuantAlone",
                {{"text_encoder_3.encoder.block.0.layer.0.SelfAttention.q.comfy_quant", Bytes({2}, "{}")}},
                {"SelfAttention.q.comfy_quant\": the weight"}},
        BadFile{"IdentityTooWide",
                {{"text_encoders.clip_l.transformer.text_model.embeddings.position_embedding.weight",
                  Bytes({1, 5000}, std::string(5000, 'x'))}},
                {"position_embedding.weight\": too wide"}},
        BadFile{
            "MetadataNotJson", Fused(), {"\"_quantization_metadata\": not JSON"}, R"({"_quantization_metadata":"{"})"},
        BadFile{"MetadataList", Fused(), {"\"layers\" is missing"}, R"({"_quantization_metadata":"[]"})"},
        BadFile{"MetadataWithoutLayers", Fused(), {"\"layers\" is missing"}, R"({"_quantization_metadata":"{}"})"},
        BadFile{"MetadataOfTwoFormats",
                Fused(),
                {"layer \"model.diffusion_model.joint_blocks.0.x_block.attn.qkv\" is there twice", "of two formats"},
                R"({"_quantization_metadata":"{\"layers\":{\"joint_blocks.0.x_block.attn.qkv\":\"nvfp4\",)"
                R"(\"model.diffusion_model.joint_blocks.0.x_block.attn.qkv\":\"float8_e4m3fn\"}}"})"},
        BadFile{"MetadataLayersList",
                Fused(),
                {"\"layers\" is missing or not an object"},
                R"({"_quantization_metadata":"{\"layers\":[]}"})"},
        BadFile{"MetadataDeep",
                Fused(),
                {"nested over"},
                R"({"_quantization_metadata":")" + std::string(1000, '[') + R"("})"}),
    [](const auto& info) { return std::string(info.param.name); });

// What is copied is bounded, however large a file claims to be (this one is a hole).
TEST(SingleFile, RefusesToCopyAHugeTensor) {
  TempFolder folder;
  const std::string path = folder.Write(
      "huge",
      SafetensorsBytes(R"({"joint_blocks.0.x_block.mlp.fc1.bias":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)"
                       R"("final_layer.adaLN_modulation.1.bias":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                       R"("final_layer.adaLN_modulation.1.weight":)"
                       R"({"dtype":"U8","shape":[268435456],"data_offsets":[2,268435458]}})",
                       ""));
  std::filesystem::resize_file(path, std::filesystem::file_size(path) + 268435458);
  const absl::Status status = SingleFile::Open(path).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(status), HasSubstr("final_layer.adaLN_modulation.1.weight\": too large"));
}

TEST(SingleFile, AnEmptyFusedLayerIsThreeEmptyOnes) {
  const WeightStore store = TransformerOf({{kQkv + ".weight", Bytes({0, 4}, "")}});
  EXPECT_THAT(ShapeOf(store, Of(kV, ".weight")), ElementsAre(0, 4));
  EXPECT_EQ(DataOf(store, Of(kV, ".weight")), "");
}

// Whatever is missing is missing, and nothing else changes.
TEST(SingleFile, OpensWithoutAnyOneTensor) {
  TempFolder folder;
  const MadeTensors all = OriginalTensors("sd3", "transformer", "");
  const size_t whole = OpenReferencePart("sd3", "transformer").Names().size();
  for (const auto& [name, tensor] : all) {
    MadeTensors some = all;
    some.erase(name);
    const auto file = OpenMade(folder, some);
    ASSERT_TRUE(file.ok()) << name << ": " << file.status();
    const size_t lost = name.find(".qkv.") == std::string::npos ? 1 : 3;
    EXPECT_EQ(file->Component("transformer")->Names().size(), whole - lost) << name;
  }
}

// Sound files of unsound models: refused, or every tensor of theirs can be read.
TEST(SingleFile, BearsRenamedAndReshapedTensors) {
  const MadeTensors sound =
      Fused() + MadeTensors{{kQkv + ".bias", Bytes({6}, "012345")},
                            {kQkv + ".weight_scale", Bytes({6, 1}, "012345")},
                            {kQkv + ".comfy_quant", Bytes({6}, "{    }")},
                            {"joint_blocks.0.context_block.adaLN_modulation.1.weight", Bytes({4, 3}, "aaabbbcccddd")},
                            {"joint_blocks.0.context_block.adaLN_modulation.1.scale_weight", Bytes({4}, "abcd")},
                            {"pos_embed", Bytes({1, 2, 3}, "012345")},
                            {"scaled_fp8", Bytes({2}, "ab")},
                            {"vae.decoder.up.1.block.0.nin_shortcut.weight", Bytes({2}, "ab")},
                            {"vae.decoder.mid.attn_1.q.weight", Bytes({2, 2, 1, 1}, "abcd")},
                            {"text_encoders.clip_l.transformer.text_model.embeddings."
                             "position_embedding.weight",
                             Bytes({3, 2}, "abcdef")}};
  TempFolder folder;
  std::mt19937 random(1);
  int opened = 0, refused = 0;
  for (int i = 0; i < 500; ++i) {
    MadeTensors changed = sound;
    for (int j = 0; j < 2; ++j) {
      auto node = changed.extract(std::next(changed.begin(), random() % changed.size()));
      std::vector<int64_t>& shape = node.mapped().shape;
      constexpr std::string_view kCharacters = "0123456789.qkv_";
      if (random() % 2 == 0) {
        node.key()[random() % node.key().size()] = kCharacters[random() % kCharacters.size()];
      } else if (random() % 2 == 0) {
        shape = {static_cast<int64_t>(node.mapped().data.size())};
      } else {
        std::shuffle(shape.begin(), shape.end(), random);
        shape.insert(shape.begin(), 1);
      }
      changed.insert(std::move(node));
    }
    const auto file = OpenMade(folder, changed);
    (file.ok() ? opened : refused) += 1;
    for (const std::string& component : file.ok() ? file->Components() : Components()) {
      EXPECT_TRUE(file->Component(component)->Digest().ok());
    }
  }
  EXPECT_GT(opened, 50);
  EXPECT_GT(refused, 50);
}

}  // namespace
}  // namespace fresco
