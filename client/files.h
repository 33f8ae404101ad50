// Whole files. Errors name the path and the system's reason.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace fresco {

absl::StatusOr<std::string> ReadFile(const std::string& path);

// Makes the folders of `path` and replaces the file in one step: nobody ever sees a part of it. A device or a pipe is
// written into.
absl::Status WriteFileAtomically(const std::string& path, std::string_view bytes);

// Whether WriteFileAtomically could, as far as the folders of `path` tell: those that are missing could be made.
// Changes nothing.
absl::Status CheckWritable(const std::string& path);

bool FileExists(const std::string& path);
bool IsDirectory(const std::string& path);

}  // namespace fresco
