#include "server/config/config.h"

#include <filesystem>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "pipeline/base/strings.h"

namespace fresco {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

// A folder with models/demo (a model) and weights.safetensors in it.
class ConfigTest : public ::testing::Test {
 protected:
  ConfigTest() {
    std::string name = (std::filesystem::temp_directory_path() / "fresco-config-XXXXXX").string();
    folder_ = mkdtemp(name.data());
    std::filesystem::create_directories(folder_ / "models/demo");
    Write("models/demo/model_index.json", "{}");
    Write("weights.safetensors", "");
  }
  ~ConfigTest() override { std::filesystem::remove_all(folder_); }

  void Write(const std::string& name, const std::string& text) { std::ofstream(folder_ / name) << text; }
  absl::StatusOr<ServerConfig> Parse(const std::string& text) const {
    return ParseConfig(text, {"fresco.yaml", folder_.string()});
  }
  std::string ErrorOf(const std::string& text) const { return std::string(Parse(text).status().message()); }

  std::filesystem::path folder_;
};

TEST_F(ConfigTest, AnEmptyFileHasTheDocumentedDefaults) {
  const auto config = Parse("");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->address, "127.0.0.1:8500");
  EXPECT_EQ(config->metrics_address, "127.0.0.1:9500");
  EXPECT_TRUE(config->metrics_enabled);
  EXPECT_EQ(config->max_queue, 256);
  EXPECT_EQ(config->max_batch, 8);
  EXPECT_EQ(config->scheduling.policy, "deadline-fair");
  EXPECT_EQ(config->scheduling.classes[0].max_wait, absl::Seconds(8));
  EXPECT_EQ(config->scheduling.classes[1].target, absl::Seconds(2));
  EXPECT_EQ(config->scheduling.classes[2].stretch, 10);
  EXPECT_EQ(config->scheduling.fairness_window, absl::Seconds(40));
  EXPECT_EQ(config->cost_model, "");
  EXPECT_EQ(config->measure_at_load, absl::Seconds(5));
  EXPECT_EQ(config->results.keep, absl::Seconds(60));
  EXPECT_EQ(config->results.keep_bytes, 256 << 20);
  EXPECT_TRUE(config->results.anonymous);
  EXPECT_EQ(config->limits.max_prompt_bytes, 8192);
  EXPECT_EQ(config->max_request_bytes, 256 << 10);
  EXPECT_FALSE(config->log.prompts);
  EXPECT_TRUE(config->models.empty());
}

TEST_F(ConfigTest, AMemoryBudgetIsOfADeviceAndInBytes) {
  EXPECT_THAT(ErrorOf("compute: {memory_budget: 4GiB}"),
              HasSubstr("fresco.yaml:1: compute.memory_budget: expected a mapping of devices"));
  EXPECT_THAT(ErrorOf("compute: {memory_budget: {gpu: 4GiB}}"),
              HasSubstr("fresco.yaml:1: compute.memory_budget: expected cpu or cuda:N, found 'gpu'"));
  EXPECT_THAT(ErrorOf("compute: {memory_budget: {auto: 4GiB}}"), HasSubstr("found 'auto'"));
  EXPECT_THAT(ErrorOf("compute: {memory_budget: {cpu: 4}}"), HasSubstr("compute.memory_budget.cpu"));
  EXPECT_THAT(ErrorOf("models: [{path: models/demo, load: never}]"),
              HasSubstr("models[0].load: expected one of startup, on_demand, manual, found 'never'"));
}

