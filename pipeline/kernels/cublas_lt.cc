#include "pipeline/kernels/cublas_lt.h"

#include <dlfcn.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "pipeline/base/status.h"

namespace fresco {
namespace {

using cublas_lt::Api;
using cublas_lt::DataType;

constexpr size_t kOldestVersion = 120900;  // the first with a scale for each row

absl::Status StatusOf(int32_t code, const char* function) {
  if (code == cublas_lt::kSuccess) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(function, ": cuBLAS status ", code));
}

absl::Status FindSymbol(void* library, const char* name, auto* function) {
  void* const symbol = dlsym(library, name);
  if (symbol == nullptr) return absl::FailedPreconditionError(absl::StrCat("cuBLASLt: ", dlerror()));
  *function = reinterpret_cast<std::remove_pointer_t<decltype(function)>>(symbol);
  return absl::OkStatus();
}

absl::StatusOr<Api> FindApi(void* library) {
  Api api;
  absl::Status status = FindSymbol(library, "cublasLtGetVersion", &api.get_version);
  status.Update(FindSymbol(library, "cublasLtCreate", &api.create));
  status.Update(FindSymbol(library, "cublasLtDestroy", &api.destroy));
  status.Update(FindSymbol(library, "cublasLtMatmulDescCreate", &api.create_descriptor));
  status.Update(FindSymbol(library, "cublasLtMatmulDescDestroy", &api.destroy_descriptor));
  status.Update(FindSymbol(library, "cublasLtMatmulDescSetAttribute", &api.set_descriptor));
  status.Update(FindSymbol(library, "cublasLtMatrixLayoutCreate", &api.create_layout));
  status.Update(FindSymbol(library, "cublasLtMatrixLayoutDestroy", &api.destroy_layout));
  status.Update(FindSymbol(library, "cublasLtMatmulPreferenceCreate", &api.create_preference));
  status.Update(FindSymbol(library, "cublasLtMatmulPreferenceDestroy", &api.destroy_preference));
  status.Update(FindSymbol(library, "cublasLtMatmulPreferenceSetAttribute", &api.set_preference));
  status.Update(FindSymbol(library, "cublasLtMatmulAlgoGetHeuristic", &api.find_algorithms));
  status.Update(FindSymbol(library, "cublasLtMatmul", &api.multiply));
  if (!status.ok()) return status;
  return api;
}

// An object of cuBLASLt's that is destroyed with this.
class Owned {
 public:
  explicit Owned(int32_t (*destroy)(void*)) : destroy_(destroy) {}
  ~Owned() {
    if (object_ != nullptr) destroy_(object_);
  }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;

  void** out() { return &object_; }
  void* get() const { return object_; }

 private:
  int32_t (*const destroy_)(void*);
  void* object_ = nullptr;
};

struct Types {
  cublas_lt::ComputeType compute;
  DataType codes, scale, result;
};

Types TypesOf(const CodesProductJob& job) {
  if (job.codes == CodesProductJob::Codes::kInt8)
    return {cublas_lt::kComputeInt32, cublas_lt::kInt8, cublas_lt::kInt32, cublas_lt::kInt32};
  const bool half = job.type == CodesProductJob::Result::kFloat16;
  return {cublas_lt::kComputeFloat32, cublas_lt::kE4M3, cublas_lt::kFloat32,
          half ? cublas_lt::kFloat16 : cublas_lt::kBFloat16};
}

// A job in the library's words. Its matrices lie column after column, so that ours are their transposes: the result's
// is weight · xᵀ, whose rows are our columns.
class Description {
 public:
  explicit Description(const Api& api)
      : api_(api),
        descriptor_(api.destroy_descriptor),
        weight_(api.destroy_layout),
        x_(api.destroy_layout),
        result_(api.destroy_layout) {}

