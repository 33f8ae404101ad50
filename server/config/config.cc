#include "server/config/config.h"

#include <arpa/inet.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "pipeline/base/format_bytes.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "server/config/yaml_reader.h"

namespace fresco {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMiB = 1 << 20;
constexpr int64_t kMostDeviceBytes = int64_t{1} << 50;
constexpr size_t kMaxDevices = 64;  // the scheduler keeps sets of them as bits
constexpr double kLeastWeight = 0.01, kMostWeight = 100;

bool IsHost(std::string_view host) {
  return !host.empty() && std::all_of(host.begin(), host.end(), [](unsigned char c) {
    return absl::ascii_isalnum(c) || c == '.' || c == '-' || c == '_';
  });
}

// IPv6 in brackets. Not empty.
bool IsIpAddress(std::string_view host) {
  const bool ipv6 = host.front() == '[' && host.back() == ']';
  const std::string bare(ipv6 ? host.substr(1, host.size() - 2) : host);
  in6_addr parsed;
  return inet_pton(ipv6 ? AF_INET6 : AF_INET, bare.c_str(), &parsed) == 1;
}

// Where nobody but this machine's own programs can connect. Of names only the one that is known to be.
bool IsLoopback(std::string_view host) {
  if (host == "localhost") return true;
  const bool ipv6 = host.size() > 2 && host.front() == '[';
  const std::string bare(ipv6 ? host.substr(1, host.size() - 2) : host);
  in6_addr six;
  if (ipv6) return inet_pton(AF_INET6, bare.c_str(), &six) == 1 && IN6_IS_ADDR_LOOPBACK(&six);
  in_addr four;
  return inet_pton(AF_INET, bare.c_str(), &four) == 1 && bare.starts_with("127.");
}

bool IsModelName(std::string_view name) {
  return !name.empty() && name.size() <= 64 && IsHost(name);
}

// Nothing but what ends up as the name of the device: "cuda:01" would be another one to the scheduler.
bool IsDevice(std::string_view device) {
  constexpr std::string_view kCuda = "cuda:";
  int index = 0;
  return device == "cpu" || device == "auto" ||
         (device.starts_with(kCuda) && absl::SimpleAtoi(ToAbsl(device.substr(kCuda.size())), &index) && index >= 0 &&
          device == StrCat(kCuda, index));
}

// Reads the values of a section while it is in scope, and reports its unknown keys at the end.
template <typename ReadFn>
void ReadSection(YamlMap* top, const std::string& key, ConfigErrors* errors, ReadFn read) {
  const YAML::Node node = top->Take(key);
  if (!node) return;
  YamlMap section(node, key, errors);
  read(section);
  section.Finish();
}

void ReadAddress(YamlMap* section, absl::Status (*check)(std::string_view), std::string* address) {
  std::string text;
  section->Read("address", &text);
  if (text.empty()) return;
  if (const absl::Status status = check(text); !status.ok()) {
    section->AddError("address", ToStd(status.message()));
    return;
  }
  *address = text;
}

// Of something that exists, else the mistake is told. Absolute; empty where the key is absent.
std::string ReadPath(YamlMap* section, const std::string& key, const ConfigSource& source) {
  std::string text;
  section->Read(key, &text);
  if (text.empty()) return "";
  const fs::path path = (fs::path(source.base_dir) / text).lexically_normal();
  std::error_code error;
  if (!fs::exists(path, error)) section->AddError(key, StrCat("there is nothing at ", path.string()));
  return path.string();
}

void ReadDevices(YamlMap* section, std::vector<std::string>* devices) {
  section->Read("devices", devices);
  std::set<std::string> seen;
  for (const std::string& device : *devices) {
    if (!IsDevice(device)) section->AddError("devices", StrCat("expected cpu, cuda:N or auto, found '", device, "'"));
    if (!seen.insert(device).second) section->AddError("devices", StrCat("'", device, "' is listed twice"));
  }
}

// The folder's own name, so that a model needs nothing but its path.
std::string NameFromPath(const std::string& path) {
  const fs::path trimmed = fs::path(path).has_filename() ? fs::path(path) : fs::path(path).parent_path();
  return trimmed.extension() == ".safetensors" ? trimmed.stem().string() : trimmed.filename().string();
}

void ReadLayers(YamlMap* section, ConfigErrors* errors, std::vector<LayerTable::Rule>* layers) {
  const YAML::Node node = section->Take("layers");
  if (!node) return;
  if (!node.IsMap()) {
    section->AddError("layers", "expected a mapping of patterns, like {\"*.ff.net.2\": high}");
    return;
  }
  for (const auto& entry : node) {
    const std::string pattern = entry.first.IsScalar() ? entry.first.Scalar() : "";
    const std::string word = entry.second.IsScalar() ? entry.second.Scalar() : "";
    const std::optional<LinearScheme> scheme = ParseScheme(word);
    const auto add = [&](std::string_view what) { errors->Add(entry.first.Mark(), section->PathOf("layers"), what); };
    if (pattern.empty()) add("a pattern is empty or not a text");
    if (!scheme) add(StrCat("'", pattern, "': expected ", SchemeNames(), ", found '", word, "'"));
    if (!pattern.empty() && scheme) layers->push_back({pattern, *scheme});
  }
}

void ReadVae(YamlMap& section, VaeOptions* vae) {
  if (const int tiling = section.ReadChoice("tiling", kVaeTilingNames); tiling >= 0)
    vae->tiling = static_cast<VaeTiling>(tiling);
  section.Read("tile_size", VaeOptions::kSmallestTile, 16384, &vae->tile_size);
  if (vae->tile_size % VaeOptions::kTileSizeMultiple != 0) {
    section.AddError("tile_size", StrCat("expected a multiple of ", VaeOptions::kTileSizeMultiple, ", found '",
                                         vae->tile_size, "'"));
  }
  if (const int precision = section.ReadChoice("precision", kVaePrecisionNames); precision >= 0)
    vae->precision = static_cast<VaePrecision>(precision);
  section.Read("overflow_guard", &vae->overflow_guard);
}

ModelConfig ReadModel(const YAML::Node& node, const std::string& key, const ConfigSource& source,
                      ConfigErrors* errors) {
  static constexpr std::string_view kLoadPolicies[] = {"startup", "on_demand", "manual"};
  static constexpr std::string_view kPrecisions[] = {"fp32", "bf16", "fp16", "fp8", "fp8-weight-only", "int8", "auto"};
  YamlMap section(node, key, errors);
  ModelConfig model;
  section.Read("name", &model.name);
  model.path = ReadPath(&section, "path", source);
  model.base = ReadPath(&section, "base", source);
  if (const int choice = section.ReadChoice("precision", kPrecisions); choice >= 0)
    model.precision = kPrecisions[choice];
  if (const int attention = section.ReadChoice("attention", kAttentionNames); attention >= 0)
    model.attention = static_cast<AttentionScheme>(attention);
  ReadDevices(&section, &model.devices);
  ReadLayers(&section, errors, &model.layers);
  if (const YAML::Node vae = section.Take("vae")) {
    YamlMap settings(vae, section.PathOf("vae"), errors);
    ReadVae(settings, &model.vae);
    settings.Finish();
  }
  if (node.IsMap() && !node["path"]) section.AddError("path", "is missing: the folder or the file of the model");
  model.calibration = ReadPath(&section, "calibration", source);
  section.Read("static_scales", &model.static_scales);
  section.Read("overflow_guard", &model.overflow_guard);
  section.Read("noise_correction", &model.noise_correction);
  section.Read("cuda_graphs", &model.cuda_graphs);
  if (const int load = section.ReadChoice("load", kLoadPolicies); load >= 0) model.load = static_cast<LoadPolicy>(load);
  section.Read("pinned", &model.pinned);
  if (model.name.empty()) model.name = NameFromPath(model.path);
  if (!model.path.empty() && !IsModelName(model.name)) {
    section.AddError("name", StrCat("expected at most 64 letters, digits, '-', '_' or '.', found '", model.name, "'"));
  }
  section.Finish();
  return model;
}

void ReadModels(YamlMap* top, const ConfigSource& source, ConfigErrors* errors, std::vector<ModelConfig>* models) {
  const YAML::Node node = top->Take("models");
  if (!node) return;
  if (!node.IsSequence() || node.size() == 0) {
    top->AddError("models", "expected a list of at least one model, like [{path: models/demo}]");
    return;
  }
  std::set<std::string> names;
  for (size_t i = 0; i < node.size(); ++i) {
    const std::string key = StrCat("models[", i, "]");
    ModelConfig model = ReadModel(node[i], key, source, errors);
    if (!model.name.empty() && !names.insert(model.name).second) {
      errors->Add(node[i].Mark(), StrCat(key, ".name"), StrCat("'", model.name, "' is the name of another model too"));
    }
    models->push_back(std::move(model));
  }
  std::set<std::string> devices;
  for (const ModelConfig& model : *models) devices.insert(model.devices.begin(), model.devices.end());
  if (devices.size() > kMaxDevices) {
    top->AddError("models", StrCat("name ", devices.size(), " devices; a server can use ", kMaxDevices));
  }
}

// The settings of a key while it is in scope, like ReadSection of a section within another.
template <typename ReadFn>
void ReadWithin(YamlMap* section, const std::string& key, ConfigErrors* errors, ReadFn read) {
  const YAML::Node node = section->Take(key);
  if (!node) return;
  YamlMap settings(node, section->PathOf(key), errors);
  read(settings);
  settings.Finish();
}

void ReadTls(YamlMap& section, const ConfigSource& source, TlsConfig* tls) {
  static constexpr std::string_view kChoices[] = {"none", "optional", "required"};
  tls->certificate = ReadPath(&section, "certificate", source);
  tls->key = ReadPath(&section, "key", source);
  tls->client_ca = ReadPath(&section, "client_ca", source);
  for (const auto& [key, path] : {std::pair("certificate", &tls->certificate), std::pair("key", &tls->key)}) {
    if (path->empty()) section.AddError(key, "is missing: a file in PEM");
  }
  // Who names an authority wants it asked for.
  if (!tls->client_ca.empty()) tls->client_certificates = ClientCertificates::kRequired;
  if (const int choice = section.ReadChoice("client_certificates", kChoices); choice >= 0)
    tls->client_certificates = static_cast<ClientCertificates>(choice);
  if (tls->client_ca.empty() != (tls->client_certificates == ClientCertificates::kNone))
    section.AddError("client_certificates",
                     "needs client_ca, the authorities that clients' certificates are signed by");
}

void ReadConnections(YamlMap* section, ConfigErrors* errors, ConnectionLimits* limits) {
  ReadWithin(section, "keepalive", errors, [&](YamlMap& settings) {
    settings.Read("time", absl::Seconds(1), absl::Hours(24), &limits->keepalive_time);
    settings.Read("timeout", absl::Seconds(1), absl::Hours(24), &limits->keepalive_timeout);
  });
  section->Read("handshake_timeout", absl::Seconds(1), absl::Hours(1), &limits->handshake_timeout);
  section->Read("idle_timeout", absl::Seconds(1), absl::Hours(24 * 30), &limits->idle_timeout);
  section->Read("max_connection_age", absl::Seconds(1), absl::Hours(24 * 30), &limits->max_age);
  section->ReadBytes("memory_bytes", 16 * kMiB, int64_t{1} << 40, &limits->memory_bytes);
  section->ReadBytes("answer_bytes", kMiB, int64_t{1} << 40, &limits->answer_bytes);
  section->Read("max_connections_per_peer", 0, 1'000'000, &limits->max_per_peer);
}

void ReadServer(YamlMap& section, const ConfigSource& source, ConfigErrors* errors, ServerConfig* config) {
  ReadAddress(&section, CheckAddress, &config->address);
  section.Read("grace_period", absl::ZeroDuration(), absl::Hours(24), &config->grace_period);
  section.Read("exit_when_device_lost", &config->exit_when_device_lost);
  section.ReadBytes("max_request_bytes", 1 << 10, 256 * kMiB, &config->max_request_bytes);
  section.Read("max_concurrent_streams", 1, 1'000'000, &config->max_concurrent_streams);
  ReadConnections(&section, errors, &config->connections);
  ReadWithin(&section, "tls", errors, [&](YamlMap& settings) { ReadTls(settings, source, &config->tls.emplace()); });
  config->tokens = ReadPath(&section, "tokens", source);
  section.Read("reload_interval", absl::Seconds(1), absl::Hours(24), &config->reload_interval);
  section.Read("allow_plaintext", &config->allow_plaintext);
  section.Read("allow_anonymous", &config->allow_anonymous);
}

void ReadClasses(YamlMap& section, ConfigErrors* errors, CoreOptions* options) {
  for (int i = 0; i < kPriorityClasses; ++i) {
    ReadWithin(&section, std::string(kPriorityClassNames[i]), errors, [&](YamlMap& settings) {
      ClassOptions& own = options->classes[i];
      settings.Read("target", absl::ZeroDuration(), absl::Hours(24), &own.target);
      settings.Read("stretch", 0, 1e6, &own.stretch);
      settings.Read("max_wait", absl::Milliseconds(1), absl::Hours(24), &own.max_wait);
    });
  }
}

void ReadTenants(YamlMap* section, ConfigErrors* errors, std::map<std::string, double, std::less<>>* weights) {
  const YAML::Node node = section->Take("tenants");
  if (!node) return;
  if (!node.IsMap()) {
    section->AddError("tenants", "expected a mapping of names, like {studio: {weight: 3}}");
    return;
  }
  for (const auto& entry : node) {
    const std::string name = entry.first.IsScalar() ? entry.first.Scalar() : "";
    if (name.empty()) errors->Add(entry.first.Mark(), section->PathOf("tenants"), "a name is empty or not a text");
    YamlMap settings(entry.second, StrCat(section->PathOf("tenants"), ".", name), errors);
    double weight = 1;
    settings.Read("weight", kLeastWeight, kMostWeight, &weight);
    settings.Finish();
    if (!weights->emplace(name, weight).second) {
      errors->Add(entry.first.Mark(), StrCat(section->PathOf("tenants"), ".", name), "is set twice");
    }
  }
}

void ReadWatchdog(YamlMap& section, WatchdogOptions* watchdog) {
  section.Read("floor", absl::Milliseconds(1), absl::Hours(24), &watchdog->floor);
  section.Read("first", absl::Milliseconds(1), absl::Hours(24), &watchdog->first);
  section.Read("factor", 1, 1e6, &watchdog->factor);
  section.Read("load", absl::Milliseconds(1), absl::Hours(24), &watchdog->load);
}

// Of a file that the server writes, in a folder that exists. Absolute; empty where the key is absent.
std::string ReadWrittenPath(YamlMap* section, const std::string& key, const ConfigSource& source) {
  std::string text;
  section->Read(key, &text);
  if (text.empty()) return "";
  const fs::path path = (fs::path(source.base_dir) / text).lexically_normal();
  std::error_code error;
  if (!fs::is_directory(path.parent_path(), error)) {
    section->AddError(key, StrCat("there is no folder ", path.parent_path().string()));
  } else if (fs::is_directory(path, error)) {
    section->AddError(key, StrCat(path.string(), " is a folder"));
  }
  return path.string();
}

void ReadScheduling(YamlMap& section, const ConfigSource& source, ConfigErrors* errors, ServerConfig* config) {
  if (const int policy = section.ReadChoice("policy", kBatchingPolicyNames); policy >= 0) {
    config->scheduling.policy = kBatchingPolicyNames[policy];
  }
  section.Read("max_resident", 1, 4096, &config->max_resident);
  section.ReadBytes("resident_bytes", kMiB, int64_t{1} << 40, &config->resident_bytes);
  section.Read("fairness_window", absl::ZeroDuration(), absl::Hours(24), &config->scheduling.fairness_window);
  ReadWithin(&section, "classes", errors, [&](YamlMap& classes) { ReadClasses(classes, errors, &config->scheduling); });
  ReadTenants(&section, errors, &config->scheduling.tenant_weights);
  section.Read("tenant_header", &config->tenant_header);
  ReadWithin(&section, "watchdog", errors, [&](YamlMap& settings) { ReadWatchdog(settings, &config->watchdog); });
  config->cost_model = ReadWrittenPath(&section, "cost_model", source);
  if (const int decoding = section.ReadChoice("decoding", kDecodingNames); decoding >= 0) {
    config->decoding = static_cast<Decoding>(decoding);
  }
  section.Read("preview_share", 0, 100, &config->preview_share);
  section.Read("measure_at_load", absl::ZeroDuration(), absl::Hours(1), &config->measure_at_load);
}

void ReadScheduler(YamlMap& section, const ConfigSource& source, ConfigErrors* errors, ServerConfig* config) {
  ReadScheduling(section, source, errors, config);
  section.Read("max_queue", 1, 1'000'000, &config->max_queue);
  section.Read("max_batch", 1, 1024, &config->max_batch);
  section.Read("encode_threads", 1, 256, &config->encode_threads);
  section.Read("slow_reader_limit", absl::Seconds(1), absl::Hours(24), &config->slow_reader_limit);
  section.ReadBytes("slow_reader_rate", 1 << 10, 1024 * kMiB, &config->slow_reader_rate);
  section.ReadBytes("channel_bytes", 64 << 10, 4096 * kMiB, &config->channel_bytes);
}

// A mapping of devices; `node` is the section's `key`, and taken.
void ReadDeviceBytes(const YAML::Node& node, const char* key, YamlMap* section, ConfigErrors* errors,
                     std::map<std::string, int64_t>* budgets) {
  YamlMap devices(node, section->PathOf(key), errors);
  for (const auto& entry : node) {
    const std::string device = entry.first.IsScalar() ? entry.first.Scalar() : "";
    if (!IsDevice(device) || device == "auto") {
      errors->Add(entry.first.Mark(), section->PathOf(key), StrCat("expected cpu or cuda:N, found '", device, "'"));
      continue;
    }
    devices.ReadBytes(device, kMiB, kMostDeviceBytes, &(*budgets)[device]);
  }
}

void ReadMemoryBudgets(YamlMap* section, ConfigErrors* errors, std::map<std::string, int64_t>* budgets) {
  const YAML::Node node = section->Take("memory_budget");
  if (!node) return;
  if (node.IsMap()) {
    ReadDeviceBytes(node, "memory_budget", section, errors, budgets);
  } else {
    section->AddError("memory_budget", "expected a mapping of devices, like {\"cuda:0\": 40GiB}");
  }
}

// One number for every device, or a mapping of devices.
void ReadBytesOfDevices(YamlMap& section, const char* key, ConfigErrors* errors, std::map<std::string, int64_t>* named,
                        int64_t* every) {
  const YAML::Node node = section.Take(key);
  if (node && node.IsMap()) {
    ReadDeviceBytes(node, key, &section, errors, named);
  } else {
    section.ReadBytes(key, kMiB, kMostDeviceBytes, every);
  }
}

// A device that no model is on, where all models name theirs: most likely another was meant.
void CheckNamedDevices(YamlMap* section, const char* key, const std::map<std::string, int64_t>& named,
                       const std::vector<ModelConfig>& models) {
  std::set<std::string> used;
  for (const ModelConfig& model : models) used.insert(model.devices.begin(), model.devices.end());
  if (used.empty() || used.count("auto") != 0) return;
  for (const auto& [device, bytes] : named) {
    if (used.count(device) == 0) section->AddError(key, StrCat("names ", device, ", which no model is on"));
  }
}

// A budget is kept by making room within it; a limit is where memory ends.
void CheckBudgetsFit(YamlMap* section, const ServerConfig& config) {
  std::set<std::string> devices = {""};  // one that nothing names
  for (const auto& [device, bytes] : config.device_budgets) devices.insert(device);
  for (const auto& [device, bytes] : config.device_limits) devices.insert(device);
  for (const std::string& device : devices) {
    const int64_t budget = config.BudgetOf(device), limit = config.LimitOf(device);
    if (budget == 0 || limit == 0 || budget <= limit) continue;
    section->AddError("budget",
                      StrCat(FormatBytes(budget), device.empty() ? "" : " of " + device, " is above the limit, ",
                             FormatBytes(limit), ": nothing would make room before memory ends"));
    return;
  }
}

void ReadMemory(YamlMap& section, ConfigErrors* errors, ServerConfig* config) {
  ReadBytesOfDevices(section, "budget", errors, &config->device_budgets, &config->device_budget);
  ReadBytesOfDevices(section, "limit", errors, &config->device_limits, &config->device_limit);
  CheckNamedDevices(&section, "budget", config->device_budgets, config->models);
  CheckNamedDevices(&section, "limit", config->device_limits, config->models);
  CheckBudgetsFit(&section, *config);
}

int64_t BytesOf(const std::string& device, const std::map<std::string, int64_t>& named, int64_t every) {
  const auto found = named.find(device);
  return found == named.end() ? every : found->second;
}

void ReadResults(YamlMap& section, ResultsConfig* results) {
  section.Read("keep", absl::ZeroDuration(), absl::Hours(24), &results->keep);
  section.ReadBytes("keep_bytes", 0, int64_t{1} << 40, &results->keep_bytes);
  section.Read("anonymous", &results->anonymous);
}

void ReadLimits(YamlMap& section, RequestLimits* limits) {
  section.Read("max_width", 16, 16384, &limits->max_width);
  section.Read("max_height", 16, 16384, &limits->max_height);
  section.Read("max_steps", 1, 1000, &limits->max_steps);
  section.Read("max_image_count", 1, 1000, &limits->max_image_count);
  section.Read("max_prompt_bytes", 1, 1 << 20, &limits->max_prompt_bytes);
}

void ReadLog(YamlMap& section, const ConfigSource& source, LogConfig* log) {
  static constexpr std::string_view kLevels[] = {"debug", "info", "warning", "error"};
  static constexpr std::string_view kFormats[] = {"text", "json"};
  if (const int level = section.ReadChoice("level", kLevels); level >= 0) log->level = static_cast<LogLevel>(level);
  if (const int format = section.ReadChoice("format", kFormats); format >= 0)
    log->format = static_cast<LogFormat>(format);
  section.Read("prompts", &log->prompts);
  log->audit_file = ReadWrittenPath(&section, "audit_file", source);
}

void ReadContentCheck(YamlMap& section, ContentCheckConfig* check) {
  static constexpr std::string_view kChoices[] = {"refuse", "allow"};
  ReadAddress(&section, CheckAddress, &check->address);
  if (check->address.empty()) section.AddError("address", "is missing: host:port of what checks");
  section.Read("prompts", &check->prompts);
  section.Read("pictures", &check->pictures);
  section.Read("timeout", absl::Milliseconds(10), absl::Minutes(10), &check->timeout);
  if (const int choice = section.ReadChoice("when_unreachable", kChoices); choice >= 0)
    check->allow_when_unreachable = choice == 1;
}

void ReadAll(YamlMap* top, const ConfigSource& source, ConfigErrors* errors, ServerConfig* config) {
  ReadSection(top, "server", errors, [&](YamlMap& section) { ReadServer(section, source, errors, config); });
  ReadSection(top, "metrics", errors, [&](YamlMap& section) {
    section.Read("enabled", &config->metrics_enabled);
    ReadAddress(&section, CheckMetricsAddress, &config->metrics_address);
  });
  ReadModels(top, source, errors, &config->models);
  ReadSection(top, "scheduler", errors, [&](YamlMap& section) { ReadScheduler(section, source, errors, config); });
  ReadSection(top, "compute", errors, [&](YamlMap& section) {
    section.Read("threads", 0, 4096, &config->threads);
    section.ReadBytes("prompt_cache_bytes", 0, int64_t{1} << 40, &config->prompt_cache_bytes);
    section.Read("measure_kernels", &config->measure_kernels);
    ReadMemoryBudgets(&section, errors, &config->memory_budgets);
  });
  ReadSection(top, "memory", errors, [&](YamlMap& section) { ReadMemory(section, errors, config); });
  ReadSection(top, "images", errors, [&](YamlMap& section) { section.Read("embed_prompts", &config->embed_prompts); });
  ReadSection(top, "content_check", errors,
              [&](YamlMap& section) { ReadContentCheck(section, &config->content_check); });
  ReadSection(top, "results", errors, [&](YamlMap& section) { ReadResults(section, &config->results); });
  ReadSection(top, "limits", errors, [&](YamlMap& section) { ReadLimits(section, &config->limits); });
  ReadSection(top, "log", errors, [&](YamlMap& section) { ReadLog(section, source, &config->log); });
}

bool IsModel(const fs::path& folder) {
  std::error_code error;
  return fs::exists(folder / "model_index.json", error);
}

}  // namespace

