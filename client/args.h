// The command line of `fresco`.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "client/drawing.h"
#include "client/preview.h"
#include "client/session.h"

namespace fresco {

enum class Command { kGenerate, kModels, kStatus, kHealth, kCancel, kLoadModel, kUnloadModel, kProfile };

struct GenerateArgs {
  DrawRequest request;
  bool format_given = false;
  std::string output;        // a pattern of naming.h
  std::string prompts_file;  // empty: request.prompt alone
  std::string prompt_template;
  std::string contact_sheet;  // where to; empty: none
  int parallel = 4;
  int retries = 5;
  PreviewMode preview = PreviewMode::kAuto;
  int preview_every_where_shown = 0;  // steps; nothing was said about previews: where the terminal shows real pictures
};

struct Args {
  Command command = Command::kGenerate;
  ConnectionOptions connection;
  bool json = false;
  bool quiet = false;
  GenerateArgs generate;
  std::string request_id;  // of kCancel
  std::string model;       // of kLoadModel, kUnloadModel, kProfile (empty: the first) and kHealth (empty: all)
  std::vector<std::string> devices;  // of kLoadModel and kUnloadModel; empty: all of the model's; of kProfile: one
  int steps = 5;                     // of kProfile
  std::string trace;                 // of kProfile: the file to write; empty: none
};

// The arguments, or the program's exit code where there is nothing left to do: help and version were asked for (0) or
// the command line is wrong (2); what there is to say has been printed.
std::variant<Args, int> ParseArgs(int argc, const char* const* argv);

}  // namespace fresco