  absl::Status Make(const CodesProductJob& job) {
    const Types types = TypesOf(job);
    FRESCO_RETURN_IF_ERROR(
        StatusOf(api_.create_descriptor(descriptor_.out(), types.compute, types.scale), "cublasLtMatmulDescCreate"));
    FRESCO_RETURN_IF_ERROR(Set(cublas_lt::kTransposeA, cublas_lt::kTransposed));
    FRESCO_RETURN_IF_ERROR(Set(cublas_lt::kTransposeB, cublas_lt::kAsItIs));
    if (job.codes == CodesProductJob::Codes::kE4M3) FRESCO_RETURN_IF_ERROR(Scale(job));
    if (job.bias != nullptr) FRESCO_RETURN_IF_ERROR(AddBias(job.bias, types.result));
    FRESCO_RETURN_IF_ERROR(Lay(&weight_, types.codes, job.in, job.out));
    FRESCO_RETURN_IF_ERROR(Lay(&x_, types.codes, job.in, job.rows));
    return Lay(&result_, types.result, job.out, job.rows);
  }

  void* descriptor() const { return descriptor_.get(); }
  void* weight() const { return weight_.get(); }
  void* x() const { return x_.get(); }
  void* result() const { return result_.get(); }

 private:
  template <typename Value>
  absl::Status Set(cublas_lt::DescriptorAttribute attribute, Value value) {
    const int32_t code = api_.set_descriptor(descriptor_.get(), attribute, &value, sizeof(value));
    if (code == cublas_lt::kSuccess) return absl::OkStatus();
    return absl::InternalError(
        absl::StrCat("cublasLtMatmulDescSetAttribute(", static_cast<int32_t>(attribute), "): cuBLAS status ", code));
  }

  absl::Status Scale(const CodesProductJob& job) {
    FRESCO_RETURN_IF_ERROR(Set(cublas_lt::kFastAccumulation, int8_t{1}));
    FRESCO_RETURN_IF_ERROR(Set(cublas_lt::kScaleAMode, cublas_lt::kOuterVector));
    FRESCO_RETURN_IF_ERROR(Set(cublas_lt::kScaleBMode, cublas_lt::kOuterVector));
    FRESCO_RETURN_IF_ERROR(Set(cublas_lt::kScaleAPointer, job.weight_scale));
    return Set(cublas_lt::kScaleBPointer, job.x_scale);
  }

  absl::Status AddBias(const void* bias, DataType type) {
    FRESCO_RETURN_IF_ERROR(Set(cublas_lt::kEpilogue, cublas_lt::kAddBias));
    FRESCO_RETURN_IF_ERROR(Set(cublas_lt::kBiasType, type));
    return Set(cublas_lt::kBiasPointer, bias);
  }

  absl::Status Lay(Owned* layout, DataType type, int64_t rows, int64_t columns) {
    return StatusOf(api_.create_layout(layout->out(), type, static_cast<uint64_t>(rows), static_cast<uint64_t>(columns),
                                       /*stride=*/rows),
                    "cublasLtMatrixLayoutCreate");
  }

  const Api& api_;
  Owned descriptor_, weight_, x_, result_;
};

// Returns cuBLAS's code.
int32_t MakePreference(const Api& api, Owned* preference) {
  int32_t code = api.create_preference(preference->out());
  const auto set = [&](cublas_lt::PreferenceAttribute attribute, auto value) {
    if (code == cublas_lt::kSuccess) code = api.set_preference(preference->get(), attribute, &value, sizeof(value));
  };
  set(cublas_lt::kMaxWorkspaceBytes, uint64_t{CublasLt::kWorkspaceBytes});
  for (const auto matrix :
       {cublas_lt::kAlignmentA, cublas_lt::kAlignmentB, cublas_lt::kAlignmentC, cublas_lt::kAlignmentD})
    set(matrix, uint32_t{CublasLt::kAlignment});
  return code;
}

}  // namespace

std::string CublasLtAlgorithm::ToHex() const {
  std::string hex;
  for (const uint64_t word : words) absl::StrAppendFormat(&hex, "%016x", word);
  return hex;
}

std::optional<CublasLtAlgorithm> CublasLtAlgorithm::FromHex(std::string_view hex) {
  constexpr size_t kDigits = 16;
  CublasLtAlgorithm algorithm;
  if (hex.size() != algorithm.words.size() * kDigits) return std::nullopt;
  for (size_t i = 0; i < algorithm.words.size(); ++i) {
    const char* const begin = hex.data() + i * kDigits;
    const auto [end, error] = std::from_chars(begin, begin + kDigits, algorithm.words[i], 16);
    if (error != std::errc() || end != begin + kDigits) return std::nullopt;
  }
  return algorithm;
}

