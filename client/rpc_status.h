// What a server's refusal says beyond its code and message: google.rpc's details, kept as payloads of the absl::Status
// under their type URLs.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace grpc {
class Status;
}

namespace fresco {

absl::Status FromGrpc(const grpc::Status& status);

// BadRequest's violations: field and description.
std::vector<std::pair<std::string, std::string>> FieldViolations(const absl::Status& status);

// RetryInfo's delay.
std::optional<absl::Duration> RetryAfter(const absl::Status& status);

// Notes the W3C trace that the call was: its server's log has it.
void MarkTrace(const std::string& trace_id, absl::Status* status);
std::optional<std::string> TraceIdOf(const absl::Status& status);

// Notes that a server had answered before it came to this error.
void MarkAnswered(absl::Status* status);

// No server answered: gRPC's own UNAVAILABLE. A server's comes with details, or after answers (MarkAnswered).
bool IsUnreachable(const absl::Status& status);

// Trying again may help: UNAVAILABLE and RESOURCE_EXHAUSTED.
bool IsTransient(const absl::Status& status);

// For a person: the message, then a line for each field.
std::string Explain(const absl::Status& status);

}  // namespace fresco
