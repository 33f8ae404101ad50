// Calls of code that is not the scheduler's own (engines, encoders, callers' callbacks, observers), which give a status
// whatever happens inside: what is thrown for one image ends neither the process nor another image. An exception is
// INTERNAL, or RESOURCE_EXHAUSTED where memory ran out.
#pragma once

#include <exception>
#include <new>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "pipeline/base/strings.h"

namespace fresco {

// The result of `call`, an absl::Status or absl::StatusOr, or what it threw. `who`: in the message, "the engine".
template <typename Call>
auto Guarded(std::string_view who, const Call& call) -> decltype(call()) {
  try {
    return call();
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(StrCat(who, " ran out of memory"));
  } catch (const std::exception& exception) {
    return absl::InternalError(StrCat(who, " threw an exception: ", exception.what()));
  } catch (...) {
    return absl::InternalError(StrCat(who, " threw something that is not an exception"));
  }
}

// The same of a call that returns a value (of any type), or nothing: OK.
template <typename Call>
auto GuardedValue(std::string_view who, const Call& call) -> absl::StatusOr<decltype(call())> {
  return Guarded(who, [&]() -> absl::StatusOr<decltype(call())> { return call(); });
}
template <typename Call>
absl::Status GuardedVoid(std::string_view who, const Call& call) {
  return Guarded(who, [&] {
    call();
    return absl::OkStatus();
  });
}

}  // namespace fresco