absl::StatusOr<std::shared_ptr<const CublasLt>> CublasLt::Load(const std::string& path) {
  // For good: libtorch has it open anyway.
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return absl::FailedPreconditionError(absl::StrCat("cuBLASLt: ", dlerror()));
  FRESCO_ASSIGN_OR_RETURN(const Api api, FindApi(library));
  if (api.get_version() < kOldestVersion)
    return absl::FailedPreconditionError(absl::StrCat("cuBLASLt ", api.get_version(), ": older than ", kOldestVersion));
  return std::make_shared<const CublasLt>(api);
}

CublasLt::~CublasLt() {
  if (handle_ != nullptr) api_.destroy(handle_);
}

absl::StatusOr<cublas_lt::Handle> CublasLt::HandleOfDevice() const {
  const MutexLock lock(&mutex_);
  if (handle_ == nullptr) FRESCO_RETURN_IF_ERROR(StatusOf(api_.create(&handle_), "cublasLtCreate"));
  return handle_;
}

absl::StatusOr<std::vector<CublasLtAlgorithm>> CublasLt::AlgorithmsFor(const CodesProductJob& job, int most) const {
  constexpr int32_t kNotSupported = 15;  // CUBLAS_STATUS_NOT_SUPPORTED
  Description description(api_);
  FRESCO_RETURN_IF_ERROR(description.Make(job));
  Owned preference(api_.destroy_preference);
  FRESCO_RETURN_IF_ERROR(StatusOf(MakePreference(api_, &preference), "cublasLtMatmulPreferenceSetAttribute"));
  FRESCO_ASSIGN_OR_RETURN(const cublas_lt::Handle handle, HandleOfDevice());
  std::vector<cublas_lt::HeuristicResult> results(static_cast<size_t>(most));
  int found = 0;
  const int32_t code =
      api_.find_algorithms(handle, description.descriptor(), description.weight(), description.x(),
                           description.result(), description.result(), preference.get(), most, results.data(), &found);
  if (code == kNotSupported) return std::vector<CublasLtAlgorithm>();
  FRESCO_RETURN_IF_ERROR(StatusOf(code, "cublasLtMatmulAlgoGetHeuristic"));
  std::vector<CublasLtAlgorithm> algorithms;
  for (int i = 0; i < std::min(found, most); ++i) {
    const cublas_lt::HeuristicResult& result = results[static_cast<size_t>(i)];
    if (result.state == cublas_lt::kSuccess && result.workspace_bytes <= static_cast<size_t>(kWorkspaceBytes))
      algorithms.push_back(std::bit_cast<CublasLtAlgorithm>(result.algorithm));
  }
  return algorithms;
}

absl::Status CublasLt::Multiply(const CodesProductJob& job, const CublasLtAlgorithm& algorithm, void* workspace,
                                void* stream) const {
  Description description(api_);
  FRESCO_RETURN_IF_ERROR(description.Make(job));
  FRESCO_ASSIGN_OR_RETURN(const cublas_lt::Handle handle, HandleOfDevice());
  const auto chosen = std::bit_cast<cublas_lt::Algorithm>(algorithm);
  // In the type of the scales; both are read at once.
  const float float_one = 1, float_zero = 0;
  const int32_t int_one = 1, int_zero = 0;
  const bool ints = job.codes == CodesProductJob::Codes::kInt8;
  const void* const one = ints ? static_cast<const void*>(&int_one) : &float_one;
  const void* const zero = ints ? static_cast<const void*>(&int_zero) : &float_zero;
  return StatusOf(api_.multiply(handle, description.descriptor(), one, job.weight, description.weight(), job.x,
                                description.x(), zero, job.result, description.result(), job.result,
                                description.result(), &chosen, workspace, kWorkspaceBytes, stream),
                  "cublasLtMatmul");
}

}  // namespace fresco
