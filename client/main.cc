#include <sys/ioctl.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <variant>

#include "client/args.h"
#include "client/exit_code.h"
#include "client/generate.h"
#include "client/interrupt.h"
#include "client/session.h"
#include "client/tables.h"
#include "fresco/v1/image_generation.pb.h"
#include "fresco/v1/operations.pb.h"
#include "pipeline/base/clock.h"

namespace fresco {
namespace {

// Also asks for previews where nothing was said about them and the terminal shows real pictures.
ViewOptions DescribeTerminal(Args* asked) {
  Args& args = *asked;
  ViewOptions view;
  view.quiet = args.quiet;
  const auto environment = [](const char* name) {
    const char* value = std::getenv(name);
    return std::string(value == nullptr ? "" : value);
  };
  view.terminal = isatty(STDERR_FILENO) != 0 && environment("TERM") != "dumb";
  winsize size = {};
  if (view.terminal && ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) view.columns = size.ws_col;
  view.preview = args.generate.preview == PreviewMode::kAuto ? DetectPreviewMode(environment) : args.generate.preview;
  const bool pictures = view.preview == PreviewMode::kKitty || view.preview == PreviewMode::kIterm;
  if (view.terminal && !view.quiet && pictures && args.generate.preview_every_where_shown > 0)
    args.generate.request.preview_every = args.generate.preview_every_where_shown;
  if (args.generate.request.preview_every == 0) view.preview = PreviewMode::kOff;
  return view;
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

int RunCancel(const Args& args, Session* session, const Console& console) {
  if (const absl::Status status = session->Cancel(args.request_id); !status.ok())
    return ReportError(status, args, console);
  *console.out << (args.json ? "{}" : "cancelled " + args.request_id) << std::endl;
  return kExitDone;
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
    case Command::kCancel:
      return RunCancel(args, session, console);
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
  Session session(args.connection, &clock);
  InterruptWatcher interrupts([&session] { session.CancelAll(); });
  const ViewOptions view = DescribeTerminal(&args);
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
