// Runs another program and waits for it.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace fresco {

// argv[0] is looked for in PATH. Standard input is empty; standard output goes where this program's standard error
// goes, so that ours stays one JSON object. Returns the exit code, 128 + N where signal N ended it; NOT_FOUND where it
// cannot be started.
absl::StatusOr<int> RunProgram(const std::vector<std::string>& argv);

}  // namespace fresco
