// The row kernels, each as what a team of lanes does to one row. On a GPU a lane is a thread (cuda/device_team.cuh); in
// tests one thread plays all lanes of a team in turn (tests/pipeline/kernels/host_team.h), so that loads, guards, the
// order of sums and stores are executed there as they are on a GPU. Shared by host and device code.
//
// A Team has
//
// - Team::PerLane<T>: a T for each lane.
// - team.lanes(): how many there are.
// - team.ForEach(f): calls f(lane) for each lane.
// - team.Reduce(values, op): of a PerLane<T>, T four bytes wide, the same for every lane: lanes l and l + d are joined
//   for d = 16, 8, 4, 2, 1 within each 32 (fewer lanes: from half their number on), then the results of the 32s one
//   after the other. Any op that is commutative.
// - team.Add(counter, count): counter += count, once for the team.
#pragma once

#include "pipeline/kernels/row_jobs.h"
#include "pipeline/kernels/row_math.h"

namespace fresco::kernels {

constexpr int kWarp = 32;
constexpr int kVectorsPerLane = 4;

// Lanes that work on a row, whole warps: as few as hold it.
FRESCO_HOST_DEVICE int RowLanes(int width) {
  const int lanes = (width / kVector + kVectorsPerLane - 1) / kVectorsPerLane;
  return (lanes + kWarp - 1) / kWarp * kWarp;
}

// What a lane holds of a row: its vector v is the row's vector v * lanes + lane.
struct LaneValues {
  float value[kVectorsPerLane][kVector];
};

// Moves in one load or store (two where it is wider than 16 bytes).
template <typename T>
struct alignas(sizeof(T) * kVector < 16 ? sizeof(T) * kVector : 16) Vector {
  T element[kVector];
};

template <typename T>
FRESCO_HOST_DEVICE Vector<T> LoadVector(const void* data, int64_t index) {
  return static_cast<const Vector<T>*>(data)[index];
}

template <typename Type>
FRESCO_HOST_DEVICE Vector<typename Type::Storage> Stored(const float* values) {
  Vector<typename Type::Storage> stored;
  for (int i = 0; i < kVector; ++i) stored.element[i] = Type::Store(values[i]);
  return stored;
}

template <typename T>
FRESCO_HOST_DEVICE void StoreVector(const Vector<T>& vector, void* data, int64_t index) {
  static_cast<Vector<T>*>(data)[index] = vector;
}

struct AddFloats {
  FRESCO_HOST_DEVICE float operator()(float a, float b) const { return a + b; }
};
struct AddCounts {
  FRESCO_HOST_DEVICE uint32_t operator()(uint32_t a, uint32_t b) const { return a + b; }
};
struct Larger {
  FRESCO_HOST_DEVICE uint32_t operator()(uint32_t a, uint32_t b) const { return a > b ? a : b; }
};

// Calls f(v, index) for each vector that the lane has: its v-th is the row's index-th.
template <typename F>
FRESCO_HOST_DEVICE void ForVectors(int lane, int lanes, int width, const F& f) {
#if defined(__CUDA_ARCH__)
#pragma unroll
#endif
  for (int v = 0; v < kVectorsPerLane; ++v) {
    const int index = v * lanes + lane;
    if (index < width / kVector) f(v, index);
  }
}

FRESCO_HOST_DEVICE int64_t SampleOf(const RowShape& shape, int64_t row) {
  return shape.sample_of_row != nullptr ? shape.sample_of_row[row] : row / shape.rows_per_sample;
}

// One row of a job, its values spread over the lanes of a team.
template <typename Type, class Team>
class RowOf {
 public:
  using Storage = typename Type::Storage;

  FRESCO_HOST_DEVICE RowOf(Team* team, const RowShape& shape, int64_t row)
      : team_(team),
        width_(shape.width),
        row_(row),
        rows_per_sample_(shape.rows_per_sample),
        sample_(SampleOf(shape, row)) {}

  // sample_rows: from one sample's first row in x to the next one's.
  FRESCO_HOST_DEVICE void Load(const void* x, int64_t sample_rows) {
    const int64_t row = row_ + sample_ * (sample_rows - rows_per_sample_);
    ForAll([&](LaneValues& own, int v, int index) {
      const Vector<Storage> loaded = LoadVector<Storage>(x, row * (width_ / kVector) + index);
      for (int i = 0; i < kVector; ++i) own.value[v][i] = Type::Load(loaded.element[i]);
    });
  }

