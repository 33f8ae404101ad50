#include "pipeline/engine/cuda_runtime.h"

#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/util/Exception.h>
#include <dlfcn.h>

#include <exception>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <utility>

#include "pipeline/base/mutex.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/engine/capture_turn.h"
#include "pipeline/engine/load.h"
#include "pipeline/kernels/cuda_library.h"

namespace fresco {
namespace {

absl::Status Open() {
  // Global and for good: its kernels and hooks register themselves with libtorch_cpu when it is loaded.
  if (dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) != nullptr) return absl::OkStatus();
  const char* const reason = dlerror();
  return absl::UnavailableError(StrCat("libtorch_cuda.so: ", reason == nullptr ? "cannot be loaded" : reason));
}

using MakeGraphs = GraphMaker* (*)(int device, bool first);

absl::StatusOr<MakeGraphs> FindGraphs() {
  FRESCO_RETURN_IF_ERROR(LoadCuda());
  const std::filesystem::path path =
      std::filesystem::path(CudaLibrary::DefaultPath()).replace_filename("libfresco_cuda_graph.so");
  std::error_code error;
  if (!std::filesystem::exists(path, error))
    return absl::NotFoundError(StrCat(path.string(), ": this build has no CUDA graphs"));
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  void* const make = library == nullptr ? nullptr : dlsym(library, "fresco_cuda_graph_maker");
  if (make == nullptr) return absl::FailedPreconditionError(StrCat(path.string(), ": ", dlerror()));
  return reinterpret_cast<MakeGraphs>(make);
}

// Waits for the device as it goes.
class TurnTakingGraph final : public DeviceGraph {
 public:
  explicit TurnTakingGraph(std::unique_ptr<DeviceGraph> graph) : graph_(std::move(graph)) {}
  ~TurnTakingGraph() override {
    const MutexLock turn(&CaptureTurn());
    graph_.reset();
  }
  TurnTakingGraph(const TurnTakingGraph&) = delete;
  TurnTakingGraph& operator=(const TurnTakingGraph&) = delete;

  void Replay() override { graph_->Replay(); }

 private:
  std::unique_ptr<DeviceGraph> graph_;
};

class TurnTakingMaker final : public GraphMaker {
 public:
  explicit TurnTakingMaker(std::unique_ptr<GraphMaker> maker) : maker_(std::move(maker)) {}

  std::unique_ptr<DeviceGraph> Capture(const std::function<void()>& work) override {
    std::unique_ptr<DeviceGraph> graph;
    {
      const MutexLock turn(&CaptureTurn());
      graph = CaptureWithRoom(work);
    }
    return std::make_unique<TurnTakingGraph>(std::move(graph));
  }

 private:
  // While something is recorded libtorch's allocator does not give back what it has cached, be it of graphs that have
  // gone, to have it for the recording.
  std::unique_ptr<DeviceGraph> CaptureWithRoom(const std::function<void()>& work) {
    try {
      return maker_->Capture(work);
    } catch (const c10::OutOfMemoryError&) {
    }
    c10::getDeviceAllocator(at::kCUDA)->emptyCache();
    return maker_->Capture(work);
  }

  const std::unique_ptr<GraphMaker> maker_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<GraphMaker>> MakeCudaGraphs(int device, GraphPriority priority) {
  static const auto* const found = new absl::StatusOr<MakeGraphs>(FindGraphs());
  FRESCO_RETURN_IF_ERROR(found->status());
  std::unique_ptr<GraphMaker> maker((**found)(device, priority == GraphPriority::kFirst));
  return std::make_unique<TurnTakingMaker>(std::move(maker));
}

absl::Status LoadCuda() {
  static const absl::Status* const status = new absl::Status(Open());
  return *status;
}

int CudaDeviceCount() {
  if (!LoadCuda().ok()) return 0;
  try {
    return at::detail::getCUDAHooks().deviceCount();
  } catch (const std::exception&) {  // a driver that is too old, or none
    return 0;
  }
}

int CudaCapability(int device) {
  if (!LoadCuda().ok()) return 0;
  // Of the CUDA runtime that came with libtorch_cuda; its header is not there where there is no toolkit.
  constexpr int kMajor = 75, kMinor = 76;  // cudaDevAttrComputeCapabilityMajor, …Minor
  using GetAttribute = int (*)(int* value, int attribute, int device);
  const auto get = reinterpret_cast<GetAttribute>(dlsym(RTLD_DEFAULT, "cudaDeviceGetAttribute"));
  int major = 0, minor = 0;
  if (get == nullptr || get(&major, kMajor, device) != 0 || get(&minor, kMinor, device) != 0) return 0;
  return 10 * major + minor;
}

std::string CudaDeviceName(int device) {
  // The driver's: the runtime has the name in a structure alone, which differs from version to version. Both count the
  // same devices, CUDA_VISIBLE_DEVICES'.
  using GetDevice = int (*)(int* device, int index);
  using GetName = int (*)(char* name, int size, int device);
  const std::string unknown = "unknown GPU";
  if (!LoadCuda().ok()) return unknown;
  void* const driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);  // for good, as libtorch has it open
  if (driver == nullptr) return unknown;
  const auto get_device = reinterpret_cast<GetDevice>(dlsym(driver, "cuDeviceGet"));
  const auto get_name = reinterpret_cast<GetName>(dlsym(driver, "cuDeviceGetName"));
  int handle = 0;
  char name[256] = {};
  if (get_device == nullptr || get_name == nullptr || get_device(&handle, device) != 0 ||
      get_name(name, sizeof(name) - 1, handle) != 0)
    return unknown;
  return name;
}

std::vector<std::string> AvailableDevices() {
  std::vector<std::string> devices;
  for (int i = 0; i < CudaDeviceCount(); ++i) devices.push_back(StrCat("cuda:", i));
  devices.emplace_back("cpu");
  return devices;
}

}  // namespace fresco
