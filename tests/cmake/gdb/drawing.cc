// What drawing_test.py looks at: the model that ships, drawing a picture. The files of the step itself are compiled
// into this program for the debugger, the rest of the engine is as ever.
//
//   gdb_drawing FACTS.json    draws two steps in FP8; after each, says by ATen what the latents are
#include <ATen/ATen.h>

#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "pipeline/engine/diffusion_job.h"
#include "pipeline/precision/quantized_linear.h"
#include "tests/support/demo_model.h"

namespace fresco {
namespace {

nlohmann::json Facts(const DiffusionJob& job) {
  const at::Tensor latents = job.state().latents.to(at::kDouble);
  return {{"step", job.step()},
          {"sigma", job.sigma()},
          // "float" is what the rest of the world calls float32.
          {"type", job.state().latents.scalar_type() == at::kFloat ? "float32"
                                                                   : c10::toString(job.state().latents.scalar_type())},
          {"shape", latents.sizes().vec()},
          {"min", latents.min().item<double>()},
          {"max", latents.max().item<double>()}};
}

int Draw(const char* path) {
  const std::unique_ptr<Engine> engine = LoadDemo("fp8", /*threads=*/1);
  ImageSpec spec = DeterministicSpec("a red apple", 64, 64, 2, 4.5F, 41);
  std::unique_ptr<ImageJob> job = engine->Prepare(spec).value();
  nlohmann::json facts = {Facts(static_cast<const DiffusionJob&>(*job))};
  while (!job->done()) {
    if (const absl::Status status = engine->Step({job.get()}).front(); !status.ok()) {
      std::cerr << status << "\n";
      return 1;
    }
    facts.push_back(Facts(static_cast<const DiffusionJob&>(*job)));
  }
  std::ofstream(path) << facts;
  return 0;
}

}  // namespace
}  // namespace fresco

int main(int argc, char** argv) {
  return argc == 2 ? fresco::Draw(argv[1]) : 2;
}
