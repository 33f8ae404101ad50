#include "pipeline/tool/diffusers.h"

#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/base/temporary_folder.h"
#include "pipeline/checkpoint/text_file.h"
#include "pipeline/tool/diffusers_script.h"
#include "pipeline/tool/process.h"

namespace fresco {
namespace {

using Json = nlohmann::json;

Json OrNull(const std::optional<std::string>& text) {
  return text ? Json(*text) : Json();
}

std::string RequestJson(const ImageSpec& spec, const std::string& precision) {
  const Json request = {{"prompt", spec.prompt},
                        {"prompt_2", OrNull(spec.prompt_2)},
                        {"prompt_3", OrNull(spec.prompt_3)},
                        {"negative_prompt", spec.negative_prompt},
                        {"negative_prompt_2", OrNull(spec.negative_prompt_2)},
                        {"negative_prompt_3", OrNull(spec.negative_prompt_3)},
                        {"width", spec.width},
                        {"height", spec.height},
                        {"steps", spec.steps},
                        {"guidance_scale", spec.guidance_scale},
                        {"seed", spec.seed},
                        {"max_sequence_length", spec.max_sequence_length},
                        {"clip_skip", spec.clip_skip},
                        {"dtype", precision}};
  return request.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

absl::StatusOr<std::shared_ptr<const SafetensorsFile>> RunDiffusers(const DiffusersRun& run, const ImageSpec& spec) {
  FRESCO_ASSIGN_OR_RETURN(const TemporaryFolder folder, TemporaryFolder::Make("verify"));
  const std::string script = folder.File("diffusers_stages.py"), request = folder.File("request.json");
  const std::string stages = folder.File("stages.safetensors");
  FRESCO_RETURN_IF_ERROR(WriteFileWhole(script, kDiffusersScript));
  FRESCO_RETURN_IF_ERROR(WriteFileWhole(request, RequestJson(spec, run.precision)));
  std::vector<std::string> command = {run.python, script, run.model,   "--request",        request,
                                      "--output", stages, "--threads", StrCat(run.threads)};
  if (!run.base.empty()) command.insert(command.end(), {"--base", run.base});
  FRESCO_ASSIGN_OR_RETURN(const int code, RunProgram(command));
  if (code != 0)
    return absl::FailedPreconditionError(StrCat("diffusers under ", run.python, " ended with code ", code,
                                                "; --python or FRESCO_PYTHON names a Python that has it"));
  // The mapping outlives the file.
  return SafetensorsFile::Open(stages);
}

}  // namespace fresco
