// Why an image did not fit into a device's memory by itself: who holds what there, and what to change.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fresco {

// Bytes of the device; 0: not known.
struct MemoryReport {
  struct Model {
    std::string name, precision;
    int64_t weight_bytes = 0;
  };
  std::string device;
  int64_t total_bytes = 0;
  int64_t free_bytes = 0;  // when memory had run out and the image's was given back
  std::vector<Model> models;
  int other_images = 0;  // on the device
  int64_t other_state_bytes = 0;
  int width = 0, height = 0;               // of the image, in pixels
  int64_t state_bytes = 0;                 // its latents and texts
  int64_t predicted_activation_bytes = 0;  // of its step
  int64_t seen_activation_bytes = 0;       // that it had when memory ran out
  bool decoding = false;                   // its steps were done
};

// One line: "cuda:0 has 24.0 GiB, of which 1.2 GiB are free; weights: large (bf16) 16.4 GiB; …. To change: …".
std::string Describe(const MemoryReport& report);

// "Beside it: 3 other images, with 36.0 MiB of latents and texts".
std::string DescribeBeside(const MemoryReport& report);

}  // namespace fresco
