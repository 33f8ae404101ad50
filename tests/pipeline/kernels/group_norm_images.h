// Images for tests of the group norm's kernel, and that kernel's programs run on the CPU's memory.
#pragma once

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>

#include <cstdint>
#include <limits>

#include "pipeline/kernels/group_norm_program.h"
#include "tests/pipeline/kernels/host_team.h"

namespace fresco::kernels {

struct ImageShape {
  int64_t pixels = 0, channels = 0, groups = 1;
};

// A job's tensors: what it works with and its result poisoned with NaN, so that what is not written is seen.
struct GroupNormTensors {
  GroupNormTensors(const ImageShape& shape, at::ScalarType type, double mean, uint64_t seed) : groups(shape.groups) {
    const at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
    const auto random = [&](at::IntArrayRef sizes) { return at::randn(sizes, generator, at::TensorOptions()); };
    x = random({shape.pixels, shape.channels}).add_(mean).to(type);
    weight = random({shape.channels}).to(type);
    bias = random({shape.channels}).to(type);
    x_bias = random({shape.channels}).to(type);
    constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
    const int64_t runs = GroupNormRuns(shape.pixels, shape.channels);
    means = at::full({runs, shape.channels}, kNaN);
    squares = at::full({runs, shape.channels}, kNaN);
    affine = at::full({3, shape.channels}, kNaN);
    out = at::full({shape.pixels, shape.channels}, kNaN, x.options());
  }

  // `biased`: x is a convolution's sums.
  GroupNormJob Job(bool silu, bool biased = false) const {
    GroupNormJob job;
    if (biased) job.x_bias = x_bias.const_data_ptr();
    job.pixels = x.size(0);
    job.runs = means.size(0);
    job.channels = static_cast<int32_t>(x.size(1));
    job.groups = static_cast<int32_t>(groups);
    job.x = x.const_data_ptr();
    job.weight = weight.const_data_ptr();
    job.bias = bias.const_data_ptr();
    job.eps = 1e-6f;
    job.silu = silu;
    job.means = means.mutable_data_ptr<float>();
    job.squares = squares.mutable_data_ptr<float>();
    job.affine = affine.mutable_data_ptr<float>();
    job.out = out.data_ptr();
    return job;
  }

  // out = x + x_bias + y.
  AddImagesJob SumWith(const at::Tensor& y, bool biased) const {
    return {x.size(0),          static_cast<int32_t>(x.size(1)),
            x.const_data_ptr(), biased ? x_bias.const_data_ptr() : nullptr,
            y.const_data_ptr(), out.data_ptr()};
  }

  int64_t groups;
  at::Tensor x, weight, bias, x_bias, means, squares, affine, out;
};

template <typename Type>
void RunOnHost(const GroupNormJob& job) {
  constexpr int kThreads = 256;  // of the GPU's blocks
  const int64_t lanes = job.runs * (job.channels / kVector);
  for (int64_t lane = 0; lane < lanes; ++lane) AddUpRun<Type>(job, lane);
  for (int group = 0; group < job.groups; ++group) {
    HostTeam team(kThreads);
    GroupStatistics<Type, HostTeam>(&team, job, group).Write();
  }
  for (int64_t lane = 0; lane < lanes; ++lane) NormaliseRun<Type>(job, lane);
}

template <typename Type>
void RunOnHost(const AddImagesJob& job) {
  for (int64_t index = 0; index < job.pixels * (job.channels / kVector); ++index) AddImagesVector<Type>(job, index);
}

}  // namespace fresco::kernels
