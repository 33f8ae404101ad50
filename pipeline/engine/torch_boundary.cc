#include "pipeline/engine/torch_boundary.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <iterator>
#include <new>
#include <string>

#include "pipeline/base/strings.h"

namespace fresco {
namespace {

// libtorch's CPU allocator throws a plain c10::Error, cuBLAS and cuDNN too.
bool SpeaksOfMemory(std::string_view message) {
  for (const std::string_view words : {"can't allocate memory", "out of memory", "not enough memory", "ALLOC_FAILED"}) {
    if (message.find(words) != std::string_view::npos) return true;
  }
  return false;
}

// CUDA errors after which every further call of the process on that device fails (cudaError_t in CUDA's
// driver_types.h: "the process must be terminated and relaunched"), and those of a device that is gone: by number, and
// as cudaGetErrorString has them, for libraries that pass on no more than a text.
struct LostContext {
  int code;
  std::string_view words;
};
constexpr LostContext kLostContexts[] = {
    {46, "device(s) is/are busy or unavailable"},
    {214, "uncorrectable ECC error encountered"},
    {220, "uncorrectable NVLink error"},
    {700, "an illegal memory access was encountered"},
    {702, "the launch timed out and was terminated"},
    {709, "context is destroyed"},
    {710, "device-side assert triggered"},
    {714, "hardware stack error"},
    {715, "an illegal instruction was encountered"},
    {716, "misaligned address"},
    {717, "operation not supported on global/shared address space"},
    {718, "invalid program counter"},
    {719, "unspecified launch failure"},
};

bool LosesContext(int code) {
  return std::any_of(std::begin(kLostContexts), std::end(kLostContexts),
                     [&](const LostContext& lost) { return lost.code == code; });
}

bool SpeaksOfLostContext(std::string_view message) {
  if (message.find("CUDA") == std::string_view::npos) return false;
  return std::any_of(std::begin(kLostContexts), std::end(kLostContexts),
                     [&](const LostContext& lost) { return message.find(lost.words) != std::string_view::npos; });
}

std::string_view FirstLine(std::string_view what) {
  return what.substr(0, what.find('\n'));
}

absl::Status ContextLost(std::string_view doing, std::string_view what) {
  return absl::AbortedError(StrCat(doing, ": the device's context is lost: ", FirstLine(what)));
}

absl::Status Failure(std::string_view doing, std::string_view what) {
  if (SpeaksOfLostContext(what)) return ContextLost(doing, what);
  const std::string message = StrCat(doing, ": ", FirstLine(what));
  return SpeaksOfMemory(what) ? absl::ResourceExhaustedError(message) : absl::InternalError(message);
}

}  // namespace

absl::Status StatusFromException(std::exception_ptr exception, std::string_view doing) {
  try {
    std::rethrow_exception(std::move(exception));
  } catch (const c10::OutOfMemoryError& error) {
    return absl::ResourceExhaustedError(StrCat(doing, ": ", error.what_without_backtrace()));
  } catch (const c10::AcceleratorError& error) {
    const std::string_view what = error.what_without_backtrace();
    return LosesContext(error.get_error_code()) ? ContextLost(doing, what) : Failure(doing, what);
  } catch (const c10::Error& error) {
    return Failure(doing, error.what_without_backtrace());
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(StrCat(doing, ": out of memory"));
  } catch (const std::exception& error) {
    return Failure(doing, error.what());
  } catch (...) {
    return absl::InternalError(StrCat(doing, ": an exception of an unknown type"));
  }
}

}  // namespace fresco
