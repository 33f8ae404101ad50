// Reads the config.json of a model's component.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace fresco {

// A JSON object read from a file. Immutable, thread-safe. A key that is absent or null gives the default; a key of the
// wrong type or out of range is INVALID_ARGUMENT, naming file and key.
class JsonConfig {
 public:
  // NOT_FOUND for a file that is not there; INVALID_ARGUMENT for one that is over 16 MiB, is not JSON, is nested over
  // 32 deep or is not an object.
  static absl::StatusOr<JsonConfig> Open(const std::string& path);

  absl::StatusOr<int64_t> Int(std::string_view key, std::optional<int64_t> fallback, int64_t min, int64_t max) const;
  absl::StatusOr<double> Double(std::string_view key, std::optional<double> fallback) const;
  absl::StatusOr<bool> Bool(std::string_view key, std::optional<bool> fallback) const;
  absl::StatusOr<std::string> String(std::string_view key, std::optional<std::string> fallback) const;
  absl::StatusOr<std::vector<int64_t>> Ints(std::string_view key, std::optional<std::vector<int64_t>> fallback,
                                            int64_t min, int64_t max) const;
  absl::StatusOr<std::vector<std::string>> Strings(std::string_view key,
                                                   std::optional<std::vector<std::string>> fallback) const;
  // Present and not null.
  bool Has(std::string_view key) const;
  std::vector<std::string> Keys() const;
  const std::string& path() const { return path_; }

  // INVALID_ARGUMENT that names this file and `key`.
  absl::Status Error(std::string_view key, std::string_view message) const;

 private:
  struct Impl;
  explicit JsonConfig(std::string path, std::shared_ptr<const Impl> impl);

  std::string path_;
  std::shared_ptr<const Impl> impl_;
};

}  // namespace fresco
