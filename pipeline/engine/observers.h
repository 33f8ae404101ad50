// Who is told what passes through an engine's model, for whoever looks into it.
#pragma once

#include <memory>

#include "pipeline/models/layers.h"
#include "pipeline/models/observer.h"
#include "pipeline/precision/saturation.h"

namespace fresco {

// LoadOptions::observers. Called on the thread that calls the engine; while it is loaded, too (it draws something
// small).
struct EngineObservers {
  std::shared_ptr<LinearProbe> probe;  // of the transformer's linears; null: nobody
  // Of "transformer.STAGE" (Mmdit::Forward) and "vae.STAGE" (Autoencoder::Decode); empty: nobody.
  Observer stages;
  std::shared_ptr<SaturationCount> saturation;  // counts in the place of the engine's own; null: its own does
};

}  // namespace fresco
