#include "client/args.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "client/exit_code.h"
#include "client/files.h"
#include "client/naming.h"
#include "pipeline/base/status.h"
#include "pipeline/base/tenant.h"
#include "pipeline/base/utf8.h"

namespace fresco {
namespace {

constexpr int kPreviewEvery = 4;  // steps, where nothing else is asked for
constexpr int kMostProfiledSteps = 64;
constexpr int kMost = 1 << 20;  // of anything that is counted; the server has limits of its own

constexpr char kExamples[] = R"(
Examples:
  fresco generate -p "a watercolour of a lighthouse at dusk" -o lighthouse.png
  fresco generate -p "a red fox" --steps 28 --guidance 4.5 --seed 7 --count 4 -o "fox-{seed}.webp"
  fresco generate --prompts-file prompts.txt -o out/ --contact-sheet out/sheet.jpg
  fresco models
  fresco status --server gpu-box:8500
  fresco load-model sd3.5-large
  fresco profile --trace trace.json

'fresco generate --help' explains every option.
Exit codes: 0 done, 2 wrong usage, 3 refused by the server or failed, 4 no server there, 130 interrupted.
)";

constexpr char kGenerateExamples[] = R"(
Where pictures go:
  -o fox.png                 that file (with --count 3: fox-1.png, fox-2.png, fox-3.png)
  -o "{prompt}-{seed}.jpg"   names made of the prompt's words, the seed, and {index}, which counts from 1
  -o out/                    a folder; names are made up
  (nothing)                  PROMPT-SEED.png here, never over a file that is there
The extension decides the format; where it is none of a picture, --format does. A file of a given name is written over,
and folders that are missing are made.

Many prompts:
  fresco generate --prompts-file prompts.txt --seed 1 -o out/
      One prompt a line. The first is drawn from seed 1, the second from 2, and so on. Run it again after an interruption
      and it goes on where it stopped.
  fresco generate --prompts-file animals.csv --template "a {colour} {animal}, oil painting" -o out/
      animals.csv:  colour,animal,seed,output
                    red,fox,1,fox.png
                    blue,"hen, sitting",2,hen.png
      Columns named seed, width, height, steps, guidance, negative and output replace the options of that name. Without
      --template the column "prompt" is drawn.

Scripts:
  --json prints one JSON object: images (file, seed, width, height, …), timings in seconds, warnings; or error (code, message,
  fields). With --prompts-file it prints one such object a line for every prompt as it is finished, with its line and
  status (done, skipped, failed), and a summary at the end.
)";

constexpr char kModelsExamples[] = R"(
Examples:
  fresco models
  fresco models --json --server gpu-box:8500
  fresco models --wait 60      waits for a server that is coming up
)";

constexpr char kStatusExamples[] = R"(
Examples:
  fresco status
  fresco status --json --server gpu-box:8500
)";

constexpr char kHealthExamples[] = R"(
Examples:
  fresco health                the whole server: every model that it starts with is loaded, and no device is lost
  fresco health sd3.5-large
  fresco health --wait 60      waits until it serves
Exit codes: 0 it serves, 3 it loads, drains or has lost a device, 4 no server there.
)";

constexpr char kCancelExamples[] = R"(
Examples:
  fresco generate -p "a red fox" --request-id fox -o fox.png &
  fresco cancel fox
'fresco status' shows the ids of requests that are waiting or running.
)";

constexpr char kLoadModelExamples[] = R"(
Examples:
  fresco load-model sd3.5-large
  fresco load-model sd3.5-large --device cuda:0 --device cuda:1
Returns when the model is ready; others are served meanwhile. 'fresco models' shows which there are, 'fresco status'
what their weights take of each device's memory.
)";

constexpr char kUnloadModelExamples[] = R"(
Examples:
  fresco unload-model sd3.5-large
  fresco unload-model sd3.5-large --device cuda:1
Returns when the model's memory is free: what runs is finished, or moved to another device that has the model.
)";

