// `fresco generate`.
#pragma once

#include <memory>
#include <ostream>

#include "client/args.h"
#include "client/request_view.h"
#include "client/session.h"
#include "client/ticker.h"
#include "pipeline/base/clock.h"

namespace fresco {

// Where a command's words go.
struct Console {
  std::ostream* out = nullptr;  // results
  std::ostream* err = nullptr;  // progress and errors
  ViewOptions view;             // of err
};

// Calls the view's Tick while a moving line is shown; null where there is none.
template <typename View>
std::unique_ptr<Ticker> KeepMoving(const ViewOptions& options, View* view, Clock* clock) {
  if (options.quiet || !options.terminal) return nullptr;
  return std::make_unique<Ticker>(absl::Milliseconds(500), clock, [view] { view->Tick(); });
}

// Draws one prompt. Returns the exit code.
int GenerateOne(const Args& args, Session* session, const Console& console, Clock* clock);

// Draws a file of prompts.
int GenerateMany(const Args& args, Session* session, const Console& console, Clock* clock);

// Says what went wrong, the way the arguments ask for it; returns the exit code.
int ReportError(const absl::Status& status, const Args& args, const Console& console);

}  // namespace fresco