TEST_F(ConfigTest, ABudgetForEverythingIsOfEveryDeviceOrOfEach) {
  EXPECT_EQ(Parse("models: [{path: models/demo}]")->BudgetOf("cpu"), 0);
  const auto every = Parse("models: [{path: models/demo}]\nmemory: {budget: 8GiB}");
  ASSERT_TRUE(every.ok()) << every.status();
  EXPECT_EQ(every->BudgetOf("cpu"), int64_t{8} << 30);
  EXPECT_EQ(every->BudgetOf("cuda:1"), int64_t{8} << 30);
  const auto each = Parse("models: [{path: models/demo}]\nmemory: {budget: {\"cuda:0\": 6GiB}}");
  ASSERT_TRUE(each.ok()) << each.status();
  EXPECT_EQ(each->BudgetOf("cuda:0"), int64_t{6} << 30);
  EXPECT_EQ(each->BudgetOf("cpu"), 0);
  const auto limited = Parse("models: [{path: models/demo}]\nmemory: {limit: {\"cuda:0\": 6GiB, cpu: 2GiB}}");
  ASSERT_TRUE(limited.ok()) << limited.status();
  EXPECT_EQ(limited->LimitOf("cuda:0"), int64_t{6} << 30);
  EXPECT_EQ(limited->LimitOf("cuda:1"), 0);
  EXPECT_EQ(limited->BudgetOf("cpu"), 0);
  EXPECT_THAT(ErrorOf("memory: {limit: 4}"), HasSubstr("memory.limit: expected"));
  EXPECT_THAT(ErrorOf("memory: {budget: {gpu: 4GiB}}"),
              HasSubstr("fresco.yaml:1: memory.budget: expected cpu or cuda:N, found 'gpu'"));
  EXPECT_THAT(ErrorOf("memory: {budget: 4}"), HasSubstr("memory.budget: expected"));
  EXPECT_THAT(ErrorOf("memory: {budgets: 4GiB}"), HasSubstr("memory.budgets: unknown setting"));
}

TEST_F(ConfigTest, MemoryThatNoModelCanUseIsAnError) {
  const std::string on_cpu = "models: [{path: models/demo, devices: [cpu]}]\n";
  EXPECT_THAT(ErrorOf(on_cpu + "memory: {budget: {\"cuda:0\": 6GiB}}"),
              HasSubstr("fresco.yaml:2: memory.budget: names cuda:0, which no model is on"));
  EXPECT_THAT(ErrorOf(on_cpu + "memory: {limit: {\"cuda:1\": 6GiB}}"), HasSubstr("memory.limit: names cuda:1"));
  EXPECT_TRUE(Parse("models: [{path: models/demo, devices: [auto]}]\nmemory: {budget: {\"cuda:0\": 6GiB}}").ok());
}

TEST_F(ConfigTest, ABudgetIsWithinTheLimit) {
  EXPECT_THAT(ErrorOf("memory: {budget: 8GiB, limit: 6GiB}"),
              HasSubstr("memory.budget: 8.0 GiB is above the limit, 6.0 GiB"));
  EXPECT_THAT(ErrorOf("memory: {budget: 8GiB, limit: {cpu: 6GiB}}"),
              HasSubstr("memory.budget: 8.0 GiB of cpu is above"));
  EXPECT_TRUE(Parse("models: [{path: models/demo}]\nmemory: {budget: {cpu: 6GiB}, limit: 6GiB}").ok());
}