absl::Status CheckAddress(std::string_view address) {
  const size_t colon = address.rfind(':');
  const std::string_view host = address.substr(0, colon == std::string_view::npos ? 0 : colon);
  int port = -1;
  const bool port_ok = colon != std::string_view::npos && absl::SimpleAtoi(ToAbsl(address.substr(colon + 1)), &port) &&
                       port >= 0 && port <= 65535 && absl::ascii_isdigit(address[colon + 1]);
  const bool ipv6 = host.size() > 2 && host.front() == '[' && host.back() == ']' &&
                    host.find_first_not_of("0123456789abcdefABCDEF:.", 1) == host.size() - 1;
  if (port_ok && (ipv6 || IsHost(host))) return absl::OkStatus();
  return absl::InvalidArgumentError(
      StrCat("expected host:port with a port from 0 to 65535, like 127.0.0.1:8500, found '", address, "'"));
}

absl::Status CheckMetricsAddress(std::string_view address) {
  FRESCO_RETURN_IF_ERROR(CheckAddress(address));
  const std::string_view host = address.substr(0, address.rfind(':'));
  if (host == "localhost" || IsIpAddress(host)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      StrCat("expected an IP address or localhost before the port, like 0.0.0.0:9500, found '", address, "'"));
}

int64_t ServerConfig::BudgetOf(const std::string& device) const {
  return BytesOf(device, device_budgets, device_budget);
}

