#include "pipeline/precision/candidate_results.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <c10/core/ScalarType.h>
#include <c10/util/Exception.h>

#include <exception>
#include <utility>

#include "pipeline/base/strings.h"

namespace fresco {
namespace {

// Kernels that compute the same differ by the order of their sums and by a rounding to bf16 or two, which is half of
// this; what has read a wrong row or left out a scale differs by all of it.
constexpr double kSame = 1e-2;

template <typename Work>
absl::Status Catch(const Work& work) {
  try {
    return work();
  } catch (const c10::Error& error) {
    return absl::InternalError(error.what_without_backtrace());
  } catch (const std::exception& error) {
    return absl::InternalError(error.what());
  }
}

}  // namespace

double RelativeDistance(const at::Tensor& actual, const at::Tensor& expected) {
  const auto norm = [](const at::Tensor& x) {
    // The sum in fp32 at least, without a copy.
    return at::linalg_vector_norm(x, 2, std::nullopt, /*keepdim=*/false,
                                  c10::promoteTypes(x.scalar_type(), at::kFloat));
  };
  return (norm(actual - expected) / norm(expected)).item<double>();
}

KernelCandidate CandidateResults::Candidate(std::string name, std::function<at::Tensor()> run) {
  KernelCandidate candidate;
  candidate.name = std::move(name);
  candidate.run = [shared = shared_, run = std::move(run)] {
    return Catch([&] {
      shared->last.reset();  // its memory is free for the next result
      shared->last = run();
      return absl::OkStatus();
    });
  };
  candidate.check = [shared = shared_] {
    return Catch([&] {
      if (!shared->expected.defined()) {
        shared->expected = std::exchange(shared->last, at::Tensor());
        return absl::OkStatus();
      }
      const double distance = RelativeDistance(shared->last, shared->expected);
      if (distance < kSame) return absl::OkStatus();
      return absl::DataLossError(StrCat("its result is another by ", distance));
    });
  };
  return candidate;
}

}  // namespace fresco