TEST_F(ConfigTest, EverySettingIsRead) {
  const auto config = Parse(R"(
server: {address: "[::1]:0", grace_period: 1m30s, max_request_bytes: 1MiB, max_concurrent_streams: 7,
  exit_when_device_lost: false, answer_bytes: 3MiB, max_connections_per_peer: 9}
metrics: {address: "localhost:9", enabled: false}
models:
  - {name: first, path: models/demo, precision: bf16, devices: [cpu, "cuda:1"], load: on_demand, pinned: true}
  - {name: second, path: weights.safetensors, base: models/demo, devices: cpu,
     vae: {tiling: always, tile_size: 256, precision: fp8, overflow_guard: false}, calibration: weights.safetensors,
     static_scales: true, overflow_guard: false, noise_correction: false, attention: fp8,
     cuda_graphs: false}
scheduler: {max_queue: 1, max_batch: 2, encode_threads: 3, slow_reader_limit: 4, slow_reader_rate: 2KiB, channel_bytes: 65536,
  watchdog: {floor: 2s, first: 3m, factor: 4.5, load: 7m},
  policy: dynamic, fairness_window: 6s, max_resident: 7, resident_bytes: 8MiB, cost_model: costs.json, measure_at_load: 0s,
  decoding: beside-steps, preview_share: 0.5,
  classes: {interactive: {target: 250ms, stretch: 1.25, max_wait: 3s}, batch: {max_wait: 1h}},
  tenants: {studio: {weight: 2.5}, "night shift": {}}, tenant_header: true}
compute: {threads: 5, prompt_cache_bytes: 2GiB, measure_kernels: false, memory_budget: {cpu: 4GiB, "cuda:1": 16GiB}}
images: {embed_prompts: false}
results: {keep: 5m, keep_bytes: 1GiB, anonymous: false}
limits: {max_width: 16, max_height: 32, max_steps: 6, max_image_count: 7, max_prompt_bytes: 8}
log: {level: warning, format: json, prompts: true}
)");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_THAT(config->memory_budgets, ElementsAre(Pair("cpu", int64_t{4} << 30), Pair("cuda:1", int64_t{16} << 30)));
  EXPECT_EQ(config->models.at(0).load, LoadPolicy::kOnDemand);
  EXPECT_TRUE(config->models.at(0).pinned);
  EXPECT_EQ(config->models.at(1).load, LoadPolicy::kStartup);
  EXPECT_FALSE(config->models.at(1).pinned);
  EXPECT_EQ(config->results.keep, absl::Minutes(5));
  EXPECT_EQ(config->results.keep_bytes, 1 << 30);
  EXPECT_FALSE(config->results.anonymous);
  EXPECT_EQ(config->address, "[::1]:0");
  EXPECT_EQ(config->grace_period, absl::Seconds(90));
  EXPECT_EQ(config->max_request_bytes, 1 << 20);
  EXPECT_EQ(config->max_concurrent_streams, 7);
  EXPECT_EQ(config->connections.answer_bytes, 3 << 20);
  EXPECT_EQ(config->connections.max_per_peer, 9);
  EXPECT_EQ(config->metrics_address, "localhost:9");
  EXPECT_FALSE(config->metrics_enabled);
  ASSERT_EQ(config->models.size(), 2u);
  EXPECT_EQ(config->models[0].name, "first");
  EXPECT_EQ(config->models[0].path, (folder_ / "models/demo").string());
  EXPECT_EQ(config->models[0].precision, "bf16");
  EXPECT_THAT(config->models[0].devices, ElementsAre("cpu", "cuda:1"));
  EXPECT_EQ(config->models[1].base, (folder_ / "models/demo").string());
  EXPECT_EQ(config->models[1].precision, "auto");
  EXPECT_EQ(config->models[0].calibration, "");
  EXPECT_EQ(config->models[0].noise_correction, std::nullopt);
  EXPECT_EQ(config->models[1].calibration, (folder_ / "weights.safetensors").string());
  EXPECT_EQ(config->models[0].attention, std::nullopt);
  EXPECT_EQ(config->models[1].attention, AttentionScheme::kFp8);
  EXPECT_TRUE(config->models[1].static_scales);
  EXPECT_TRUE(config->models[0].overflow_guard);
  EXPECT_FALSE(config->models[1].overflow_guard);
  EXPECT_EQ(config->models[1].noise_correction, false);
  EXPECT_TRUE(config->models[0].cuda_graphs);
  EXPECT_FALSE(config->models[1].cuda_graphs);
  EXPECT_THAT(config->models[1].devices, ElementsAre("cpu"));
  EXPECT_EQ(config->models[0].vae.tiling, VaeTiling::kAuto);
  EXPECT_EQ(config->models[0].vae.tile_size, 512);
  EXPECT_EQ(config->models[0].vae.precision, VaePrecision::kAuto);
  EXPECT_TRUE(config->models[0].vae.overflow_guard);
  EXPECT_EQ(config->models[1].vae.tiling, VaeTiling::kAlways);
  EXPECT_EQ(config->models[1].vae.tile_size, 256);
  EXPECT_EQ(config->models[1].vae.precision, VaePrecision::kFp8);
  EXPECT_FALSE(config->models[1].vae.overflow_guard);
  EXPECT_EQ(config->max_queue, 1);
  EXPECT_EQ(config->max_batch, 2);
  EXPECT_EQ(config->encode_threads, 3);
  EXPECT_EQ(config->slow_reader_limit, absl::Seconds(4));
  EXPECT_EQ(config->slow_reader_rate, 2048);
  EXPECT_EQ(config->channel_bytes, 65536);
  EXPECT_EQ(config->max_resident, 7);
  EXPECT_EQ(config->watchdog.floor, absl::Seconds(2));
  EXPECT_EQ(config->watchdog.first, absl::Minutes(3));
  EXPECT_EQ(config->watchdog.factor, 4.5);
  EXPECT_EQ(config->watchdog.load, absl::Minutes(7));
  EXPECT_FALSE(config->exit_when_device_lost);
  EXPECT_EQ(config->resident_bytes, 8 << 20);
  EXPECT_EQ(config->cost_model, (folder_ / "costs.json").string());
  EXPECT_EQ(config->measure_at_load, absl::ZeroDuration());
  EXPECT_EQ(config->decoding, Decoding::kBesideSteps);
  EXPECT_EQ(config->preview_share, 0.5);
  EXPECT_EQ(config->scheduling.policy, "dynamic");
  EXPECT_EQ(config->scheduling.fairness_window, absl::Seconds(6));
  EXPECT_EQ(config->scheduling.classes[0].target, absl::Milliseconds(250));
  EXPECT_EQ(config->scheduling.classes[0].stretch, 1.25);
  EXPECT_EQ(config->scheduling.classes[0].max_wait, absl::Seconds(3));
  EXPECT_EQ(config->scheduling.classes[1].max_wait, absl::Minutes(5));  // not named: as it was
  EXPECT_EQ(config->scheduling.classes[2].target, absl::Seconds(30));
  EXPECT_EQ(config->scheduling.classes[2].max_wait, absl::Hours(1));
  EXPECT_TRUE(config->tenant_header);
  EXPECT_THAT(config->scheduling.tenant_weights, ElementsAre(Pair("night shift", 1), Pair("studio", 2.5)));
  EXPECT_EQ(config->threads, 5);
  EXPECT_EQ(config->prompt_cache_bytes, int64_t{2} << 30);
  EXPECT_FALSE(config->measure_kernels);
  EXPECT_FALSE(config->embed_prompts);
  EXPECT_EQ(config->limits.max_width, 16);
  EXPECT_EQ(config->limits.max_height, 32);
  EXPECT_EQ(config->limits.max_steps, 6);
  EXPECT_EQ(config->limits.max_image_count, 7);
  EXPECT_EQ(config->limits.max_prompt_bytes, 8);
  EXPECT_EQ(config->log.level, LogLevel::kWarning);
  EXPECT_EQ(config->log.format, LogFormat::kJson);
  EXPECT_TRUE(config->log.prompts);
}