  // x + gate * branch, rounded, which is also written to `sum`.
  FRESCO_HOST_DEVICE void AddBranch(const void* branch, const SampleVectors& gate, void* sum) {
    ForAll([&](LaneValues& own, int v, int index) {
      const Vector<Storage> branches = LoadVector<Storage>(branch, AtRow(index));
      const Vector<Storage> gates = LoadVector<Storage>(OfSample(gate), index);
      for (int i = 0; i < kVector; ++i)
        own.value[v][i] =
            Rounded<Type>(Gated(own.value[v][i], Type::Load(gates.element[i]), Type::Load(branches.element[i])));
      StoreVector(fresco::kernels::Stored<Type>(own.value[v]), sum, AtRow(index));
    });
  }

  // LayerNorm by the mean and then the mean square of the differences to it; each lane adds up its own in order.
  FRESCO_HOST_DEVICE void NormModulate(const SampleVectors& scale, const SampleVectors& shift, float eps) {
    const float mean = Divide(Sum([](float x) { return x; }), static_cast<float>(width_));
    const float squares = Sum([mean](float x) { return Multiply(x - mean, x - mean); });
    const float inverse = InverseDeviation(squares, width_, eps);
    ForAll([&](LaneValues& own, int v, int index) {
      const Vector<Storage> scales = LoadVector<Storage>(OfSample(scale), index);
      const Vector<Storage> shifts = LoadVector<Storage>(OfSample(shift), index);
      for (int i = 0; i < kVector; ++i)
        own.value[v][i] =
            NormModulated(own.value[v][i], mean, inverse, Type::Load(scales.element[i]), Type::Load(shifts.element[i]));
    });
  }

  FRESCO_HOST_DEVICE void Gelu() {
    ForAll([&](LaneValues& own, int v, int) {
      for (int i = 0; i < kVector; ++i) own.value[v][i] = GeluTanhOf(own.value[v][i]);
    });
  }

  // The last: writes what the row has become.
  FRESCO_HOST_DEVICE void Finish(const RowOutput& out) {
    if (out.multiplier != nullptr) Migrate(out.multiplier);
    if (out.format == RowFormat::kPlain) {
      ForAll([&](LaneValues& own, int v, int index) {
        StoreVector(fresco::kernels::Stored<Type>(own.value[v]), out.values, AtRow(index));
      });
      return;
    }
    const bool e4m3 = out.format == RowFormat::kE4M3;
    const float largest = e4m3 ? kE4M3Largest : kInt8Largest, absmax = AbsMax();
    const float scale = ScaleOf(out, absmax, largest);
    if (out.saturated != nullptr && out.fixed_scale > 0 && !out.guard)
      CountSaturated(absmax, Multiply(out.fixed_scale, largest), out.saturated);
    team_->ForEach([&](int lane) {
      if (lane == 0) out.scales[row_] = scale;
    });
    const float inverse = InverseScale(scale);
    if (!e4m3) {
      StoreInt8(inverse, out.values);
    } else if (absmax <= FLT_MAX) {
      StoreE4M3(inverse, out.values);
    } else {
      StoreE4M3OfAny(inverse, out.values);
    }
  }

 private:
  // Calls f(own, v, index) for each vector of each lane; see ForVectors.
  template <typename F>
  FRESCO_HOST_DEVICE void ForAll(const F& f) {
    team_->ForEach([&](int lane) {
      ForVectors(lane, team_->lanes(), width_, [&](int v, int index) { f(values_[lane], v, index); });
    });
  }

  template <typename F>
  FRESCO_HOST_DEVICE float Sum(const F& f) {
    typename Team::template PerLane<float> sums(*team_);
    ForAllInto(&sums, [&](float& sum, const float* x) {
      for (int i = 0; i < kVector; ++i) sum += f(x[i]);
    });
    return team_->Reduce(sums, AddFloats());
  }

  // Calls f(result, values) for each vector of each lane, with the lane's result, which begins as zero.
  template <typename T, typename F>
  FRESCO_HOST_DEVICE void ForAllInto(T* results, const F& f) {
    team_->ForEach([&](int lane) {
      auto& result = (*results)[lane];
      ForVectors(lane, team_->lanes(), width_, [&](int v, int) { f(result, values_[lane].value[v]); });
    });
  }