int64_t ServerConfig::LimitOf(const std::string& device) const {
  return BytesOf(device, device_limits, device_limit);
}

absl::Status CheckExposure(const ServerConfig& config) {
  const std::string host = config.address.substr(0, config.address.rfind(':'));
  std::vector<std::string> missing;
  if (!config.tls && !config.allow_plaintext) {
    missing.push_back("without TLS: set server.tls, or say server.allow_plaintext: true (--allow-plaintext)");
  }
  if (config.tokens.empty() && !config.allow_anonymous) {
    missing.push_back(
        "and nobody is asked who calls: set server.tokens, or say server.allow_anonymous: true (--allow-anonymous)");
  }
  if (missing.empty() || IsLoopback(host)) return absl::OkStatus();
  return absl::FailedPreconditionError(
      StrCat("other machines may reach ", config.address, " ", absl::StrJoin(missing, "; ")));
}

absl::StatusOr<ServerConfig> ParseConfig(std::string_view text, const ConfigSource& source) {
  ConfigErrors errors(source.file);
  ServerConfig config;
  try {
    const YamlDocuments documents = LoadDocuments(text);
    if (documents.count > 1) errors.Add(documents.second, "", "a second YAML document: one configuration per file");
    if (documents.count > 0) {
      YamlMap top(documents.first, "", &errors);
      ReadAll(&top, source, &errors, &config);
      top.Finish();
    }
  } catch (const YAML::Exception& error) {
    errors.Add(error.mark, "", StrCat("not YAML: ", error.msg));
  }
  FRESCO_RETURN_IF_ERROR(errors.ToStatus());
  return config;
}