constexpr char kProfileExamples[] = R"(
Examples:
  fresco profile                          the first model, as it draws what others ask for
  fresco profile --model sd3.5-large --steps 10 --trace trace.json
  fresco generate -p "a red fox" -o fox.png & fresco profile --timeout 60
Every second step of those that the server makes is recorded; what that costs is said. Where nobody draws, it waits.
)";

std::string CheckSyntax(const absl::Status& status) {
  return status.ok() ? "" : std::string(status.message());
}

// The environment comes first, so that options replace it. CLI11's own way, envname(), would let every subcommand that
// is not the one at hand put the variable back over the option.
void TakeEnvironment(ConnectionOptions* connection) {
  const auto take = [](const char* name, std::string* target) {
    if (const char* value = std::getenv(name); value != nullptr && *value != '\0') *target = value;
  };
  take("FRESCO_SERVER", &connection->server);
  take("FRESCO_TOKEN", &connection->token);
  take("FRESCO_TENANT", &connection->tenant);
}

// CLI11's own numbers wrap where they are negative and are cut where they are too large.
bool ParseNumber(const std::string& text, int* value) {
  return absl::SimpleAtoi(text, value);
}
bool ParseNumber(const std::string& text, uint64_t* value) {
  return absl::SimpleAtoi(text, value);
}
bool ParseNumber(const std::string& text, double* value) {
  return absl::SimpleAtod(text, value);
}

// A check that an option's value is a number from `low` to `high`.
template <typename Number>
CLI::Validator From(Number low, Number high) {
  const auto check = [=](const std::string& text) {
    Number value{};
    if (ParseNumber(text, &value) && value >= low && value <= high) return std::string();
    const char* const kind = std::is_integral_v<Number> ? "a whole number" : "a number";
    return StrCat("\"", text, "\" is not ", kind, " from ", low, " to ", high);
  };
  return CLI::Validator(check, "");
}

CLI::Validator IsText() {
  return CLI::Validator([](const std::string& text) { return IsUtf8(text) ? "" : "the text is not UTF-8"; }, "");
}

// Files of secrets and certificates; empty where none is named.
struct ConnectionFiles {
  bool tls = false;
  bool token_in_clear = false;
  std::string authorities, certificate, key, token;
};

void AddSecurity(CLI::App* app, ConnectionFiles* files) {
  const auto add_file = [app](const char* name, std::string* path, const char* description) {
    app->add_option(name, *path, description)
        ->type_name("FILE")
        ->check(CLI::Validator(CLI::ExistingFile).description(""));
  };
  app->add_flag("--tls", files->tls, "Encrypt, and check who the server is (or set FRESCO_TLS=1; --ca does too)");
  add_file("--ca", &files->authorities, "Take these authorities' word on who the server is, in PEM [the system's]");
  add_file("--certificate", &files->certificate, "The caller's own certificate, in PEM, where the server asks for one");
  add_file("--key", &files->key, "The certificate's key, in PEM");
  add_file("--token-file", &files->token, "Read the token from this file, so that no list of processes shows it");
  app->add_flag("--token-in-clear", files->token_in_clear, "Send the token to another machine without TLS");
}

// What a file holds; without the end of its last line where `trim`.
absl::StatusOr<std::string> ReadNamed(const char* option, const std::string& path, bool trim) {
  if (path.empty()) return std::string();
  FRESCO_ASSIGN_OR_RETURN(std::string text, ReadFile(path));
  if (trim) absl::StripTrailingAsciiWhitespace(&text);
  if (text.empty()) return absl::InvalidArgumentError(StrCat(option, ": ", path, " is empty"));
  return text;
}

bool OnThisMachine(std::string_view server) {
  const std::string_view host = server.substr(0, server.rfind(':'));
  return host == "localhost" || host == "[::1]" || host.starts_with("127.");
}

// gRPC ends the program at a header's value that it does not know.
bool IsToken(std::string_view token) {
  return std::all_of(token.begin(), token.end(), [](unsigned char c) { return c >= ' ' && c < 0x7F; });
}

