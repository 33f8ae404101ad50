// What the loss of a device means for requests.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace fresco {

// UNAVAILABLE, with a RetryAfter: the device is lost and no other has the model.
absl::Status NoDeviceLeft(const std::string& model, const std::string& device, const std::string& reason);

}  // namespace fresco
