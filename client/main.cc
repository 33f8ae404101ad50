#include <sys/ioctl.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <random>
#include <variant>

#include "client/args.h"
#include "client/exit_code.h"
#include "client/generate.h"
#include "client/interrupt.h"
#include "client/profile.h"
#include "client/session.h"
#include "client/tables.h"
#include "fresco/v1/image_generation.pb.h"
#include "fresco/v1/operations.pb.h"
#include "pipeline/base/clock.h"

namespace fresco {
namespace {

std::string Environment(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// Thread-safe: the device is read anew each time.
uint64_t RandomBits() {
  std::random_device device;
  return uint64_t{device()} << 32 | device();
}

ViewOptions DescribeTerminal(bool quiet) {
  ViewOptions view;
  view.quiet = quiet;
  view.terminal = isatty(STDERR_FILENO) != 0 && Environment("TERM") != "dumb";
  winsize size = {};
  if (view.terminal && ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) view.columns = size.ws_col;
  return view;
}

// How previews are shown. Also asks for them where nothing was said about them and the terminal shows real pictures.
PreviewMode SettlePreviews(const ViewOptions& view, GenerateArgs* args) {
  const PreviewMode mode = args->preview == PreviewMode::kAuto ? DetectPreviewMode(Environment) : args->preview;
  const bool pictures = mode == PreviewMode::kKitty || mode == PreviewMode::kIterm;
  if (view.terminal && !view.quiet && pictures && args->preview_every_where_shown > 0)
    args->request.preview_every = args->preview_every_where_shown;
  return args->request.preview_every == 0 ? PreviewMode::kOff : mode;
}

template <typename Response>
int Print(const absl::Status& status, const Response& response, std::string (*text)(const Response&),
          std::string (*json)(const Response&), const Args& args, const Console& console) {
  if (!status.ok()) return ReportError(status, args, console);
  *console.out << (args.json ? json(response) + "\n" : text(response)) << std::flush;
  return kExitDone;
}

int RunModels(const Args& args, Session* session, const Console& console) {
  v1::ListModelsResponse response;
  const absl::Status status = session->ListModels(&response);
  return Print(status, response, &ModelsText, &ModelsJson, args, console);
}

int RunStatus(const Args& args, Session* session, const Console& console) {
  v1::GetStatusResponse response;
  const absl::Status status = session->GetStatus(&response);
  return Print(status, response, &StatusText, &StatusJson, args, console);
}

int RunHealth(const Args& args, Session* session, const Console& console) {
  if (const absl::Status status = session->CheckHealth(args.model); !status.ok())
    return ReportError(status, args, console);
  *console.out << (args.json ? "{}" : "serving") << std::endl;
  return kExitDone;
}

int RunCancel(const Args& args, Session* session, const Console& console) {
  if (const absl::Status status = session->Cancel(args.request_id); !status.ok())
    return ReportError(status, args, console);
  *console.out << (args.json ? "{}" : "cancelled " + args.request_id) << std::endl;
  return kExitDone;
}

int RunLoadModel(const Args& args, Session* session, const Console& console) {
  v1::LoadModelResponse response;
  const absl::Status status = session->LoadModel(args.model, args.devices, &response);
  return Print(status, response, &LoadModelText, &LoadModelJson, args, console);
}

int RunUnloadModel(const Args& args, Session* session, const Console& console) {
  v1::UnloadModelResponse response;
  const absl::Status status = session->UnloadModel(args.model, args.devices, &response);
  return Print(status, response, &UnloadModelText, &UnloadModelJson, args, console);
}

int Run(const Args& args, const ViewOptions& view, Session* session, Clock* clock) {
  const Console console{&std::cout, &std::cerr, view};
  switch (args.command) {
    case Command::kGenerate: {
      const auto generate = args.generate.prompts_file.empty() ? &GenerateOne : &GenerateMany;
      return generate(args, session, console, clock);
    }
    case Command::kModels:
      return RunModels(args, session, console);
    case Command::kStatus:
      return RunStatus(args, session, console);
    case Command::kHealth:
      return RunHealth(args, session, console);
    case Command::kCancel:
      return RunCancel(args, session, console);
    case Command::kLoadModel:
      return RunLoadModel(args, session, console);
    case Command::kUnloadModel:
      return RunUnloadModel(args, session, console);
    case Command::kProfile:
      return RunProfile(args, session, console);
  }
  return kExitUsage;
}

int Main(int argc, char** argv) {
  const std::variant<Args, int> parsed = ParseArgs(argc, argv);
  if (const int* exit_code = std::get_if<int>(&parsed)) return *exit_code;
  Args args = std::get<Args>(parsed);
  std::signal(SIGPIPE, SIG_IGN);
  SystemClock clock;
  BlockInterrupts();
  Session session(args.connection, &clock, RandomBits);
  InterruptWatcher interrupts([&session] { session.CancelAll(); });
  ViewOptions view = DescribeTerminal(args.quiet);
  view.preview = SettlePreviews(view, &args.generate);
  const int exit_code = Run(args, view, &session, &clock);
  return session.cancelled() ? kExitInterrupted : exit_code;
}

}  // namespace
}  // namespace fresco

int main(int argc, char** argv) {
  try {
    return fresco::Main(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "fresco: " << error.what() << std::endl;
  } catch (...) {
    std::cerr << "fresco: an exception of an unknown type" << std::endl;
  }
  return 1;
}
