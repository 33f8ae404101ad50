// When to try again, as a payload of an absl::Status (so that it crosses the ladder without protobuf).
#pragma once

#include <optional>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace fresco {

absl::Status WithRetryAfter(absl::Status status, absl::Duration delay);
std::optional<absl::Duration> RetryAfter(const absl::Status& status);

}  // namespace fresco
