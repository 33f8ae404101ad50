#include "pipeline/base/temporary_folder.h"

#include <stdlib.h>

#include <system_error>

#include "pipeline/base/strings.h"

namespace fresco {

absl::StatusOr<TemporaryFolder> TemporaryFolder::Make(std::string_view what) {
  std::error_code error;
  std::string name = (std::filesystem::temp_directory_path(error) / StrCat("fresco-", what, "-XXXXXX")).string();
  if (error || mkdtemp(name.data()) == nullptr)
    return absl::UnavailableError(StrCat(name, ": this temporary folder cannot be made"));
  return TemporaryFolder(name);
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
}

}  // namespace fresco
