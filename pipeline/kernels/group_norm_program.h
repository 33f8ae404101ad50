// GroupNorm over a channels-last image as what lanes do, in three passes one after the other: AddUpRun of each run's
// vectors, GroupStatistics of each group, NormaliseRun of each run's vectors. The first and the last go over the image
// once each. A convolution's bias moves the means alone. Shared by host and device code, as row_programs.h is, whose
// teams these are.
//
// Variances are sums of squared differences to means that are near: a run's to its first pixel, then the runs' means to
// their group's. So a group whose mean is far from zero loses nothing.
#pragma once

#include "pipeline/kernels/group_norm_job.h"
#include "pipeline/kernels/row_programs.h"

namespace fresco::kernels {

// Loads of a lane that are under way before the first is used.
constexpr int kPixelsAtOnce = 4;

// x / (1 + e^-x).
FRESCO_HOST_DEVICE float SiluOf(float x) {
  constexpr float kMinusLog2E = -1.44269504f;
  return Multiply(x, Reciprocal(1.0f + Exp2(Multiply(x, kMinusLog2E))));
}

// Of nothing: zeros.
template <typename Type>
FRESCO_HOST_DEVICE Vector<float> ChannelsOf(const void* values, int64_t vector) {
  Vector<float> wide{};
  if (values == nullptr) return wide;
  const Vector<typename Type::Storage> stored = LoadVector<typename Type::Storage>(values, vector);
  for (int c = 0; c < kVector; ++c) wide.element[c] = Type::Load(stored.element[c]);
  return wide;
}

// The pixels of a run.
FRESCO_HOST_DEVICE int64_t PixelsOf(const GroupNormJob& job, int64_t run) {
  return (job.pixels - run + job.runs - 1) / job.runs;
}

// Calls f(loaded, index) for the vector of each of a run's pixels: x's index-th. `lane` counts the vectors of all runs.
template <typename Type, typename F>
FRESCO_HOST_DEVICE void ForPixels(const GroupNormJob& job, int64_t lane, const F& f) {
  using Storage = typename Type::Storage;
  const int64_t vectors = job.channels / kVector, stride = job.runs * vectors, end = job.pixels * vectors;
  for (int64_t first = lane; first < end; first += kPixelsAtOnce * stride) {
    Vector<Storage> loaded[kPixelsAtOnce];
#if defined(__CUDA_ARCH__)
#pragma unroll
#endif
    for (int i = 0; i < kPixelsAtOnce; ++i)
      if (first + i * stride < end) loaded[i] = LoadVector<Storage>(job.x, first + i * stride);
#if defined(__CUDA_ARCH__)
#pragma unroll
#endif
    for (int i = 0; i < kPixelsAtOnce; ++i)
      if (first + i * stride < end) f(loaded[i], first + i * stride);
  }
}

// Of one vector of channels of one run.
template <typename Type>
FRESCO_HOST_DEVICE void AddUpRun(const GroupNormJob& job, int64_t lane) {
  using Storage = typename Type::Storage;
  const Vector<Storage> first = LoadVector<Storage>(job.x, lane);
  Vector<float> near, sums{}, squares{};
  for (int c = 0; c < kVector; ++c) near.element[c] = Type::Load(first.element[c]);
  ForPixels<Type>(job, lane, [&](const Vector<Storage>& x, int64_t) {
    for (int c = 0; c < kVector; ++c) {
      const float away = Type::Load(x.element[c]) - near.element[c];
      sums.element[c] += away;
      squares.element[c] = MultiplyAdd(away, away, squares.element[c]);
    }
  });
  const int64_t vectors = job.channels / kVector;
  const Vector<float> bias = ChannelsOf<Type>(job.x_bias, lane % vectors);
  const auto pixels = static_cast<float>(PixelsOf(job, lane / vectors));
  for (int c = 0; c < kVector; ++c) {
    const float mean = Divide(sums.element[c], pixels);
    const float beyond = squares.element[c] - Multiply(mean, sums.element[c]);
    near.element[c] = near.element[c] + mean + bias.element[c];
    squares.element[c] = beyond < 0 ? 0 : beyond;  // NaN stays
  }
  StoreVector(near, job.means, lane);
  StoreVector(squares, job.squares, lane);
}

// Of one group, by a team.
template <typename Type, class Team>
class GroupStatistics {
 public:
  FRESCO_HOST_DEVICE GroupStatistics(Team* team, const GroupNormJob& job, int group)
      : team_(team), job_(job), channels_(job.channels / job.groups), first_(group * channels_) {}

