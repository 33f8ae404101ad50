// Draws one image for each line on standard input and answers with the seconds it took, so that another program can be
// measured alternately with it (against_diffusers.py). draw_on_demand MODEL PRECISION THREADS
// A line: WIDTH HEIGHT STEPS GUIDANCE SEED PROMPT...
#include <chrono>
#include <cstdlib>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "pipeline/engine/engine.h"
#include "pipeline/engine/load.h"

namespace {

fresco::ImageSpec ParseSpec(const std::string& line, const fresco::ModelInfo& info) {
  fresco::ImageSpec spec;
  std::istringstream words(line);
  words >> spec.width >> spec.height >> spec.steps >> spec.guidance_scale >> spec.seed >> std::ws;
  std::getline(words, spec.prompt);
  spec.max_sequence_length = info.default_max_sequence_length;
  return spec;
}

absl::Status Draw(fresco::Engine& engine, const fresco::ImageSpec& spec) {
  auto job = engine.Prepare(spec);
  if (!job.ok()) return job.status();
  std::vector<fresco::ImageJob*> batch = {job->get()};
  while (!batch[0]->done()) {
    if (absl::Status status = engine.Step(batch)[0]; !status.ok()) return status;
  }
  return engine.Finish(**job).status();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: draw_on_demand MODEL PRECISION THREADS\n";
    return 2;
  }
  fresco::LoadOptions options;
  options.name = "bench";
  options.path = argv[1];
  options.precision = argv[2];
  options.threads = std::atoi(argv[3]);
  options.prompt_cache_bytes = 0;  // diffusers has none either
  auto engine = fresco::LoadEngine(options);
  if (!engine.ok()) {
    std::cerr << engine.status() << "\n";
    return 1;
  }
  for (std::string line; std::getline(std::cin, line);) {
    const auto begin = std::chrono::steady_clock::now();
    if (absl::Status status = Draw(**engine, ParseSpec(line, (*engine)->info())); !status.ok()) {
      std::cerr << status << "\n";
      return 1;
    }
    std::cout << std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() << std::endl;
  }
  return 0;
}
