// Row jobs (pipeline/kernels/row_jobs.h) computed on the CPU by the functions that GPUs run, on the CPU's memory.
#pragma once

#include <cstdint>

#include "pipeline/kernels/row_programs.h"
#include "tests/pipeline/kernels/host_team.h"

namespace fresco::kernels {

template <typename Type>
void RunOnHost(const NormModulateJob& job) {
  for (int64_t row = 0; row < job.shape.rows; ++row) {
    HostTeam team(RowLanes(job.shape.width));
    NormModulateRow<Type>(&team, job, row);
  }
}

template <typename Type>
void RunOnHost(const RowJob& job) {
  for (int64_t row = 0; row < job.shape.rows; ++row) {
    HostTeam team(RowLanes(job.shape.width));
    if (job.gelu) {
      QuantizeRow<Type, true>(&team, job, row);
    } else {
      QuantizeRow<Type, false>(&team, job, row);
    }
  }
}

template <typename Type>
void RunOnHost(const GateResidualJob& job) {
  for (int64_t index = 0; index < job.shape.rows * job.shape.width / kVector; ++index)
    GateResidualVector<Type>(job, index);
}

template <typename Type>
void RunOnHost(const DequantizeJob& job) {
  for (int64_t index = 0; index < job.shape.rows * job.shape.width / kVector; ++index)
    DequantizeVector<Type>(job, index);
}

template <typename Type>
void RunOnHost(const NormHeadsJob& job) {
  for (int64_t head = 0; head < HeadCount(job); ++head) {
    HostTeam team(HeadLanes(job));
    NormHead<Type>(&team, job, head);
  }
}

}  // namespace fresco::kernels