  FRESCO_HOST_DEVICE void Write() {
    const float elements = static_cast<float>(job_.pixels) * static_cast<float>(channels_);
    const float mean = Divide(Sum([](float own, float, float pixels) { return Multiply(own, pixels); }), elements);
    const float squares = Sum([mean](float own, float around, float pixels) {
      const float away = own - mean;
      return MultiplyAdd(Multiply(away, away), pixels, around);
    });
    const float inverse = Reciprocal(SquareRoot(Divide(squares, elements) + job_.eps));
    team_->ForEach([&](int lane) {
      for (int c = first_ + lane; c < first_ + channels_; c += team_->lanes()) {
        job_.affine[c] = job_.x_bias == nullptr ? mean : mean - Parameter(job_.x_bias, c);
        job_.affine[job_.channels + c] = Multiply(inverse, Parameter(job_.weight, c));
        job_.affine[2 * job_.channels + c] = Parameter(job_.bias, c);
      }
    });
  }

 private:
  // Of f(mean, squares, pixels) over the group's channels of all runs.
  template <typename F>
  FRESCO_HOST_DEVICE float Sum(const F& f) {
    typename Team::template PerLane<float> sums(*team_);
    team_->ForEach([&](int lane) {
      const int64_t count = job_.runs * channels_;
      for (int64_t i = lane; i < count; i += team_->lanes()) {
        const int64_t run = i / channels_, at = run * job_.channels + first_ + (i - run * channels_);
        sums[lane] += f(job_.means[at], job_.squares[at], static_cast<float>(PixelsOf(job_, run)));
      }
    });
    return team_->Reduce(sums, AddFloats());
  }

  FRESCO_HOST_DEVICE static float Parameter(const void* values, int channel) {
    return Type::Load(static_cast<const typename Type::Storage*>(values)[channel]);
  }

  Team* const team_;
  const GroupNormJob& job_;
  const int channels_, first_;
};

// One vector of channels of one run's pixels.
template <typename Type>
FRESCO_HOST_DEVICE void NormaliseRun(const GroupNormJob& job, int64_t lane) {
  using Storage = typename Type::Storage;
  const int64_t vectors = job.channels / kVector, own = lane % vectors;
  const Vector<float> mean = LoadVector<float>(job.affine, own);
  const Vector<float> scale = LoadVector<float>(job.affine, vectors + own);
  const Vector<float> shift = LoadVector<float>(job.affine, 2 * vectors + own);
  ForPixels<Type>(job, lane, [&](const Vector<Storage>& x, int64_t index) {
    float y[kVector];
    for (int c = 0; c < kVector; ++c) {
      y[c] = MultiplyAdd(Type::Load(x.element[c]) - mean.element[c], scale.element[c], shift.element[c]);
      if (job.silu) y[c] = SiluOf(y[c]);
    }
    StoreVector(Stored<Type>(y), job.out, index);
  });
}

// One vector of all pixels'.
template <typename Type>
FRESCO_HOST_DEVICE void AddImagesVector(const AddImagesJob& job, int64_t index) {
  using Storage = typename Type::Storage;
  const Vector<Storage> x = LoadVector<Storage>(job.x, index), y = LoadVector<Storage>(job.y, index);
  const Vector<float> bias = ChannelsOf<Type>(job.x_bias, index % (job.channels / kVector));
  float sum[kVector];
  for (int c = 0; c < kVector; ++c) sum[c] = Type::Load(x.element[c]) + bias.element[c] + Type::Load(y.element[c]);
  StoreVector(Stored<Type>(sum), job.out, index);
}

}  // namespace fresco::kernels
