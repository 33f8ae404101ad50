// What is said of an image that a device has no memory for: who holds it, what it would have taken, what would make it
// fit. Torch-free.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "pipeline/base/memory_ledger.h"
#include "pipeline/engine/engine.h"

namespace fresco {

struct ShortageReport {
  std::string doing;   // "denoising", "decoding", "loading"
  std::string device;  // "cpu", "cuda:0"
  int width = 0;       // pixels, of the largest image; 0: there is none
  int height = 0;
  int batch = 1;                                 // images that were computed together
  bool predicted = false;                        // nothing has run out: it would have
  std::optional<MemoryShortage> shortage;        // nothing: the allocator has not said
  MemorySnapshot memory;                         // of afterwards, where `shortage` is nothing
  DeviceMemory whole;                            // of the device
  std::vector<ModelInfo::Component> components;  // of the model
  int64_t needed_bytes = 0;                      // that the model and the images take together; 0: not known
  std::string needed_for;                        // when it is the most: "decode"
  std::vector<std::string> remedies;             // settings with which they would fit, and what they take then
};

// Of the device, what a model could have for itself: the whole without what others hold, and without the latents and
// texts that it holds for others than the images in question, whose own are `state_bytes`.
int64_t AvailableBytes(const ShortageReport& report, const std::string& model, int64_t state_bytes);

// "decoding 1024x1024: out of memory on cpu: 12 MiB more were asked for, where 590 MiB of 600 MiB are taken. Needed:
// about 702 MiB (decoding). It would fit with: …. Held: transformer weights 300 MiB (fp8), …. Largest: …".
std::string Describe(const ShortageReport& report);

// RESOURCE_EXHAUSTED that says so, and carries for whoever passes it on what FindShortage finds.
absl::Status ShortageError(const ShortageReport& report);

// The same in bytes: "device", "asked", "taken", "limit", "needed" where it is known, and for each holder
// "held_transformer_weights". Empty where `status` is none of ShortageError's.
std::vector<std::pair<std::string, std::string>> FindShortage(const absl::Status& status);

}  // namespace fresco