  FRESCO_HOST_DEVICE void Migrate(const float* multiplier) {
    ForAll([&](LaneValues& own, int v, int index) {
      const Vector<float> multipliers = LoadVector<float>(multiplier, index);
      for (int i = 0; i < kVector; ++i) own.value[v][i] = Multiply(own.value[v][i], multipliers.element[i]);
    });
  }

  FRESCO_HOST_DEVICE float AbsMax() {
    typename Team::template PerLane<uint32_t> largest(*team_);
    ForAllInto(&largest, [](uint32_t& most, const float* x) {
      for (int i = 0; i < kVector; ++i) most = Larger()(most, MagnitudeBits(x[i]));
    });
    return FloatOfBits(team_->Reduce(largest, Larger()));
  }

  FRESCO_HOST_DEVICE static float ScaleOf(const RowOutput& out, float absmax, float largest) {
    const bool fits = absmax <= Multiply(out.fixed_scale, largest);
    const bool saturates = !out.guard && absmax <= FLT_MAX;
    return out.fixed_scale > 0 && (fits || saturates) ? out.fixed_scale : RowScale(absmax, largest);
  }

  // No sum over a row of which none saturates.
  FRESCO_HOST_DEVICE void CountSaturated(float absmax, float limit, unsigned long long* counter) {
    if (absmax <= limit || !(absmax <= FLT_MAX)) return;
    typename Team::template PerLane<uint32_t> counts(*team_);
    ForAllInto(&counts, [limit](uint32_t& count, const float* x) {
      for (int i = 0; i < kVector; ++i) count += MagnitudeBits(x[i]) > FloatBits(limit) ? 1 : 0;
    });
    team_->Add(counter, team_->Reduce(counts, AddCounts()));
  }

  FRESCO_HOST_DEVICE void StoreE4M3(float inverse, void* codes) {
    ForAll([&](LaneValues& own, int v, int index) {
      CodeVector packed;
      packed.four[0] = FourE4M3Codes(own.value[v], inverse);
      packed.four[1] = FourE4M3Codes(own.value[v] + 4, inverse);
      static_cast<CodeVector*>(codes)[AtRow(index)] = packed;
    });
  }

  // Of a row in which something is NaN or infinite.
  FRESCO_HOST_DEVICE void StoreE4M3OfAny(float inverse, void* codes) {
    ForAll([&](LaneValues& own, int v, int index) {
      Vector<uint8_t> packed;
      for (int i = 0; i < kVector; ++i) packed.element[i] = E4M3Code(own.value[v][i], inverse);
      StoreVector(packed, codes, AtRow(index));
    });
  }

  FRESCO_HOST_DEVICE void StoreInt8(float inverse, void* codes) {
    ForAll([&](LaneValues& own, int v, int index) {
      Vector<int8_t> packed;
      for (int i = 0; i < kVector; ++i) packed.element[i] = Int8Code(own.value[v][i], inverse);
      StoreVector(packed, codes, AtRow(index));
    });
  }

  // The row's index-th vector among all rows'.
  FRESCO_HOST_DEVICE int64_t AtRow(int index) const { return row_ * (width_ / kVector) + index; }
  FRESCO_HOST_DEVICE const Storage* OfSample(const SampleVectors& vectors) const {
    return static_cast<const Storage*>(vectors.data) + sample_ * vectors.stride;
  }

  struct alignas(8) CodeVector {
    uint32_t four[2];
  };

