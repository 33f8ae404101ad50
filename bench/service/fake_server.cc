// fresco-fake-server: the service as it is, but for its engine, which draws plain colours and takes the time that it is
// told to take. For load on the service itself; it is not installed.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "bench/service/paced_engine.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "server/config/config.h"
#include "server/main/application.h"
#include "tests/support/fake_engine.h"

namespace fresco {
namespace {

struct Flags {
  std::string config, port_file;
  std::string address = "127.0.0.1:0", metrics_address = "127.0.0.1:0";
  std::string prepare = "0s", step = "2ms", finish = "0s";
  bool paused = false;
};

void AddFlags(CLI::App* app, Flags* flags) {
  app->add_option("--config", flags->config, "As fresco-server's; models are not read")->type_name("FILE");
  app->add_option("--address", flags->address, "gRPC")->type_name("HOST:PORT");
  app->add_option("--metrics-address", flags->metrics_address, "GET /metrics")->type_name("HOST:PORT");
  app->add_option("--port-file", flags->port_file, "As fresco-server's")->type_name("FILE");
  app->add_option("--prepare", flags->prepare, "What preparing takes, like 3ms")->type_name("DURATION");
  app->add_option("--step", flags->step, "What a step of a batch takes")->type_name("DURATION");
  app->add_option("--finish", flags->finish, "What decoding takes")->type_name("DURATION");
  app->add_flag("--paused", flags->paused, "No step begins before a line, or the end, has come on standard input");
}

absl::Status ParsePace(const Flags& flags, Pace* pace) {
  struct Field {
    const char* name;
    const std::string& text;
    absl::Duration* value;
  };
  for (const Field& field :
       {Field{"--prepare", flags.prepare, &pace->prepare}, Field{"--step", flags.step, &pace->step},
        Field{"--finish", flags.finish, &pace->finish}}) {
    if (!absl::ParseDuration(field.text, field.value) || *field.value < absl::ZeroDuration())
      return absl::InvalidArgumentError(StrCat(field.name, ": expected a duration, found '", field.text, "'"));
  }
  return absl::OkStatus();
}

absl::StatusOr<ServerConfig> MakeConfig(const Flags& flags) {
  ServerConfig config;
  if (!flags.config.empty()) {
    FRESCO_ASSIGN_OR_RETURN(config, LoadConfigFile(flags.config));
  }
  config.address = flags.address;
  config.metrics_address = flags.metrics_address;
  ModelConfig model;
  model.name = "fake";
  model.devices = {"cpu"};
  config.models = {model};
  return config;
}

void AwaitLine() {
  std::string line;
  std::getline(std::cin, line);
}

EngineSource Engines(const Pace& pace, bool paused) {
  const auto script = std::make_shared<FakeScript>();
  script->StopRecording();
  EngineSource engines;
  engines.devices = [] { return std::vector<std::string>{"cpu"}; };
  engines.load = [=](const LoadOptions& options) -> absl::StatusOr<std::unique_ptr<Engine>> {
    auto engine = std::make_unique<FakeEngine>(FakeModelInfo(options.name, options.device), script, nullptr);
    return std::make_unique<PacedEngine>(std::move(engine), pace, paused ? std::function<void()>(AwaitLine) : nullptr);
  };
  engines.stored_bytes = [](const std::string&, const std::string&) { return int64_t{0}; };
  return engines;
}

absl::Status Run(const Flags& flags) {
  Pace pace;
  FRESCO_RETURN_IF_ERROR(ParsePace(flags, &pace));
  FRESCO_ASSIGN_OR_RETURN(ServerConfig config, MakeConfig(flags));
  if (flags.paused) config.measure_at_load = absl::ZeroDuration();  // it would wait too
  return RunServer({config, Engines(pace, flags.paused), FRESCO_VERSION, flags.port_file});
}

}  // namespace
}  // namespace fresco

int main(int argc, char** argv) {
  CLI::App app("Serves as fresco-server does, and draws nothing but plain colours.", "fresco-fake-server");
  fresco::Flags flags;
  fresco::AddFlags(&app, &flags);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  const absl::Status status = fresco::Run(flags);
  if (status.ok()) return 0;
  std::fprintf(stderr, "fresco-fake-server: %s\n", std::string(status.message()).c_str());
  return 1;
}
