#include "pipeline/engine/capture_turn.h"

namespace fresco {

Mutex& CaptureTurn() {
  static auto* const turn = new Mutex();
  return *turn;
}

}  // namespace fresco