  Team* const team_;
  const int width_;
  const int64_t row_, rows_per_sample_, sample_;
  typename Team::template PerLane<LaneValues> values_{*team_};
};

// ---- the programs ---------------------------------------------------------------------------------------------------

template <typename Type, class Team>
FRESCO_HOST_DEVICE void NormModulateRow(Team* team, const NormModulateJob& job, int64_t row) {
  RowOf<Type, Team> values(team, job.shape, row);
  values.Load(job.x, job.shape.rows_per_sample);
  if (job.branch != nullptr) values.AddBranch(job.branch, job.gate, job.sum);
  values.NormModulate(job.scale, job.shift, job.eps);
  values.Finish(job.out);
}

template <typename Type, bool kGelu, class Team>
FRESCO_HOST_DEVICE void QuantizeRow(Team* team, const RowJob& job, int64_t row) {
  RowOf<Type, Team> values(team, job.shape, row);
  values.Load(job.x, job.x_sample_rows);
  if (kGelu) values.Gelu();
  values.Finish(job.out);
}

// One vector of a job: `index` counts them over all rows.
template <typename Type>
FRESCO_HOST_DEVICE void GateResidualVector(const GateResidualJob& job, int64_t index) {
  using Storage = typename Type::Storage;
  const int vectors = job.shape.width / kVector;
  const int64_t row = index / vectors, sample = SampleOf(job.shape, row);
  const Storage* const gates = static_cast<const Storage*>(job.gate.data) + sample * job.gate.stride;
  const Vector<Storage> x = LoadVector<Storage>(job.x, index), branch = LoadVector<Storage>(job.branch, index);
  const Vector<Storage> gate = LoadVector<Storage>(gates, index - row * vectors);
  Vector<Storage> sum;
  for (int i = 0; i < kVector; ++i)
    sum.element[i] =
        Type::Store(Gated(Type::Load(x.element[i]), Type::Load(gate.element[i]), Type::Load(branch.element[i])));
  StoreVector(sum, job.sum, index);
}

template <typename Type>
FRESCO_HOST_DEVICE void DequantizeVector(const DequantizeJob& job, int64_t index) {
  using Storage = typename Type::Storage;
  const int vectors = job.shape.width / kVector;
  const int64_t row = index / vectors, column = index - row * vectors;
  const Vector<int32_t> sums = LoadVector<int32_t>(job.sums, index);
  const Vector<float> scales = LoadVector<float>(job.column_scales, column);
  const float row_scale = job.row_scales[row];
  Vector<Storage> bias{};
  if (job.bias != nullptr) bias = LoadVector<Storage>(job.bias, column);
  Vector<Storage> out;
  for (int i = 0; i < kVector; ++i) {
    const float value = Dequantized(static_cast<float>(sums.element[i]), row_scale, scales.element[i]);
    out.element[i] = Type::Store(job.bias != nullptr ? value + Type::Load(bias.element[i]) : value);
  }
  StoreVector(out, job.out, index);
}

// The lanes that work on one head, and the heads of a job: q's, k's and v's of each row.
FRESCO_HOST_DEVICE int HeadLanes(const NormHeadsJob& job) {
  return job.head_dim / kVector;
}
FRESCO_HOST_DEVICE int64_t HeadCount(const NormHeadsJob& job) {
  return job.rows * 3 * job.heads;
}

// The token in `out` that a row becomes.
FRESCO_HOST_DEVICE int64_t TargetOf(const NormHeadsJob& job, int64_t row) {
  if (job.out_rows != nullptr) return job.out_rows[row];
  const int64_t sample = row / job.rows_per_sample, token = row - sample * job.rows_per_sample;
  return sample * job.out_tokens + job.first_token + token;
}

// One head, of HeadLanes lanes, each of which has one vector. `head` counts them over all rows, q's before k's before
// v's.
template <typename Type, class Team>
FRESCO_HOST_DEVICE void NormHead(Team* team, const NormHeadsJob& job, int64_t head) {
  using Storage = typename Type::Storage;
  const int64_t row = head / (3 * job.heads), own = head - row * 3 * job.heads;
  const void* const weight = own < job.heads ? job.norm_q : own < 2 * job.heads ? job.norm_k : nullptr;
  const int lanes = HeadLanes(job);
  typename Team::template PerLane<Vector<float>> values(*team);
  typename Team::template PerLane<float> squares(*team);
  team->ForEach([&](int lane) {
    const Vector<Storage> loaded = LoadVector<Storage>(job.qkv, head * lanes + lane);
    for (int i = 0; i < kVector; ++i) {
      const float x = Type::Load(loaded.element[i]);
      values[lane].element[i] = x;
      squares[lane] += Multiply(x, x);
    }
  });
  const float inverse = InverseDeviation(team->Reduce(squares, AddFloats()), job.head_dim, job.eps);
  team->ForEach([&](int lane) {
    float* const x = values[lane].element;
    if (weight != nullptr) {
      const Vector<Storage> weights = LoadVector<Storage>(weight, lane);
      for (int i = 0; i < kVector; ++i) x[i] = Multiply(Multiply(x[i], inverse), Type::Load(weights.element[i]));
    } else if (job.out == job.qkv) {
      return;
    }
    // Here, as not all teams have a row.
    const int64_t target = TargetOf(job, row) * 3 * job.heads + own;
    StoreVector(Stored<Type>(x), job.out, target * lanes + lane);
  });
}

}  // namespace fresco::kernels
