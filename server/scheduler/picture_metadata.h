// The texts that a finished picture carries, so that it can be drawn again from the file alone.
#pragma once

#include "pipeline/image/codec.h"
#include "server/scheduler/events.h"

namespace fresco {

struct PictureMetadataOptions {
  bool prompts = true;  // whether the prompts are among them
};

// "parameters": the lines that AUTOMATIC1111's web UI writes and other programs read (prompt, "Negative prompt: …",
// then "Steps: …, Sampler: …, CFG scale: …, Seed: …, Size: …, Model: …"); "Software"; "fresco:provenance": all of it as
// one JSON object.
ImageMetadata PictureMetadata(const ImageProvenance& provenance, const PictureMetadataOptions& options);

}  // namespace fresco
