#include "server/rpc/status_mapping.h"

#include <google/rpc/error_details.pb.h>
#include <google/rpc/status.pb.h>

#include <algorithm>
#include <optional>

#include "absl/strings/cord.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "pipeline/base/strings.h"
#include "pipeline/engine/memory_shortage.h"
#include "server/rpc/excerpt.h"
#include "server/rpc/violations.h"
#include "server/rpc/wire.h"
#include "server/scheduler/retry.h"

namespace fresco {
namespace {

constexpr char kBadRequestUrl[] = "type.googleapis.com/google.rpc.BadRequest";

// Percent-encoded, and once more in the details in base64, it stays below the 8 KiB of headers that clients take by
// default.
constexpr size_t kMaxMessageBytes = 1000;
constexpr size_t kMaxShortageFields = 16;  // the largest holders

// Its first fields are the device and the sums.
void AddShortage(const absl::Status& status, google::rpc::Status* details) {
  const auto fields = FindShortage(status);
  if (fields.empty()) return;
  google::rpc::ErrorInfo info;
  info.set_reason("OUT_OF_MEMORY");
  info.set_domain("fresco");
  for (size_t i = 0; i < std::min(fields.size(), kMaxShortageFields); ++i)
    (*info.mutable_metadata())[fields[i].first] = fields[i].second;
  details->add_details()->PackFrom(info);
}

}  // namespace

absl::Status InvalidRequest(const std::vector<FieldViolation>& violations) {
  if (violations.empty()) return absl::OkStatus();
  google::rpc::BadRequest bad;
  std::string message;
  for (const auto& [field, description] : violations) {
    message += StrCat(message.empty() ? "" : "; ", field, " ", description);
    google::rpc::BadRequest::FieldViolation* violation = bad.add_field_violations();
    violation->set_field(field);
    violation->set_description(description);
  }
  absl::Status status = absl::InvalidArgumentError(message);
  status.SetPayload(kBadRequestUrl, absl::Cord(bad.SerializeAsString()));
  return status;
}

std::vector<FieldViolation> ViolationsOf(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kBadRequestUrl);
  google::rpc::BadRequest bad;
  if (!payload.has_value() || !bad.ParseFromString(std::string(*payload))) return {};
  std::vector<FieldViolation> violations;
  for (const auto& violation : bad.field_violations())
    violations.push_back({violation.field(), violation.description()});
  return violations;
}

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  google::rpc::Status details;
  details.set_code(static_cast<int>(status.code()));
  details.set_message(Excerpt(ToStd(status.message()), kMaxMessageBytes));
  if (const absl::optional<absl::Cord> bad = status.GetPayload(kBadRequestUrl); bad.has_value()) {
    google::protobuf::Any* any = details.add_details();
    any->set_type_url(kBadRequestUrl);
    any->set_value(std::string(*bad));
  }
  if (const std::optional<absl::Duration> delay = RetryAfter(status); delay.has_value()) {
    google::rpc::RetryInfo retry;
    SetDuration(*delay, retry.mutable_retry_delay());
    details.add_details()->PackFrom(retry);
  }
  AddShortage(status, &details);
  // absl's codes are gRPC's, number for number.
  const auto code = static_cast<grpc::StatusCode>(status.code());
  return grpc::Status(code, details.message(), details.details().empty() ? "" : details.SerializeAsString());
}

std::string CodeName(absl::StatusCode code) {
  return absl::StatusCodeToString(code);
}

}  // namespace fresco
