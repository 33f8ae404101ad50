// `fresco generate`.
#pragma once

#include <ostream>

#include "client/args.h"
#include "client/request_view.h"
#include "client/session.h"
#include "pipeline/base/clock.h"

namespace fresco {

// Where a command's words go.
struct Console {
  std::ostream* out = nullptr;  // results
  std::ostream* err = nullptr;  // progress and errors
  ViewOptions view;             // of err
};

// Draws one prompt. Returns the exit code.
int GenerateOne(const Args& args, Session* session, const Console& console, Clock* clock);

// Draws a file of prompts.
int GenerateMany(const Args& args, Session* session, const Console& console, Clock* clock);

// Says what went wrong, the way the arguments ask for it; returns the exit code.
int ReportError(const absl::Status& status, const Args& args, const Console& console);

}  // namespace fresco
