// What `fresco models` and `fresco status` print.
#pragma once

#include <string>
#include <vector>

namespace fresco::v1 {
class GetStatusResponse;
class ListModelsResponse;
}  // namespace fresco::v1

namespace fresco {

// Columns as wide as their widest cell, in Unicode characters; no spaces at the ends of lines.
std::string FormatTable(const std::vector<std::vector<std::string>>& rows);

// "1.5 GiB".
std::string FormatBytes(int64_t bytes);

std::string ModelsText(const v1::ListModelsResponse& response);
std::string StatusText(const v1::GetStatusResponse& response);

// One line of JSON by protobuf's own mapping, with the fields' names as in the .proto.
std::string ModelsJson(const v1::ListModelsResponse& response);
std::string StatusJson(const v1::GetStatusResponse& response);

}  // namespace fresco
