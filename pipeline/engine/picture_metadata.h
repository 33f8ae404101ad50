// The texts that a finished picture carries, so that it can be drawn again from the file alone.
#pragma once

#include <string>

#include "pipeline/engine/engine.h"
#include "pipeline/engine/image_spec.h"
#include "pipeline/image/codec.h"

namespace fresco {

// How one image came to be.
struct ImageProvenance {
  std::string model;
  std::string weights_digest;
  std::string calibration_digest;  // empty: not calibrated, and left out
  std::string precision;
  std::string attention;  // ModelInfo's; empty: left out
  std::string device;
  std::string software;
  std::string sampler;
  ImageSpec spec;
  int batch_size_min = 0;  // images that shared a step with it, itself among them
  int batch_size_max = 0;
};

// What the model and the program bring to it; the image's own, `spec` and batch sizes, is left.
ImageProvenance ProvenanceOf(const ModelInfo& info, const std::string& software);

struct PictureMetadataOptions {
  bool prompts = true;  // whether the prompts are among them
};

// "parameters": the lines that AUTOMATIC1111's web UI writes and other programs read (prompt, "Negative prompt: …",
// then "Steps: …, Sampler: …, CFG scale: …, Seed: …, Size: …, Model: …"); "Software"; "fresco:provenance": all of it as
// one JSON object.
ImageMetadata PictureMetadata(const ImageProvenance& provenance, const PictureMetadataOptions& options);

}  // namespace fresco
