// What is wrong with a request, field by field, on its way into google.rpc.BadRequest.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace fresco {

struct FieldViolation {
  std::string field;        // the request's field: "width"
  std::string description;  // "must be a multiple of 16, got 1000"
};

// OK if there are none; else INVALID_ARGUMENT that says them all, with a google.rpc.BadRequest as payload.
absl::Status InvalidRequest(const std::vector<FieldViolation>& violations);

// The violations that InvalidRequest put into a status; empty if it holds none.
std::vector<FieldViolation> ViolationsOf(const absl::Status& status);

// `validated`, unless `earlier` violations are known: then the error names those and its own.
template <typename T>
absl::StatusOr<T> WithEarlier(std::vector<FieldViolation> earlier, absl::StatusOr<T> validated) {
  if (earlier.empty()) return validated;
  for (FieldViolation& violation : ViolationsOf(validated.status())) earlier.push_back(std::move(violation));
  return InvalidRequest(earlier);
}

}  // namespace fresco
