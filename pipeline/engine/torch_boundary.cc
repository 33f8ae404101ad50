#include "pipeline/engine/torch_boundary.h"

#include <c10/util/Exception.h>

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

absl::Status Failure(std::string_view doing, std::string_view what) {
  const std::string message = StrCat(doing, ": ", what.substr(0, what.find('\n')));
  return SpeaksOfMemory(what) ? absl::ResourceExhaustedError(message) : absl::InternalError(message);
}

}  // namespace

absl::Status StatusFromException(std::exception_ptr exception, std::string_view doing) {
  try {
    std::rethrow_exception(std::move(exception));
  } catch (const c10::OutOfMemoryError& error) {
    return absl::ResourceExhaustedError(StrCat(doing, ": ", error.what_without_backtrace()));
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
