// What `profile` prints.
#pragma once

#include <string>
#include <vector>

#include "pipeline/engine/layer_times.h"
#include "pipeline/engine/memory_timeline.h"
#include "pipeline/tool/layer_report.h"

namespace fresco {

struct ProfiledStage {
  StageTimes times;
  double plain_seconds = 0;  // of a call without the profiler: the median of as many
  double overhead = 0;       // what the profiler adds to a call, as a share: the median over calls in turns

  // What the rows of its table add up to, by the call without the profiler.
  double sum_by_plain() const { return sum_seconds() / plain_seconds; }
  double sum_seconds() const { return times.layer_seconds() + times.outside_seconds + times.idle_seconds; }
};

struct ProfileReport {
  std::string model, device, precision;
  int width = 0, height = 0, batch = 1;
  float guidance = 0;
  std::vector<ProfiledStage> stages;
  MemoryHistory memory;  // of a call of each stage
  MeasuredLimits limits;
  std::string trace;  // the file that was written; empty: none
};

// Tables for people: each stage as PrintLayers has it.
void PrintProfile(const ProfileReport& report, int top);
// One JSON object: everything.
void PrintProfileAsJson(const ProfileReport& report);

}  // namespace fresco