absl::Status SettleSecurity(const ConnectionFiles& files, ConnectionOptions* connection) {
  if (!files.token.empty()) {
    FRESCO_ASSIGN_OR_RETURN(connection->token, ReadNamed("--token-file", files.token, true));
  }
  if (!IsToken(connection->token)) return absl::InvalidArgumentError("the token is not of printable ASCII");
  const char* const asked = std::getenv("FRESCO_TLS");
  const bool tls = files.tls || !files.authorities.empty() || !files.certificate.empty() ||
                   (asked != nullptr && std::string_view(asked) == "1");
  if (files.certificate.empty() != files.key.empty())
    return absl::InvalidArgumentError("--certificate and --key go together");
  if (tls) {
    TlsOptions& options = connection->tls.emplace();
    FRESCO_ASSIGN_OR_RETURN(options.authorities, ReadNamed("--ca", files.authorities, false));
    FRESCO_ASSIGN_OR_RETURN(options.certificate, ReadNamed("--certificate", files.certificate, false));
    FRESCO_ASSIGN_OR_RETURN(options.key, ReadNamed("--key", files.key, false));
  } else if (!connection->token.empty() && !files.token_in_clear && !OnThisMachine(connection->server)) {
    return absl::InvalidArgumentError(
        "without --tls everybody on the way could read the token; --token-in-clear sends it all the same");
  }
  return absl::OkStatus();
}

void AddConnection(CLI::App* app, Args* args, ConnectionFiles* files, double* wait, double* timeout) {
  ConnectionOptions* connection = &args->connection;
  AddSecurity(app, files);
  app->add_option("--server", connection->server, "Where the server listens (or set FRESCO_SERVER)")
      ->type_name("HOST:PORT")
      ->capture_default_str();
  app->add_option("--token", connection->token,
                  "The caller's token, where the server asks for one (or set FRESCO_TOKEN)");
  app->add_option(
         "--tenant", connection->tenant,
         "Whose the request is, where the server shares its devices by that name; a request is cancelled with\n"
         "the name that it was made with (or set FRESCO_TENANT)")
      ->type_name("NAME");
  app->add_option("--wait", *wait, "How long to wait for a server that is not up yet, or is loading")
      ->type_name("SECONDS")
      ->check(From(0.0, 1e6))
      ->capture_default_str();
  app->add_option("--timeout", *timeout, "How long a call may take [no limit]")
      ->type_name("SECONDS")
      ->check(From(1e-3, 1e6));
  app->add_flag("--json", args->json, "Print JSON on standard output");
}

// An option that takes one of a few words; `listed` is how a person is told of them. (CLI11's own transformers show the
// enumeration's numbers, and take them.)
template <typename Enum>
CLI::Option* AddChoice(CLI::App* app, const std::string& name, Enum* value, const std::map<std::string, Enum>& choices,
                       const std::string& listed, const std::string& description) {
  return app
      ->add_option_function<std::string>(
          name, [=](const std::string& word) { *value = choices.at(absl::AsciiStrToLower(word)); }, description)
      ->check(CLI::Validator(
          [=](const std::string& word) {
            return choices.contains(absl::AsciiStrToLower(word)) ? "" : "\"" + word + "\" is not " + listed;
          },
          ""));
}

