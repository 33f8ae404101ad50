#include "pipeline/engine/resolve.h"

#include <utility>

#include "pipeline/base/status.h"

namespace fresco {

absl::StatusOr<ResolvedModel> ResolveModel(const LoadOptions& options, const at::Device& device) {
  FRESCO_ASSIGN_OR_RETURN(ModelSource source, ModelSource::Open(options.path, options.base));
  FRESCO_ASSIGN_OR_RETURN(ModelDefaults defaults, ReadModelDefaults(source.DefaultsPath()));
  FRESCO_ASSIGN_OR_RETURN(LoadPrecision decided, DecidePrecision(options, source, device));
  return ResolvedModel{std::move(source), std::move(defaults), std::move(decided.precision),
                       std::move(decided.calibration)};
}

}  // namespace fresco
