// fresco-server: flags, and nothing else.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <string>

#include "pipeline/base/clock.h"
#include "pipeline/base/openmp_wait.h"
#include "pipeline/base/status.h"
#include "pipeline/engine/load.h"
#include "pipeline/engine/memory_limit.h"
#include "pipeline/engine/memory_plan.h"
#include "pipeline/engine/profiler.h"
#include "server/auth/token_file.h"
#include "server/config/config.h"
#include "server/main/application.h"

namespace {

struct Flags {
  std::string config, address, metrics_address, port_file, model_path;
  std::string new_token;
  bool check_config = false, allow_plaintext = false, allow_anonymous = false;
};

std::string ProgramPath() {
  std::error_code error;
  return std::filesystem::read_symlink("/proc/self/exe", error).string();
}

absl::StatusOr<fresco::ServerConfig> MakeConfig(const Flags& flags) {
  fresco::ServerConfig config;
  if (!flags.config.empty()) {
    FRESCO_ASSIGN_OR_RETURN(config, fresco::LoadConfigFile(flags.config));
  }
  if (!flags.address.empty()) {
    FRESCO_RETURN_IF_ERROR(fresco::Annotate(fresco::CheckAddress(flags.address), "--address"));
    config.address = flags.address;
  }
  if (!flags.metrics_address.empty()) {
    FRESCO_RETURN_IF_ERROR(fresco::Annotate(fresco::CheckMetricsAddress(flags.metrics_address), "--metrics-address"));
    config.metrics_address = flags.metrics_address;
  }
  config.allow_plaintext = config.allow_plaintext || flags.allow_plaintext;
  config.allow_anonymous = config.allow_anonymous || flags.allow_anonymous;
  FRESCO_RETURN_IF_ERROR(fresco::CheckExposure(config));
  const std::string here = std::filesystem::current_path().string();
  if (!flags.model_path.empty()) {
    config.models = {fresco::DemoModel((std::filesystem::path(here) / flags.model_path).lexically_normal().string())};
  } else if (config.models.empty()) {
    FRESCO_ASSIGN_OR_RETURN(const std::string demo, fresco::FindDemoModel(here, ProgramPath()));
    config.models = {fresco::DemoModel(demo)};
  }
  return config;
}

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "fresco-server: %s\n", std::string(status.message()).c_str());
  return 1;
}

// The token itself is printed once, and kept nowhere.
int PrintNewToken(const std::string& name) {
  const absl::StatusOr<fresco::NewToken> made = fresco::MakeToken(name, fresco::RandomBits);
  if (!made.ok()) return Fail(fresco::Annotate(made.status(), "--new-token"));
  std::printf("Token, for the caller alone:\n%s\n\nEntry, for the list `tokens` in the file of server.tokens:\n%s",
              made->token.c_str(), made->entry.c_str());
  return 0;
}

void AddFlags(CLI::App* app, Flags* flags) {
  app->add_option("--config", flags->config,
                  "YAML configuration (docs/CONFIGURATION.md); none: the demo model on loopback")
      ->type_name("FILE");
  app->add_option("--address", flags->address, "Serve gRPC here instead of server.address; port 0: any free one")
      ->type_name("HOST:PORT");
  app->add_option("--metrics-address", flags->metrics_address, "Serve GET /metrics here instead of metrics.address")
      ->type_name("HOST:PORT");
  app->add_option("--model-path", flags->model_path, "Serve this one model, as 'demo', instead of the configured ones")
      ->type_name("PATH");
  app->add_option("--port-file", flags->port_file, "Write the ports that are listened on to this file, as JSON")
      ->type_name("FILE");
  app->add_flag("--check-config", flags->check_config, "Read the configuration, say what is wrong with it, and exit");
  app->add_flag("--allow-plaintext", flags->allow_plaintext, "Serve other machines without TLS");
  app->add_flag("--allow-anonymous", flags->allow_anonymous, "Serve other machines without asking who calls");
  app->add_option("--new-token", flags->new_token,
                  "Make a token, print it and its entry for the file of server.tokens (docs/SECURITY.md), and exit")
      ->type_name("NAME");
  app->set_version_flag("--version", "fresco-server " FRESCO_VERSION);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Draws images with Stable Diffusion 3.5 over gRPC.", "fresco-server");
  app.footer(
      "SIGTERM and SIGINT: no new work, running work finishes within the grace period, exit 0. A second one ends at "
      "once. Exit 75: a device is lost, and the process is to be started anew.");
  Flags flags;
  AddFlags(&app, &flags);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);
    std::fprintf(stderr, "fresco-server: %s\n(--help explains the options)\n", error.what());
    return 2;
  }
  if (!flags.new_token.empty()) return PrintNewToken(flags.new_token);
  // Starts the program anew, so: not for --help, and before the configuration is read, which can be a pipe.
  fresco::QuietProfiler();
  if (!flags.check_config) fresco::LetOpenMpThreadsSleep(argv);
  const absl::StatusOr<fresco::ServerConfig> config = MakeConfig(flags);
  if (!config.ok()) return Fail(config.status());
  if (flags.check_config) {
    std::printf("%s: fine, %zu model(s)\n", flags.config.empty() ? "defaults" : flags.config.c_str(),
                config->models.size());
    return 0;
  }
  const fresco::SystemClock clock;
  const auto make_recorder = [&clock](const std::string& device, fresco::RecordedDetail detail) {
    return fresco::MakeRecorder(device, detail, &clock);
  };
  const fresco::EngineSource engines = {
      fresco::AvailableDevices,  fresco::LoadEngine,
      fresco::StoredWeightBytes, fresco::LeastMemoryNeed,
      fresco::SetMemoryLimit,    {make_recorder, fresco::MeasurePeaks, fresco::MeasureBandwidth}};
  const absl::Status status = fresco::RunServer({*config, engines, FRESCO_VERSION, flags.port_file});
  return status.ok() ? 0 : Fail(status);
}