void AddTexts(CLI::App* app, DrawRequest* request) {
  app->add_option("-m,--model", request->model, "The model's name (see 'fresco models') [the server's first]")
      ->type_name("NAME")
      ->check(IsText());
  app->add_option("-p,--prompt", request->prompt, "What to draw")->check(IsText());
  app->add_option("-n,--negative", request->negative_prompt, "What to stay away from")->check(IsText());
  // Not as an optional, which would take an empty text for none.
  const auto add_own_prompt = [&](const char* name, std::optional<std::string>* prompt, const char* description) {
    app->add_option_function<std::string>(
           name, [prompt](const std::string& text) { *prompt = text; }, description)
        ->type_name("TEXT")
        ->check(IsText());
  };
  add_own_prompt("--prompt-2", &request->prompt_2, "A prompt of its own for CLIP-G [the prompt]");
  add_own_prompt("--prompt-3", &request->prompt_3, "A prompt of its own for T5 [the prompt]");
  app->add_option("--clip-skip", request->clip_skip, "CLIP layers to leave out before the last but one")
      ->type_name("N")
      ->check(From(0, kMost))
      ->capture_default_str();
  // Not as CLI11's flag of an optional, which is a count that begins at 0: false where nobody has asked.
  app->add_flag_function(
      "--noise-correction,!--no-noise-correction", [request](int64_t sum) { request->noise_correction = sum > 0; },
      "Take back, or not, what the model's quantisation does on average [as the server is configured for the model]");
  app->add_flag("--deterministic", request->deterministic,
                "The same pixels each time on this type of device, whatever else it draws; may take longer on a GPU");
  app->add_option("--max-sequence-length", request->max_sequence_length,
                  "T5 tokens of the prompt; longer ones are cut [the model's default]")
      ->type_name("N")
      ->check(From(1, kMost));
}

void AddPicture(CLI::App* app, DrawRequest* request) {
  app->add_option("-W,--width", request->width, "[the model's default]")->type_name("PIXELS")->check(From(1, kMost));
  app->add_option("-H,--height", request->height, "[the model's default]")->type_name("PIXELS")->check(From(1, kMost));
  app->add_option("-s,--steps", request->steps, "Denoising steps: more take longer and are finer [the model's default]")
      ->type_name("N")
      ->check(From(1, kMost));
  app->add_option("-g,--guidance", request->guidance,
                  "How closely to follow the prompt, 0 to 30; 1 or less is twice as fast [the model's default]")
      ->type_name("SCALE")
      ->check(From(0.0, 30.0));
  const auto take_seed = [request](const std::string& text) { ParseNumber(text, &request->seed.emplace()); };
  app->add_option_function<std::string>("--seed", take_seed, "Equal seeds give equal pictures [drawn by the server]")
      ->type_name("N")
      ->check(From<uint64_t>(0, std::numeric_limits<uint64_t>::max()));
  app->add_option("-c,--count", request->count, "How many pictures; picture k is drawn from seed + k")
      ->type_name("N")
      ->check(From(1, kMost))
      ->capture_default_str();
  AddChoice<DrawPriority>(app, "--priority", &request->priority,
                          {{"interactive", DrawPriority::kInteractive},
                           {"standard", DrawPriority::kStandard},
                           {"batch", DrawPriority::kBatch}},
                          "interactive, standard or batch",
                          "Who is served first when not all can be at once: interactive, standard or batch\n"
                          "[interactive; batch with --prompts-file]")
      ->type_name("PRIORITY");
  app->add_option("--request-id", request->request_id,
                  "A name for this request, for 'fresco cancel' and the server's log [made by the server]")
      ->type_name("ID")
      ->check(IsText());
}

void AddPreview(CLI::App* app, GenerateArgs* args) {
  AddChoice<PreviewMode>(app, "--preview", &args->preview,
                         {{"auto", PreviewMode::kAuto},
                          {"kitty", PreviewMode::kKitty},
                          {"iterm", PreviewMode::kIterm},
                          {"blocks", PreviewMode::kBlocks},
                          {"off", PreviewMode::kOff}},
                         "auto, kitty, iterm, blocks or off",
                         "How the terminal shows the picture as it takes shape: auto, kitty, iterm, blocks or off.\n"
                         "Unasked only where it shows real pictures (kitty's or iTerm2's protocol)")
      ->type_name("KIND")
      ->default_str("auto");
  app->add_option(
         "--preview-every", args->request.preview_every,
         StrCat("A preview every N steps; 0: none [", kPreviewEvery, " where the terminal shows them, else 0]"))
      ->type_name("N")
      ->check(From(0, 10000));
}

