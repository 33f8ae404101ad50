// Comma-separated values (RFC 4180): quoted fields with commas, quotes and line ends in them; LF or CRLF; a byte order
// mark.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace fresco {

struct CsvRow {
  int line = 0;  // where it begins, from 1
  std::vector<std::string> fields;
};

struct CsvTable {
  std::vector<std::string> header;
  std::vector<CsvRow> rows;  // each with as many fields as the header
};

// Lines without any text are left out. INVALID_ARGUMENT names the line that is wrong.
absl::StatusOr<CsvTable> ParseCsv(std::string_view text);

}  // namespace fresco