absl::StatusOr<ServerConfig> LoadConfigFile(const std::string& path) {
  std::error_code error;
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (fs::is_directory(path, error) || !file || !(text << file.rdbuf())) {
    // An empty file inserts nothing, which streams call a failure too.
    if (!fs::is_regular_file(path, error) || fs::file_size(path, error) > 0) {
      return absl::NotFoundError(StrCat(path, ": cannot read this configuration file"));
    }
  }
  const fs::path absolute = fs::absolute(path, error);
  return ParseConfig(text.str(), {path, absolute.parent_path().string()});
}

absl::StatusOr<std::string> FindDemoModel(const std::string& working_directory, const std::string& program) {
  std::vector<std::string> places = {(fs::path(working_directory) / "models/demo").string()};
  for (fs::path dir = fs::path(program).parent_path(); dir != dir.root_path() && !dir.empty();
       dir = dir.parent_path()) {
    places.push_back((dir / "models/demo").string());
    places.push_back((dir / "share/fresco/models/demo").string());
  }
  for (const std::string& place : places) {
    if (IsModel(place)) return fs::path(place).lexically_normal().string();
  }
  return absl::NotFoundError(StrCat("no model is configured, and the demo model is in none of ",
                                    absl::StrJoin(places, ", "), ": name a model in --config or --model-path"));
}

ModelConfig DemoModel(const std::string& path) {
  ModelConfig model;
  model.name = "demo";
  model.path = path;
  return model;
}

}  // namespace fresco
