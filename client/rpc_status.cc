#include "client/rpc_status.h"

#include <grpcpp/support/status.h>

#include <algorithm>

#include "absl/strings/cord.h"
#include "absl/strings/str_join.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "pipeline/base/strings.h"

namespace fresco {
namespace {

constexpr char kBadRequest[] = "type.googleapis.com/google.rpc.BadRequest";
constexpr char kRetryInfo[] = "type.googleapis.com/google.rpc.RetryInfo";

constexpr char kAnswered[] = "fresco.client/answered";
constexpr char kTrace[] = "fresco.client/trace";

template <typename Message>
std::optional<Message> Payload(const absl::Status& status, const char* url) {
  const absl::optional<absl::Cord> payload = status.GetPayload(url);
  Message message;
  if (!payload || !message.ParseFromString(std::string(*payload))) return std::nullopt;
  return message;
}

using Violations = std::vector<std::pair<std::string, std::string>>;

// Whether a message is but the fields and what is wrong with them.
bool SaysIt(std::string_view message, const Violations& violations) {
  const auto joined = [&violations](const char* separator) {
    return absl::StrJoin(violations, "; ", absl::PairFormatter(separator));
  };
  const bool alone = violations.size() == 1 && message == violations[0].second;
  return alone || message == joined(" ") || message == joined(": ");
}

}  // namespace

absl::Status FromGrpc(const grpc::Status& status) {
  absl::Status result(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
  google::rpc::Status details;
  if (result.ok() || !details.ParseFromString(status.error_details())) return result;
  for (const google::protobuf::Any& detail : details.details()) {
    result.SetPayload(detail.type_url(), absl::Cord(detail.value()));
  }
  return result;
}

std::vector<std::pair<std::string, std::string>> FieldViolations(const absl::Status& status) {
  std::vector<std::pair<std::string, std::string>> fields;
  const std::optional<google::rpc::BadRequest> bad_request = Payload<google::rpc::BadRequest>(status, kBadRequest);
  if (!bad_request) return fields;
  for (const auto& violation : bad_request->field_violations()) {
    fields.emplace_back(violation.field(), violation.description());
  }
  return fields;
}

std::optional<absl::Duration> RetryAfter(const absl::Status& status) {
  const std::optional<google::rpc::RetryInfo> info = Payload<google::rpc::RetryInfo>(status, kRetryInfo);
  if (!info) return std::nullopt;
  const absl::Duration delay =
      absl::Seconds(info->retry_delay().seconds()) + absl::Nanoseconds(info->retry_delay().nanos());
  return std::max(delay, absl::ZeroDuration());
}

void MarkTrace(const std::string& trace_id, absl::Status* status) {
  status->SetPayload(kTrace, absl::Cord(trace_id));
}

std::optional<std::string> TraceIdOf(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kTrace);
  if (!payload) return std::nullopt;
  return std::string(*payload);
}

void MarkAnswered(absl::Status* status) {
  status->SetPayload(kAnswered, absl::Cord());
}

bool IsUnreachable(const absl::Status& status) {
  bool details = false;
  status.ForEachPayload([&details](absl::string_view url, const absl::Cord&) { details = details || url != kTrace; });
  return absl::IsUnavailable(status) && !details;
}

bool IsTransient(const absl::Status& status) {
  // A full queue says when to come back; a full disk, or a picture too large for the device, stays what it is.
  return absl::IsUnavailable(status) || (absl::IsResourceExhausted(status) && RetryAfter(status).has_value());
}

std::string Explain(const absl::Status& status) {
  std::string text = status.message().empty() ? absl::StatusCodeToString(status.code()) : std::string(status.message());
  const auto violations = FieldViolations(status);
  if (!SaysIt(text, violations)) {
    for (const auto& [field, description] : violations) text += StrCat("\n  ", field, ": ", description);
  }
  if (const std::optional<absl::Duration> delay = RetryAfter(status); delay && IsTransient(status)) {
    text += StrCat("\n  try again in ", absl::FormatDuration(*delay));
  }
  if (const std::optional<std::string> trace_id = TraceIdOf(status)) text += StrCat("\n  trace ", *trace_id);
  return text;
}

}  // namespace fresco