TEST(AddressTest, OnlyThatOfMetricsMayNotBeAHostName) {
  for (const char* address : {"localhost:0", "127.0.0.1:9500", "0.0.0.0:9500", "[::]:9500", "[::1]:0"}) {
    EXPECT_TRUE(CheckAddress(address).ok()) << address;
    EXPECT_TRUE(CheckMetricsAddress(address).ok()) << address;
  }
  for (const char* address : {"fresco.example:8500", "localhost.:8500", "127.1:8500", "[127.0.0.1]:8500"}) {
    EXPECT_TRUE(CheckAddress(address).ok()) << address;
    EXPECT_THAT(std::string(CheckMetricsAddress(address).message()), HasSubstr("an IP address or localhost"));
  }
  EXPECT_THAT(std::string(CheckMetricsAddress("localhost").message()), HasSubstr("expected host:port"));
}

TEST_F(ConfigTest, ExceptionsFromAPrecisionKeepTheirOrder) {
  const auto config = Parse("models: [{path: models/demo, layers: {\"*.ff.net.2\": high, \"*.0.*\": int8}}]");
  ASSERT_TRUE(config.ok()) << config.status();
  const std::vector<LayerTable::Rule>& layers = config->models[0].layers;
  ASSERT_EQ(layers.size(), 2U);
  EXPECT_EQ(layers[0].pattern, "*.ff.net.2");
  EXPECT_EQ(layers[0].scheme, LinearScheme::kHigh);
  EXPECT_EQ(layers[1].pattern, "*.0.*");
  EXPECT_EQ(layers[1].scheme, LinearScheme::kInt8);
}

TEST_F(ConfigTest, AModelWithoutANameIsCalledAsItsFolderOrFile) {
  const auto config = Parse("models: [{path: models/demo/}, {path: weights.safetensors}]");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->models[0].name, "demo");
  EXPECT_EQ(config->models[1].name, "weights");
}

TEST_F(ConfigTest, ASectionWithoutSettingsIsFine) {
  EXPECT_TRUE(Parse("server:\nlog:\n  # level: debug\n").ok());
}

