// The one place where libtorch's exceptions become statuses.
#pragma once

#include <exception>
#include <string_view>
#include <utility>

#include "absl/status/status.h"

namespace fresco {

// What an exception means to a caller: RESOURCE_EXHAUSTED where memory ran out (on the host or a device), ABORTED where
// the device's context is lost and only a new process can use it, else INTERNAL. The message is "<doing>: <the
// exception's first line>".
absl::Status StatusFromException(std::exception_ptr exception, std::string_view doing);

// Calls `function`, which returns absl::Status or absl::StatusOr<T>; an exception becomes such a status.
template <typename Function>
auto CatchTorch(std::string_view doing, Function&& function) -> decltype(std::forward<Function>(function)()) {
  try {
    return std::forward<Function>(function)();
  } catch (...) {
    return StatusFromException(std::current_exception(), doing);
  }
}

}  // namespace fresco