void AddOutput(CLI::App* app, GenerateArgs* args) {
  app->add_option("-o,--output", args->output,
                  "A file, a folder (ending in /), or a pattern with {seed}, {index}, {prompt} [PROMPT-SEED.png here]")
      ->type_name("PATH")
      ->check(CLI::Validator([](const std::string& text) { return CheckSyntax(CheckOutputPattern(text)); }, ""));
  AddChoice<ImageFormat>(app, "--format", &args->request.format,
                         {{"png", ImageFormat::kPng},
                          {"jpeg", ImageFormat::kJpeg},
                          {"jpg", ImageFormat::kJpeg},
                          {"webp", ImageFormat::kWebp}},
                         "png, jpeg or webp", "png, jpeg or webp [as the extension of --output says, else png]")
      ->type_name("FORMAT");
  app->add_option("--quality", args->request.quality, "Of JPEG and WebP, 1 to 100")
      ->type_name("N")
      ->default_str("90")  // the API's; 0 leaves it to the server
      ->check(From(1, 100));
  app->add_option("--contact-sheet", args->contact_sheet, "Also put all pictures small onto one: a .png, .jpg or .webp")
      ->type_name("FILE")
      ->check(CLI::Validator([](const std::string& text) { return CheckSyntax(FormatOfPath(text).status()); }, ""));
}

void AddBatch(CLI::App* app, GenerateArgs* args) {
  app->add_option("--prompts-file", args->prompts_file, "Draw every line of a text file, or every row of a .csv")
      ->type_name("FILE")
      ->check(CLI::Validator(CLI::ExistingFile).description(""));
  app->add_option("--template", args->prompt_template, "A prompt with {column} in it for a CSV file [{prompt}]");
  app->add_option("--parallel", args->parallel, "Requests at a time, 1 to 256")
      ->type_name("N")
      ->check(From(1, 256))
      ->capture_default_str();
  app->add_option("--retries", args->retries, "How often to try again when the server is busy")
      ->type_name("N")
      ->check(From(0, 1000))
      ->capture_default_str();
}

// A name, an IPv4 address or an IPv6 address in brackets, and a port: gRPC itself takes nearly anything for a name, and
// ports modulo 65536.
absl::Status CheckServer(std::string_view server) {
  const size_t colon = std::min(server.rfind(':'), server.size());
  const std::string_view host = server.substr(0, colon);
  const std::string_view port = server.substr(std::min(colon + 1, server.size()));
  const bool brackets = host.size() > 2 && host.front() == '[' && host.back() == ']';
  const bool named = !host.empty() && host.find_first_of(brackets ? "/ \t" : ":/[] \t") == std::string_view::npos;
  const bool digits = !port.empty() && port.find_first_not_of("0123456789") == std::string_view::npos;
  int number = 0;
  if (named && digits && absl::SimpleAtoi(ToAbsl(port), &number) && number >= 1 && number <= 65535)
    return absl::OkStatus();
  return absl::InvalidArgumentError(StrCat("--server: expected HOST:PORT, not \"", server, "\""));
}

// As the server takes it: gRPC itself ends the program at what cannot be a header's value.
absl::Status CheckTenant(std::string_view name) {
  if (name.empty() || IsTenantName(name)) return absl::OkStatus();
  return absl::InvalidArgumentError(StrCat("--tenant: expected a name of ", kTenantNameRule, ", not \"", name, "\""));
}

std::string_view FormatName(ImageFormat format) {
  return format == ImageFormat::kPng ? "png" : format == ImageFormat::kJpeg ? "jpeg" : "webp";
}

