#include "client/csv.h"

#include <algorithm>
#include <optional>

#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"

namespace fresco {
namespace {

class CsvReader {
 public:
  explicit CsvReader(std::string_view text) : rest_(text) {
    if (rest_.starts_with("\xEF\xBB\xBF")) rest_.remove_prefix(3);
  }

  // The next row that holds any text; nothing at the end.
  absl::StatusOr<std::optional<CsvRow>> Next() {
    while (!rest_.empty()) {
      CsvRow row{line_, {}};
      bool more = true;
      while (more) {
        FRESCO_ASSIGN_OR_RETURN(std::string field, Field());
        row.fields.push_back(std::move(field));
        more = TakeSeparator();
      }
      if (row.fields.size() > 1 || !row.fields[0].empty()) return row;
    }
    return std::nullopt;
  }

 private:
  absl::StatusOr<std::string> Field() {
    if (rest_.starts_with('"')) return Quoted();
    const size_t end = std::min(rest_.find_first_of(",\r\n"), rest_.size());
    std::string field(rest_.substr(0, end));
    rest_.remove_prefix(end);
    return field;
  }

  absl::StatusOr<std::string> Quoted() {
    const int first_line = line_;
    std::string field;
    rest_.remove_prefix(1);
    while (!rest_.empty()) {
      const char c = rest_.front();
      rest_.remove_prefix(1);
      if (c == '"' && !rest_.starts_with('"')) {
        if (rest_.empty() || rest_.find_first_of(",\r\n") == 0) return field;
        return absl::InvalidArgumentError(StrCat("line ", line_, ": text after a closing quote"));
      }
      if (c == '"') rest_.remove_prefix(1);
      line_ += c == '\n';
      field += c;
    }
    return absl::InvalidArgumentError(StrCat("line ", first_line, ": a quote is opened and never closed"));
  }

  // Whether another field of the same row follows.
  bool TakeSeparator() {
    if (rest_.starts_with(',')) {
      rest_.remove_prefix(1);
      return true;
    }
    if (rest_.starts_with("\r\n")) {
      rest_.remove_prefix(2);
    } else if (!rest_.empty()) {
      rest_.remove_prefix(1);
    }
    ++line_;
    return false;
  }

  std::string_view rest_;
  int line_ = 1;
};

}  // namespace

absl::StatusOr<CsvTable> ParseCsv(std::string_view text) {
  CsvReader reader(text);
  FRESCO_ASSIGN_OR_RETURN(std::optional<CsvRow> header, reader.Next());
  if (!header) return absl::InvalidArgumentError("it is empty: a header is expected");
  CsvTable table{header->fields, {}};
  for (auto name = table.header.begin(); name != table.header.end(); ++name) {
    if (std::find(table.header.begin(), name, *name) != name) {
      return absl::InvalidArgumentError(StrCat("line ", header->line, ": column \"", *name, "\" is there twice"));
    }
  }
  for (;;) {
    FRESCO_ASSIGN_OR_RETURN(std::optional<CsvRow> row, reader.Next());
    if (!row) return table;
    if (row->fields.size() != table.header.size()) {
      return absl::InvalidArgumentError(
          StrCat("line ", row->line, ": ", row->fields.size(), " fields, the header has ", table.header.size()));
    }
    table.rows.push_back(*std::move(row));
  }
}

}  // namespace fresco
