// Reads tests/reference: the cases, and what diffusers computes for them (tests/reference/README.md names every
// tensor).
//
// Paths are relative to the source folder, where tests run. Whatever is missing or unsound throws std::runtime_error
// with its reason: in a test that is a failure which says what is wrong.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "pipeline/checkpoint/safetensors.h"
#include "pipeline/engine/image_spec.h"
#include "pipeline/image/image.h"

namespace fresco {

// "tests/reference/" + name.
std::string ReferencePath(std::string_view name);

// One request that diffusers has drawn.
struct ReferenceCase {
  std::string name;
  std::string checkpoint;           // path of a diffusers folder
  std::string base;                 // path of the folder for what it lacks; empty: none
  std::vector<std::string> dtypes;  // "fp32", "bf16": the types it was drawn in
  std::vector<std::string> stages;  // those of which there is a ReferenceResult
  ImageSpec spec;
};

// All of tests/reference/cases.json, in its order.
std::vector<ReferenceCase> ReferenceCases();

// The case of that name.
ReferenceCase ReferenceCaseNamed(std::string_view name);

// A tensor's values, row-major.
template <typename T>
struct ReferenceTensor {
  std::vector<int64_t> shape;
  std::vector<T> values;
};

// One file of results. Immutable and thread-safe.
class ReferenceResult {
 public:
  explicit ReferenceResult(const std::string& path);

  bool Contains(std::string_view name) const { return file_->Contains(name); }
  // As it lies in the file.
  TensorView View(std::string_view name) const;
  // Of F32 or BF16.
  ReferenceTensor<float> Floats(std::string_view name) const;
  // Of I64.
  ReferenceTensor<int64_t> Ints(std::string_view name) const;
  // Of U8 [height, width, 3].
  Image Picture(std::string_view name) const;
  std::vector<std::string> Names() const;

 private:
  std::shared_ptr<const SafetensorsFile> file_;
};

// Stages of a case, drawn in "fp32" or "bf16".
ReferenceResult ReferenceStages(std::string_view case_name, std::string_view dtype);

// The finished picture of a case.
Image ReferenceImage(std::string_view case_name, std::string_view dtype);

}  // namespace fresco