struct Mistake {
  const char* name;
  const char* text;
  const char* message;
};

class ConfigMistakeTest : public ConfigTest, public ::testing::WithParamInterface<Mistake> {};

TEST_P(ConfigMistakeTest, IsNamedWithLineAndKey) {
  EXPECT_THAT(ErrorOf(GetParam().text), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    All, ConfigMistakeTest,
    ::testing::Values(
        Mistake{"UnknownKey", "\nscheduler:\n  max_que: 3",
                "fresco.yaml:3: scheduler.max_que: unknown setting; did you mean 'max_queue'?"},
        Mistake{"UnknownSection", "shceduler: {}",
                "fresco.yaml:1: shceduler: unknown setting; did you mean 'scheduler'?"},
        Mistake{"NothingNear", "log: {zzzzzz: 1}",
                "fresco.yaml:1: log.zzzzzz: unknown setting; known here: audit_file, format, level, prompts"},
        Mistake{"Word", "scheduler: {max_queue: many}",
                "fresco.yaml:1: scheduler.max_queue: expected an integer from 1 to 1000000, found 'many'"},
        Mistake{"QuotedNumber", "scheduler: {max_queue: \"8\"}",
                "scheduler.max_queue: expected an integer from 1 to 1000000, found the text \"8\""},
        Mistake{"Fraction", "limits: {max_steps: 2.5}", "limits.max_steps: expected an integer"},
        Mistake{"Zero", "scheduler: {max_batch: 0}",
                "scheduler.max_batch: expected an integer from 1 to 1024, found '0'"},
        Mistake{"TooLargeForAnyInteger", "limits: {max_steps: 99999999999999999999}",
                "limits.max_steps: expected an integer"},
        Mistake{"Nothing", "scheduler: {max_batch: }",
                "scheduler.max_batch: expected an integer from 1 to 1024, found nothing"},
        Mistake{"ListForNumber", "scheduler: {max_batch: [1]}",
                "scheduler.max_batch: expected an integer from 1 to 1024, found a list"},
        Mistake{"ScalarForSection", "server: 8500",
                "fresco.yaml:1: server: expected a mapping of settings, found '8500'"},
        Mistake{"ListAtTheTop", "- 1", "fresco.yaml:1: expected a mapping of settings, found a list"},
        Mistake{"SetTwice", "scheduler:\n  max_batch: 1\n  max_batch: 2",
                "fresco.yaml:3: scheduler.max_batch: is set twice"},
        Mistake{"SectionSetTwice", "log: {}\nlog: {}", "fresco.yaml:2: log: is set twice"},
        Mistake{"Yes", "log: {prompts: yes}", "log.prompts: expected true or false, found 'yes'"},
        Mistake{"Level", "log: {level: loud}", "log.level: expected one of debug, info, warning, error, found 'loud'"},
        Mistake{"PortTooLarge", "server: {address: \"localhost:65536\"}",
                "server.address: expected host:port with a port from 0 to 65535"},
        Mistake{"NoPort", "metrics: {address: localhost}", "metrics.address: expected host:port"},
        Mistake{"MetricsHostName", "metrics: {address: \"metrics.example:9500\"}",
                "fresco.yaml:1: metrics.address: expected an IP address or localhost before the port"},
        Mistake{"MetricsHostTooShort", "metrics: {address: \"127.0.0:9500\"}",
                "metrics.address: expected an IP address or localhost"},
        Mistake{"NegativeDuration", "server: {grace_period: -1s}",
                "server.grace_period: expected a duration from 0s to 24h"},
        Mistake{"UnknownPolicy", "scheduler:\n  policy: lifo",
                "fresco.yaml:2: scheduler.policy: expected one of fifo, dynamic, deadline-fair, found 'lifo'"},
        Mistake{"UnknownClass", "scheduler: {classes: {urgent: {target: 1s}}}",
                "scheduler.classes.urgent: unknown setting; known here: batch, interactive, standard"},
        Mistake{"UnknownInAClass", "scheduler:\n  classes:\n    batch: {targt: 1s}",
                "fresco.yaml:3: scheduler.classes.batch.targt: unknown setting; did you mean 'target'?"},
        Mistake{"StretchBelowNothing", "scheduler: {classes: {standard: {stretch: -1}}}",
                "scheduler.classes.standard.stretch: expected a number from 0 to 1e+06, found '-1'"},
        Mistake{
            "NoWait", "scheduler: {classes: {standard: {max_wait: 0s}}}",
            "scheduler.classes.standard.max_wait: expected a duration from 1ms to 24h, like 30s or 1m30s, found '0s'"},
        Mistake{"NoWeight", "scheduler: {tenants: {studio: {weight: 0}}}",
                "scheduler.tenants.studio.weight: expected a number from 0.01 to 100, found '0'"},
        Mistake{"WeightThatIsNoNumber", "scheduler: {tenants: {studio: {weight: .nan}}}",
                "scheduler.tenants.studio.weight: expected a number from 0.01 to 100, found '.nan'"},
        Mistake{"TenantsInAList", "scheduler: {tenants: [studio]}",
                "scheduler.tenants: expected a mapping of names, like {studio: {weight: 3}}"},
        Mistake{"NoFolderForCosts", "scheduler: {cost_model: nowhere/costs.json}",
                "scheduler.cost_model: there is no folder"},
        Mistake{"CostsInAFolder", "scheduler: {cost_model: models}", "is a folder"},
        Mistake{"NoTimeToRead", "scheduler: {slow_reader_limit: 0s}",
                "scheduler.slow_reader_limit: expected a duration from 1s to 24h, like 30s or 1m30s, found '0s'"},
        Mistake{"NotADuration", "server: {grace_period: soon}", "server.grace_period: expected a duration"},
        Mistake{"NoModels", "models: []", "models: expected a list of at least one model"},
        Mistake{"ModelsNotAList", "models: demo", "models: expected a list of at least one model"},
        Mistake{"NoPath", "models:\n  - name: a",
                "fresco.yaml:2: models[0].path: is missing: the folder or the file of the model"},
        Mistake{"NothingAtPath", "models:\n  - path: models/other",
                "fresco.yaml:2: models[0].path: there is nothing at "},
        Mistake{"SameName", "models:\n  - path: models/demo\n  - {name: demo, path: weights.safetensors}",
                "fresco.yaml:3: models[1].name: 'demo' is the name of another model too"},
        Mistake{"BadName", "models: [{name: \"a b\", path: models/demo}]",
                "models[0].name: expected at most 64 letters"},
        Mistake{"LayersAreAMapping", "models: [{path: models/demo, layers: [high]}]",
                "models[0].layers: expected a mapping of patterns"},
        Mistake{"LayerLine",
                "models:\n  - path: models/demo\n    layers:\n      \"*.0.*\": high\n      \"*.1.*\": hihg",
                "fresco.yaml:5: models[0].layers: '*.1.*': expected high"},
        Mistake{
            "LayerScheme", "models: [{path: models/demo, layers: {\"*.ff.*\": fp4}}]",
            "models[0].layers: '*.ff.*': expected high, fp8, fp8-weight-only, int8 or int8-weight-only, found 'fp4'"},
        Mistake{"VaeTiling", "models:\n  - path: models/demo\n    vae:\n      tiling: sometimes",
                "fresco.yaml:4: models[0].vae.tiling: expected one of auto, always, never, found 'sometimes'"},
        Mistake{"VaePrecision", "models: [{path: models/demo, vae: {precision: int8}}]",
                "models[0].vae.precision: expected one of auto, fp8, found 'int8'"},
        Mistake{"VaeTileSize", "models: [{path: models/demo, vae: {tile_size: 500}}]",
                "models[0].vae.tile_size: expected a multiple of 32, found '500'"},
        Mistake{"VaeTileTooSmall", "models: [{path: models/demo, vae: {tile_size: 64}}]",
                "models[0].vae.tile_size: expected an integer from 128 to 16384, found '64'"},
        Mistake{"VaeUnknownKey", "models: [{path: models/demo, vae: {tile: 512}}]",
                "models[0].vae.tile: unknown setting"},
        Mistake{"VaeIsNoSection", "models: [{path: models/demo, vae: fp8}]", "models[0].vae: expected"},
        Mistake{"Precision", "models: [{path: models/demo, precision: fp4}]",
                "models[0].precision: expected one of fp32, bf16, fp16, fp8, fp8-weight-only, int8, auto, found 'fp4'"},
        Mistake{"Device", "models: [{path: models/demo, devices: [gpu]}]",
                "models[0].devices: expected cpu, cuda:N or auto, found 'gpu'"},
        Mistake{"DeviceWithASpace", "models: [{path: models/demo, devices: [\"cuda:1 \"]}]",
                "models[0].devices: expected cpu, cuda:N or auto, found 'cuda:1 '"},
        Mistake{"DeviceOfTwoNames", "models: [{path: models/demo, devices: [\"cuda:01\"]}]",
                "models[0].devices: expected cpu, cuda:N or auto, found 'cuda:01'"},
        Mistake{"DeviceTwice", "models: [{path: models/demo, devices: [cpu, cpu]}]",
                "models[0].devices: 'cpu' is listed twice"},
        Mistake{"NoDevices", "models: [{path: models/demo, devices: []}]",
                "models[0].devices: expected a list of texts"},
        Mistake{"TwoDocuments", "log: {}\n---\nlog: {}", "a second YAML document"},
        // yaml-cpp 0.7 takes this for documents without end.
        Mistake{"DocumentsWithoutEnd", ",\n", "a second YAML document"},
        Mistake{"Unprintable", "log: {level: \"\\x1b[31m\\n\"}", "found the text \"\\x1b[31m\\x0a\""},
        Mistake{"KeyThatIsNotUtf8", "l\xFFg: 1", "l\\xffg: unknown setting"},
        Mistake{"NotYaml", "server: {\nlog: ]", "fresco.yaml:2: not YAML: "}),
    [](const auto& info) { return info.param.name; });

TEST_F(ConfigTest, AllMistakesAreReportedAtOnceInTheFilesOrder) {
  const std::string errors = ErrorOf("scheduler: {max_batch: 0}\nlog: {level: loud}\nserver:\n  adress: x\n");
  EXPECT_THAT(StrCat("\n", errors),
              ::testing::MatchesRegex("\nfresco.yaml:1: scheduler.max_batch: [^\n]*\nfresco.yaml:2: log.level: [^\n]*\n"
                                      "fresco.yaml:4: server.adress: unknown setting; did you mean 'address'\\?"));
}

TEST_F(ConfigTest, MoreDevicesThanAServerCanUseAreRefused) {
  const auto with_devices = [](int count) {
    std::string text = "models: [{path: models/demo, devices: [cpu";
    for (int i = 1; i < count; ++i) text += StrCat(", \"cuda:", i, "\"");
    return text + "]}]";
  };
  EXPECT_TRUE(Parse(with_devices(64)).ok());
  EXPECT_THAT(ErrorOf(with_devices(65)), HasSubstr("fresco.yaml:1: models: name 65 devices; a server can use 64"));
}

TEST_F(ConfigTest, PathsAreRelativeToTheFilesFolder) {
  Write("fresco.yaml", "models: [{path: models/demo}]");
  const auto config = LoadConfigFile((folder_ / "fresco.yaml").string());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->models[0].path, (folder_ / "models/demo").string());
}

TEST_F(ConfigTest, AMissingFileIsNamed) {
  const auto config = LoadConfigFile((folder_ / "absent.yaml").string());
  EXPECT_EQ(config.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(config.status().message()), HasSubstr("absent.yaml: cannot read"));
  EXPECT_FALSE(LoadConfigFile(folder_.string()).ok());
}

TEST_F(ConfigTest, AnEmptyFileOnDiskIsAConfiguration) {
  Write("empty.yaml", "");
  EXPECT_TRUE(LoadConfigFile((folder_ / "empty.yaml").string()).ok());
}

TEST_F(ConfigTest, TheDemoModelIsFoundFromAnyWorkingDirectory) {
  const std::string demo = (folder_ / "models/demo").string();
  EXPECT_EQ(*FindDemoModel(folder_.string(), "/nowhere/fresco-server"), demo);
  EXPECT_EQ(*FindDemoModel("/", (folder_ / "build/bin/fresco-server").string()), demo);
  const auto none = FindDemoModel("/", "/nowhere/fresco-server");
  EXPECT_EQ(none.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(none.status().message()), HasSubstr("/nowhere/models/demo"));
}

}  // namespace
}  // namespace fresco
