// A profiler that records what a test says, and writes down what was asked of it.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "pipeline/base/mutex.h"
#include "pipeline/engine/recording.h"

namespace fresco {

// Shared by the recorders that it makes. Thread-safe.
class FakeProfiler {
 public:
  // A step of 1 ms: a layer of 400 µs and 8e8 operations, one of 500 µs.
  static Recording StepRecording() {
    using Level = RecordedScope::Level;
    Recording recording;
    recording.scopes = {{Level::kStage, "step", 0, 1000000, 0, 0, ""},
                        {Level::kModule, "transformer", 0, 1000000, 0, 0, ""},
                        {Level::kLayer, "ff.net.2", 100000, 500000, 800000000, 4096, "bf16"},
                        {Level::kLayer, "norm_out", 500000, 1000000, 0, 64, "bf16"}};
    recording.trace = R"({"baseTimeNanoseconds":0,"traceEvents":[{"name":"step"}]})";
    return recording;
  }

  // The recorders live on in it.
  ProfilerSource source() {
    return {[this](const std::string& device, RecordedDetail detail) -> absl::StatusOr<std::unique_ptr<Recorder>> {
              Write(device + (detail == RecordedDetail::kLayers ? " layers" : " operations"));
              return std::make_unique<FakeRecorder>(this);
            },
            [this](const std::string& device,
                   const std::set<std::string>& dtypes) -> absl::StatusOr<std::map<std::string, double>> {
              Write("peaks of " + device);
              std::map<std::string, double> peaks;
              for (const std::string& dtype : dtypes) peaks[dtype] = 4e12;
              return peaks;
            },
            [this](const std::string& device) -> absl::StatusOr<double> {
              Write("bandwidth of " + device);
              MutexLock lock(&mutex_);
              return bandwidth_;
            }};
  }

  void SetBandwidth(absl::StatusOr<double> bandwidth) {
    MutexLock lock(&mutex_);
    bandwidth_ = std::move(bandwidth);
  }

  void FailToBegin(const absl::Status& status) {
    MutexLock lock(&mutex_);
    begin_ = status;
  }

  // "cpu layers", "begin", "end", "abandon", "peaks of cpu", "bandwidth of cpu", in order.
  std::vector<std::string> calls() const {
    MutexLock lock(&mutex_);
    return calls_;
  }

 private:
  class FakeRecorder final : public Recorder {
   public:
    explicit FakeRecorder(FakeProfiler* profiler) : profiler_(*profiler) {}
    ~FakeRecorder() override {
      if (begun_) profiler_.Write("abandon");
    }
    absl::Status Begin() override {
      profiler_.Write("begin");
      const absl::Status status = profiler_.begin_status();
      begun_ = status.ok();
      return status;
    }
    absl::StatusOr<Recording> End() override {
      begun_ = false;
      profiler_.Write("end");
      return StepRecording();
    }

   private:
    FakeProfiler& profiler_;
    bool begun_ = false;
  };

  void Write(const std::string& call) {
    MutexLock lock(&mutex_);
    calls_.push_back(call);
  }
  absl::Status begin_status() const {
    MutexLock lock(&mutex_);
    return begin_;
  }

  mutable Mutex mutex_;
  absl::Status begin_ FRESCO_GUARDED_BY(mutex_);
  absl::StatusOr<double> bandwidth_ FRESCO_GUARDED_BY(mutex_) = 1e9;
  std::vector<std::string> calls_ FRESCO_GUARDED_BY(mutex_);
};

}  // namespace fresco
