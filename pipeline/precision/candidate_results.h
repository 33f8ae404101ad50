// Candidates for a measurement (kernel_choice.h) whose results are compared with the first one's.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <string>

#include "pipeline/precision/kernel_choice.h"

namespace fresco {

class CandidateResults {
 public:
  // `run` enqueues the candidate's work and returns what it will make; libtorch's exceptions become an error's words.
  // The candidates share what this object holds, which it need not outlive.
  KernelCandidate Candidate(std::string name, std::function<at::Tensor()> run);

 private:
  struct Shared {
    at::Tensor expected, last;
  };
  const std::shared_ptr<Shared> shared_ = std::make_shared<Shared>();
};

// |actual - expected| / |expected|, Euclidean; NaN where either has one.
double RelativeDistance(const at::Tensor& actual, const at::Tensor& expected);

}  // namespace fresco