// The format that --format and the name of --output ask for.
absl::Status SettleFormat(GenerateArgs* args) {
  if (NamesItself(args->output)) return absl::OkStatus();
  const absl::StatusOr<ImageFormat> format = FormatOfPath(args->output);
  if (!format.ok() && args->format_given) return absl::OkStatus();
  if (!format.ok()) {
    return absl::InvalidArgumentError(
        StrCat("--output: ", ToStd(format.status().message()),
               ", the formats that can be written, nor in / as a folder does; with --format any name will do"));
  }
  if (args->format_given && *format != args->request.format) {
    return absl::InvalidArgumentError(
        StrCat("--output \"", args->output, "\" is not what --format ", FormatName(args->request.format), " writes"));
  }
  args->request.format = *format;
  return absl::OkStatus();
}

// What options mean together.
absl::Status Settle(const CLI::App& app, GenerateArgs* args) {
  const bool batch = !args->prompts_file.empty();
  if (batch == (app.count("--prompt") > 0))
    return absl::InvalidArgumentError("exactly one of --prompt and --prompts-file is needed");
  for (const char* option : {"--template", "--parallel", "--retries"}) {
    if (!batch && app.count(option) > 0) return absl::InvalidArgumentError(StrCat(option, " goes with --prompts-file"));
  }
  if (batch && app.count("--request-id") > 0) return absl::InvalidArgumentError("--request-id goes with --prompt");
  if (IsDirectory(args->output) && args->output.back() != '/') args->output += '/';
  args->format_given = app.count("--format") > 0;
  FRESCO_RETURN_IF_ERROR(SettleFormat(args));
  if (!batch && app.count("--priority") == 0) args->request.priority = DrawPriority::kInteractive;
  if (batch && app.count("--priority") == 0) args->request.priority = DrawPriority::kBatch;
  if (batch || app.count("--preview-every") > 0 || args->preview == PreviewMode::kOff) return absl::OkStatus();
  if (app.count("--preview") > 0) args->request.preview_every = kPreviewEvery;
  args->preview_every_where_shown = app.count("--preview") == 0 ? kPreviewEvery : 0;
  return absl::OkStatus();
}

void AddProfile(CLI::App* command, Args* args) {
  command->footer(kProfileExamples);
  command->add_option("-m,--model", args->model, "Its name, as 'fresco models' shows it [the first]")
      ->type_name("NAME");
  command->add_option("--device", args->devices, "The device whose steps are meant, like cuda:0 [whichever is first]")
      ->type_name("DEVICE")
      ->expected(1);
  command->add_option("--steps", args->steps, "Steps to record [5]")
      ->type_name("N")
      ->check(From(1, kMostProfiledSteps));
  command->add_option("--trace", args->trace, "Write the trace here, in Chrome's format")->type_name("FILE");
}

// What is wrong with the command's name: CLI11 would but say that one is required.
absl::Status CheckCommand(const CLI::App& app, int argc, const char* const* argv) {
  const std::string name = argc > 1 ? argv[1] : "";
  if (name == "-h" || name == "--help" || name == "--version") return absl::OkStatus();
  std::string known;
  for (const CLI::App* command : app.get_subcommands(nullptr)) {
    if (command->get_name() == name) return absl::OkStatus();
    known += (known.empty() ? "" : ", ") + command->get_name();
  }
  if (name.empty()) return absl::InvalidArgumentError(StrCat("a command comes first; there are ", known));
  if (name.front() == '-')
    return absl::InvalidArgumentError(StrCat("a command comes before '", name, "'; there are ", known));
  return absl::InvalidArgumentError(StrCat("unknown command '", name, "'; there are ", known));
}

// CLI11 would list all that it does not expect, the last first.
std::string Explain(const CLI::ParseError& error, const CLI::App& app) {
  const std::vector<std::string> unexpected = app.remaining(true);
  if (dynamic_cast<const CLI::ExtrasError*>(&error) == nullptr || unexpected.empty()) return error.what();
  const std::string& first = unexpected.front();
  if (first.starts_with('-')) return StrCat("unknown option '", first, "'");
  const bool draws = app.got_subcommand("generate");
  return StrCat("unexpected '", first, draws ? "': a prompt comes after --prompt, in quotes" : "'");
}

