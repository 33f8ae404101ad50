// fresco-server: flags, and nothing else.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <string>

#include "pipeline/base/status.h"
#include "server/config/config.h"
#include "server/main/application.h"
#include "server/main/openmp_wait.h"

namespace {

struct Flags {
  std::string config, address, metrics_address, port_file, model_path;
  bool check_config = false;
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
    return app.exit(error) == 0 ? 0 : 2;
  }
  // Starts the program anew, so: not for --help, and before the configuration is read, which can be a pipe.
  if (!flags.check_config) fresco::LetOpenMpThreadsSleep(argv);
  const absl::StatusOr<fresco::ServerConfig> config = MakeConfig(flags);
  if (!config.ok()) return Fail(config.status());
  if (flags.check_config) {
    std::printf("%s: fine, %zu model(s)\n", flags.config.empty() ? "defaults" : flags.config.c_str(),
                config->models.size());
    return 0;
  }
  const absl::Status status = fresco::RunServer({*config, FRESCO_VERSION, flags.port_file});
  return status.ok() ? 0 : Fail(status);
}
