#include "tests/support/reference.h"

#include <bit>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <utility>

#include "pipeline/base/strings.h"

namespace fresco {
namespace {

using Json = nlohmann::json;

[[noreturn]] void Fail(const std::string& message) {
  throw std::runtime_error(message);
}

Json ReadJson(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) Fail(StrCat(path, ": cannot be opened; tests run in the source folder"));
  return Json::parse(in);
}

std::optional<std::string> OptionalText(const Json& request, const char* key) {
  const auto found = request.find(key);
  if (found == request.end() || found->is_null()) return std::nullopt;
  return found->get<std::string>();
}

ImageSpec SpecFromRequest(const Json& request) {
  ImageSpec spec;
  spec.prompt = request.value("prompt", spec.prompt);
  spec.prompt_2 = OptionalText(request, "prompt_2");
  spec.prompt_3 = OptionalText(request, "prompt_3");
  spec.negative_prompt = request.value("negative_prompt", spec.negative_prompt);
  spec.negative_prompt_2 = OptionalText(request, "negative_prompt_2");
  spec.negative_prompt_3 = OptionalText(request, "negative_prompt_3");
  spec.width = request.value("width", spec.width);
  spec.height = request.value("height", spec.height);
  spec.steps = request.value("steps", spec.steps);
  spec.guidance_scale = request.value("guidance_scale", spec.guidance_scale);
  spec.seed = request.value("seed", spec.seed);
  spec.max_sequence_length = request.value("max_sequence_length", spec.max_sequence_length);
  spec.clip_skip = request.value("clip_skip", spec.clip_skip);
  return spec;
}

ReferenceCase CaseFromJson(const Json& json) {
  ReferenceCase result;
  result.name = json.at("name");
  result.checkpoint = ReferencePath("checkpoints/" + json.at("checkpoint").get<std::string>());
  if (const Json& base = json.at("base"); !base.is_null()) {
    result.base = ReferencePath("checkpoints/" + base.get<std::string>());
  }
  result.dtypes = json.at("dtypes").get<std::vector<std::string>>();
  result.stages = json.at("stages").get<std::vector<std::string>>();
  result.spec = SpecFromRequest(json.at("request"));
  return result;
}

template <typename T>
T Load(const std::byte* data, size_t index) {
  T value;
  std::memcpy(&value, data + index * sizeof(T), sizeof(T));
  return value;
}

float LoadFloat(const TensorView& view, size_t index) {
  if (view.dtype == DType::kF32) return Load<float>(view.data, index);
  return std::bit_cast<float>(uint32_t{Load<uint16_t>(view.data, index)} << 16);
}

}  // namespace

std::string ReferencePath(std::string_view name) {
  return StrCat("tests/reference/", name);
}

std::vector<ReferenceCase> ReferenceCases() {
  std::vector<ReferenceCase> cases;
  for (const Json& json : ReadJson(ReferencePath("cases.json"))) cases.push_back(CaseFromJson(json));
  return cases;
}

ReferenceCase ReferenceCaseNamed(std::string_view name) {
  for (ReferenceCase& candidate : ReferenceCases()) {
    if (candidate.name == name) return std::move(candidate);
  }
  Fail(StrCat("tests/reference/cases.json has no case '", name, "'"));
}

ReferenceResult::ReferenceResult(const std::string& path) {
  auto file = SafetensorsFile::Open(path);
  if (!file.ok()) Fail(file.status().ToString());
  file_ = *std::move(file);
}

TensorView ReferenceResult::View(std::string_view name) const {
  auto view = file_->Find(name);
  if (!view.ok()) Fail(view.status().ToString());
  return *std::move(view);
}

ReferenceTensor<float> ReferenceResult::Floats(std::string_view name) const {
  const TensorView view = View(name);
  if (view.dtype != DType::kF32 && view.dtype != DType::kBF16) {
    Fail(StrCat(file_->path(), ": ", name, " is ", DTypeName(view.dtype), ", not of floats"));
  }
  ReferenceTensor<float> result{view.shape, std::vector<float>(view.numel())};
  for (size_t i = 0; i < result.values.size(); ++i) result.values[i] = LoadFloat(view, i);
  return result;
}

ReferenceTensor<int64_t> ReferenceResult::Ints(std::string_view name) const {
  const TensorView view = View(name);
  if (view.dtype != DType::kI64) Fail(StrCat(file_->path(), ": ", name, " is ", DTypeName(view.dtype), ", not I64"));
  ReferenceTensor<int64_t> result{view.shape, std::vector<int64_t>(view.numel())};
  for (size_t i = 0; i < result.values.size(); ++i) result.values[i] = Load<int64_t>(view.data, i);
  return result;
}

Image ReferenceResult::Picture(std::string_view name) const {
  const TensorView view = View(name);
  if (view.dtype != DType::kU8 || view.shape.size() != 3 || view.shape[2] != 3) {
    Fail(StrCat(file_->path(), ": ", name, " is no picture"));
  }
  Image image;
  image.height = static_cast<int>(view.shape[0]);
  image.width = static_cast<int>(view.shape[1]);
  image.rgb.resize(view.bytes);
  std::memcpy(image.rgb.data(), view.data, view.bytes);
  return image;
}

std::vector<std::string> ReferenceResult::Names() const {
  std::vector<std::string> names;
  for (const auto& [name, entry] : file_->entries()) names.push_back(name);
  return names;
}

ReferenceResult ReferenceStages(std::string_view case_name, std::string_view dtype) {
  return ReferenceResult(ReferencePath(StrCat("results/", case_name, ".", dtype, ".safetensors")));
}

Image ReferenceImage(std::string_view case_name, std::string_view dtype) {
  return ReferenceResult(ReferencePath("results/images.safetensors")).Picture(StrCat(case_name, ".", dtype));
}

}  // namespace fresco
