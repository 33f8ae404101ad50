// Models as people pass them on: one safetensors file with the transformer alone, or with text encoders and VAE too, in
// the layout of Stability AI and ComfyUI or in diffusers'.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "pipeline/checkpoint/weights.h"

namespace fresco {

// One open file. Immutable, thread-safe.
//
// Components are named as diffusers' folders: transformer, text_encoder (CLIP-L), text_encoder_2 (CLIP-G),
// text_encoder_3 (T5), vae. Whatever the file calls their tensors, they are found under the names that they have in
// those folders, and in that shape. Data stay in the file's mapping, but for the modulations whose halves diffusers has
// the other way round, and for the identity that CLIP-L projects with (in the original layout; a projection that such a
// file holds is not read, as by ComfyUI and diffusers).
//
// What belongs to a quantised layer comes with it, under the layer's name in diffusers: scales ("X.scale_weight",
// "X.weight_scale", "X.weight._scale"), which a fused layer's q, k and v share or take a third of each;
// "X.scale_input", "X.input_scale", "X.output_scale" and "X.comfy_quant", which they share, as they do whatever else
// has another number of rows than the weight; the marker "scaled_fp8", without prefix. In the store's metadata(),
// "_quantization_metadata" has diffusers' names for layers too, and those of the component alone.
//
// Tensors that no layout knows are left out.
class SingleFile {
 public:
  // As SafetensorsFile::Open; and INVALID_ARGUMENT, naming the file and tensors, for one in no known layout, with a
  // component twice, with a fused layer whose rows do not make three, with a scale that does not fit its weight or that
  // has none, or with quantisation metadata that is not as it should be.
  static absl::StatusOr<SingleFile> Open(const std::string& path);

  bool Has(std::string_view component) const { return components_.find(component) != components_.end(); }
  // NOT_FOUND, naming the file, for a component that it does not have.
  absl::StatusOr<WeightStore> Component(std::string_view name) const;

  std::vector<std::string> Components() const;  // that it has, sorted
  // The tensors that a component is made of, as the file names them, sorted; none where it does not have it.
  std::vector<std::string> StoredNames(std::string_view component) const;

  const SafetensorsFile& file() const { return *file_; }
  const std::string& path() const { return file_->path(); }

 private:
  struct Stored {
    WeightStore weights;
    std::vector<std::string> names;
  };

  SingleFile() = default;

  std::shared_ptr<const SafetensorsFile> file_;
  std::map<std::string, Stored, std::less<>> components_;
};

}  // namespace fresco
