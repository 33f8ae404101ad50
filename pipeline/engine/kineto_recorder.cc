#include <ATen/core/ivalue.h>
#include <kineto/ActivityType.h>
#include <stdlib.h>
#include <torch/csrc/autograd/profiler_kineto.h>

#include <cstdlib>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "pipeline/base/status.h"
#include "pipeline/base/temporary_folder.h"
#include "pipeline/checkpoint/text_file.h"
#include "pipeline/engine/device.h"
#include "pipeline/engine/profiler.h"
#include "pipeline/engine/scope_recorder.h"
#include "pipeline/engine/torch_boundary.h"
#include "pipeline/precision/layer_scope.h"

namespace fresco {
namespace {

namespace kineto = torch::autograd::profiler;
using torch::profiler::impl::ActivityType;
using torch::profiler::impl::ProfilerConfig;
using torch::profiler::impl::ProfilerState;

bool Is(const kineto::KinetoEvent& event, libkineto::ActivityType type) {
  return event.activityType() == static_cast<uint8_t>(type);
}

using Arguments = std::unordered_map<std::string, c10::IValue>;

std::string TextOf(const Arguments& arguments, const char* name) {
  const auto found = arguments.find(name);
  return found != arguments.end() && found->second.isString() ? found->second.toStringRef() : "";
}

int64_t NumberOf(const Arguments& arguments, const char* name) {
  const auto found = arguments.find(name);
  return found != arguments.end() && found->second.isInt() ? found->second.toInt() : 0;
}

// Nothing for what is no scope of ours.
std::optional<RecordedScope::Level> LevelOf(const Arguments& arguments) {
  using Level = RecordedScope::Level;
  const std::string name = TextOf(arguments, kLevelArgument);
  for (const Level level : {Level::kStage, Level::kModule, Level::kLayer}) {
    if (name == LevelName(level)) return level;
  }
  return std::nullopt;
}

void AddScope(const kineto::KinetoEvent& event, std::vector<RecordedScope>* scopes) {
  const Arguments arguments = event.kwinputs();
  const std::optional<RecordedScope::Level> level = LevelOf(arguments);
  if (!level) return;
  scopes->push_back({*level, event.name(), static_cast<int64_t>(event.startNs()), static_cast<int64_t>(event.endNs()),
                     NumberOf(arguments, kFlopsArgument), NumberOf(arguments, kBytesArgument),
                     TextOf(arguments, kDtypeArgument)});
}

// What ran on a GPU for one of the thread's operations, our own among them (KernelScope); an operation lies within one
// layer. What other threads had the GPU do meanwhile has none.
std::vector<RecordedKernel> KernelsOf(const std::vector<kineto::KinetoEvent>& events) {
  using Type = libkineto::ActivityType;
  std::unordered_map<uint64_t, int64_t> operations;  // when each began
  for (const kineto::KinetoEvent& event : events) {
    if (Is(event, Type::CPU_OP)) operations[event.correlationId()] = static_cast<int64_t>(event.startNs());
  }
  std::vector<RecordedKernel> kernels;
  for (const kineto::KinetoEvent& event : events) {
    if (!Is(event, Type::CONCURRENT_KERNEL) && !Is(event, Type::GPU_MEMCPY) && !Is(event, Type::GPU_MEMSET)) continue;
    const auto operation = operations.find(event.linkedCorrelationId());
    if (operation == operations.end()) continue;
    kernels.push_back({operation->second, static_cast<int64_t>(event.startNs()), static_cast<int64_t>(event.endNs())});
  }
  return kernels;
}

class KinetoRecorder final : public Recorder {
 public:
  KinetoRecorder(const at::Device& device, RecordedDetail detail) : device_(device), detail_(detail) {
    if (device.is_cuda()) activities_.insert(ActivityType::CUDA);
  }

  // What has begun and does not end would go on.
  ~KinetoRecorder() override {
    if (begun_) CatchTorch("profiling", [] { return kineto::disableProfiler(), absl::OkStatus(); }).IgnoreError();
  }

  absl::Status Begin() override {
    return CatchTorch("profiling", [&] {
      Synchronize(device_);  // what was asked for before is not what is to be seen
      kineto::prepareProfiler(config_, activities_);
      kineto::enableProfiler(config_, activities_);
      begun_ = true;
      return absl::OkStatus();
    });
  }

  absl::StatusOr<Recording> End() override {
    return CatchTorch("profiling", [&]() -> absl::StatusOr<Recording> {
      const absl::Status finished = CatchTorch("profiling", [&] {
        Synchronize(device_);
        return absl::OkStatus();
      });
      begun_ = false;
      const auto result = kineto::disableProfiler();  // whatever has become of the device
      FRESCO_RETURN_IF_ERROR(finished);
      Recording recording;
      recording.on_device = device_.is_cuda();
      for (const kineto::KinetoEvent& event : result->events()) {
        if (Is(event, libkineto::ActivityType::USER_ANNOTATION)) AddScope(event, &recording.scopes);
      }
      if (recording.on_device) recording.kernels = KernelsOf(result->events());
      if (detail_ == RecordedDetail::kOperations) {
        FRESCO_ASSIGN_OR_RETURN(recording.trace, TraceOf(*result));
      }
      return recording;
    });
  }

 private:
  // Kineto writes to files alone.
  static absl::StatusOr<std::string> TraceOf(kineto::ProfilerResult& result) {
    FRESCO_ASSIGN_OR_RETURN(const TemporaryFolder folder, TemporaryFolder::Make("trace"));
    const std::string path = folder.File("trace.json");
    result.save(path);
    return ReadTextFile(path, kMaxTraceBytes);
  }

  static constexpr size_t kMaxTraceBytes = size_t{1} << 30;

  const at::Device device_;
  const RecordedDetail detail_;
  std::set<ActivityType> activities_ = {ActivityType::CPU};
  // Without the inputs a scope's arguments are not kept.
  const ProfilerConfig config_{ProfilerState::KINETO, /*report_input_shapes=*/true};
  bool begun_ = false;
};

}  // namespace

void QuietProfiler() {
  setenv("KINETO_LOG_LEVEL", "99", /*overwrite=*/0);
}

absl::StatusOr<std::unique_ptr<Recorder>> MakeRecorder(const std::string& device, RecordedDetail detail,
                                                       const Clock* clock) {
  return CatchTorch(device, [&]() -> absl::StatusOr<std::unique_ptr<Recorder>> {
    const at::Device of(device);
    if (of.is_cpu() && detail == RecordedDetail::kLayers) return MakeScopeRecorder(clock);
    return std::make_unique<KinetoRecorder>(of, detail);
  });
}

}  // namespace fresco
