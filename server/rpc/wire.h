// From native values to the messages of fresco.v1. Knows protobuf, not gRPC.
#pragma once

#include <cstddef>
#include <string>

#include "absl/time/time.h"
#include "fresco/v1/image_generation.pb.h"
#include "fresco/v1/operations.pb.h"
#include "server/config/config.h"
#include "server/rpc/model_registry.h"
#include "server/scheduler/events.h"
#include "server/scheduler/scheduler.h"

namespace fresco {

// An infinite duration becomes the longest that the message can hold.
void SetDuration(absl::Duration duration, google::protobuf::Duration* out);

void SetEvent(const QueuedEvent& event, const std::string& request_id, v1::GenerateEvent* out);
void SetEvent(const StartedEvent& event, v1::GenerateEvent* out);
void SetEvent(const ProgressEvent& event, v1::GenerateEvent* out);
void SetEvent(const CompletedEvent& event, v1::GenerateEvent* out);

// The chunk of a picture that begins at `offset`, in a message below 1 MiB; returns where the next one begins (the
// picture's size after the last).
size_t SetChunk(const ImageEvent& event, size_t offset, v1::GenerateEvent* out);

void SetModel(const ModelStatus& status, const RequestLimits& limits, v1::Model* out);
void SetRequest(const RequestSnapshot& snapshot, absl::Time now, v1::RunningRequest* out);

}  // namespace fresco
