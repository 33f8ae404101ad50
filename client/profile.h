// `fresco profile`: where the time of a serving model's steps goes.
#pragma once

#include <string>

#include "client/args.h"
#include "client/drawing.h"
#include "client/generate.h"
#include "client/session.h"

namespace fresco::v1 {
class StepProfile;
}  // namespace fresco::v1

namespace fresco {

// What is said of it: its kinds of layers, then the longest layers.
std::string ProfileText(const v1::StepProfile& profile);

// Asks for the profile, prints it, and writes the trace where the arguments say so. Returns an exit code.
int RunProfile(const Args& args, Session* session, const Console& console);

}  // namespace fresco
