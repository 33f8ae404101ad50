// Macros that pass an absl::Status up, and the words for adding where it happened.
#pragma once

#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "pipeline/base/strings.h"

#define FRESCO_STATUS_CONCAT_INNER(a, b) a##b
#define FRESCO_STATUS_CONCAT(a, b) FRESCO_STATUS_CONCAT_INNER(a, b)

// Returns from the enclosing function with the expression's status unless it is OK.
#define FRESCO_RETURN_IF_ERROR(expression)                                                    \
  do {                                                                                        \
    if (absl::Status fresco_status = (expression); !fresco_status.ok()) return fresco_status; \
  } while (false)

// FRESCO_ASSIGN_OR_RETURN(auto x, F()): x is the value of F()'s StatusOr, or the enclosing function returns its status.
#define FRESCO_ASSIGN_OR_RETURN(declaration, expression) \
  FRESCO_ASSIGN_OR_RETURN_INNER(FRESCO_STATUS_CONCAT(fresco_status_or_, __LINE__), declaration, expression)
// NOLINTBEGIN(bugprone-macro-parentheses): names and a declaration cannot stand in parentheses
#define FRESCO_ASSIGN_OR_RETURN_INNER(temporary, declaration, expression) \
  auto temporary = (expression);                                          \
  if (!temporary.ok()) return std::move(temporary).status();              \
  declaration = *std::move(temporary)
// NOLINTEND(bugprone-macro-parentheses)

namespace fresco {

// The same code with "context: " before its message; OK stays OK. Payloads are kept.
inline absl::Status Annotate(const absl::Status& status, std::string_view context) {
  if (status.ok()) return status;
  absl::Status annotated(status.code(), StrCat(context, ": ", status.message()));
  status.ForEachPayload([&](absl::string_view url, const absl::Cord& payload) { annotated.SetPayload(url, payload); });
  return annotated;
}

}  // namespace fresco
