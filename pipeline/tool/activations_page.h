// One self-contained page about an inspection.
#pragma once

#include <cstdint>
#include <string>

#include "pipeline/engine/inspection.h"

namespace fresco {

// "38.12", "equal", "NaN" where something was not finite, "-" where nothing is known.
std::string FidelityText(const Fidelity& fidelity);

// "0.0123 %"; "-" for none.
std::string ShareText(int64_t count, int64_t of);

// The layers by their noise, and maps of layer against step: largest magnitude, share that was clamped or kept by the
// guard, signal to noise. No script, nothing from elsewhere.
std::string ActivationsPage(const Inspection& inspection);

}  // namespace fresco
