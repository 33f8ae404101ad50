// What `fresco models`, `status`, `load-model` and `unload-model` print, and how what they print looks.
#pragma once

#include <string>
#include <vector>

namespace fresco::v1 {
class GetStatusResponse;
class ListModelsResponse;
class LoadModelResponse;
class StepProfile;
class UnloadModelResponse;
}  // namespace fresco::v1

namespace fresco {

// Columns as wide as their widest cell, in Unicode characters; no spaces at the ends of lines.
std::string FormatTable(const std::vector<std::vector<std::string>>& rows);

std::string ModelsText(const v1::ListModelsResponse& response);
std::string StatusText(const v1::GetStatusResponse& response);
std::string LoadModelText(const v1::LoadModelResponse& response);
std::string UnloadModelText(const v1::UnloadModelResponse& response);

// One line of JSON by protobuf's own mapping, with the fields' names as in the .proto.
std::string ModelsJson(const v1::ListModelsResponse& response);
std::string StatusJson(const v1::GetStatusResponse& response);
std::string LoadModelJson(const v1::LoadModelResponse& response);
std::string UnloadModelJson(const v1::UnloadModelResponse& response);
std::string ProfileJson(const v1::StepProfile& profile);

}  // namespace fresco
