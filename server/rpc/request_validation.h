// From a request of the wire to native specs: every field is checked, all that is wrong is said at once, what was left
// out gets the model's defaults.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "fresco/v1/image_generation.pb.h"
#include "pipeline/engine/engine.h"
#include "server/config/config.h"
#include "server/scheduler/scheduler.h"

namespace fresco {

// 64 random bits per call. Thread-safe.
using RandomSource = std::function<uint64_t()>;

// A default that is beyond the limits is clamped to them, with a warning in the request.
// INVALID_ARGUMENT (violations.h) names every bad field. Tenant and deadline are left to the caller. An absent seed is
// drawn below 2^32 (all that the noise uses, and exact in every JSON parser); image k gets seed + k modulo 2^64. An
// absent id is made.
absl::StatusOr<GenerationRequest> ValidateGenerate(const v1::GenerateRequest& request, const Engine& engine,
                                                   const RequestLimits& limits, const RandomSource& random);

// The same for OpenAI's shape; violations name its own fields.
absl::StatusOr<GenerationRequest> ValidateCreateImage(const v1::CreateImageRequest& request, const Engine& engine,
                                                      const RequestLimits& limits, const RandomSource& random);

// What a request may be called: the characters of a GenerateRequest's request_id.
bool IsRequestId(std::string_view id);

}  // namespace fresco