int Usage(std::string_view message) {
  std::cerr << "fresco: " << message << "\n(--help explains the options)\n";
  return kExitUsage;
}

}  // namespace

std::variant<Args, int> ParseArgs(int argc, const char* const* argv) {
  Args args;
  TakeEnvironment(&args.connection);
  double wait = 0, timeout = 0;
  ConnectionFiles files;
  CLI::App app("Draws pictures with a Fresco server.", "fresco");
  app.footer(kExamples);
  app.set_version_flag("--version", "fresco " FRESCO_VERSION);
  app.require_subcommand(1);
  CLI::App* generate = app.add_subcommand("generate", "Draw pictures from a prompt, or from a file of many");
  generate->footer(kGenerateExamples);
  AddTexts(generate, &args.generate.request);
  AddPicture(generate, &args.generate.request);
  AddPreview(generate, &args.generate);
  AddOutput(generate, &args.generate);
  AddBatch(generate, &args.generate);
  generate->add_flag("-q,--quiet", args.quiet, "No progress, only errors");
  CLI::App* models = app.add_subcommand("models", "What the server can draw with, and its defaults and limits");
  CLI::App* status = app.add_subcommand("status", "What the server is doing right now");
  CLI::App* health = app.add_subcommand("health", "Whether the server takes requests, for scripts and supervisors");
  CLI::App* cancel = app.add_subcommand("cancel", "End a request that is waiting or running");
  models->footer(kModelsExamples);
  status->footer(kStatusExamples);
  health->footer(kHealthExamples);
  health->add_option("MODEL", args.model, "Only this one [all that the server starts with]");
  cancel->footer(kCancelExamples);
  cancel->add_option("ID", args.request_id, "The request's id, as 'fresco status' shows it")->required();
  CLI::App* load = app.add_subcommand("load-model", "Load a model that the server has and that is not loaded");
  CLI::App* unload = app.add_subcommand("unload-model", "Take a model out of the server's memory");
  load->footer(kLoadModelExamples);
  unload->footer(kUnloadModelExamples);
  for (CLI::App* command : {load, unload}) {
    command->add_option("MODEL", args.model, "Its name, as 'fresco models' shows it")->required();
    command->add_option("--device", args.devices, "One of the model's devices, like cuda:0; again for more [all]")
        ->type_name("DEVICE")
        ->allow_extra_args(false);
  }
  CLI::App* profile = app.add_subcommand("profile", "Where the time of a model's next steps goes, layer by layer");
  AddProfile(profile, &args);
  for (CLI::App* command : {generate, models, status, health, cancel, load, unload, profile})
    AddConnection(command, &args, &files, &wait, &timeout);
  if (const absl::Status command = CheckCommand(app, argc, argv); !command.ok()) return Usage(ToStd(command.message()));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);
    return Usage(Explain(error, app));
  }

  if (const absl::Status server = CheckServer(args.connection.server); !server.ok())
    return Usage(ToStd(server.message()));
  if (const absl::Status tenant = CheckTenant(args.connection.tenant); !tenant.ok())
    return Usage(ToStd(tenant.message()));
  if (const absl::Status security = SettleSecurity(files, &args.connection); !security.ok())
    return Usage(ToStd(security.message()));
  args.connection.wait = absl::Seconds(wait);
  if (timeout > 0) args.connection.timeout = absl::Seconds(timeout);
  args.command = *models    ? Command::kModels
                 : *status  ? Command::kStatus
                 : *health  ? Command::kHealth
                 : *cancel  ? Command::kCancel
                 : *load    ? Command::kLoadModel
                 : *unload  ? Command::kUnloadModel
                 : *profile ? Command::kProfile
                            : Command::kGenerate;
  if (args.command == Command::kGenerate) {
    if (const absl::Status settled = Settle(*generate, &args.generate); !settled.ok())
      return Usage(ToStd(settled.message()));
  }
  return args;
}

}  // namespace fresco
