// What a server is told: the YAML file of docs/CONFIGURATION.md as plain values. Every value has its default here.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "pipeline/models/autoencoder_options.h"
#include "pipeline/precision/layer_table.h"
#include "server/scheduler/policy/decoding.h"
#include "server/scheduler/policy/scheduling_core.h"
#include "server/scheduler/policy/watchdog.h"

namespace fresco {

// When a model is loaded.
enum class LoadPolicy {
  kStartup,   // at the start; and by a request where it was unloaded to make room
  kOnDemand,  // by the first request
  kManual,    // by LoadModel alone
};

struct ModelConfig {
  std::string name;                             // by which requests ask for it; letters, digits, '-', '_', '.'
  std::string path;                             // absolute: a diffusers folder or a single .safetensors file
  std::string base;                             // absolute; a diffusers folder for what `path` lacks; empty: none
  std::string precision = "auto";               // fp32 | bf16 | fp16 | fp8 | fp8-weight-only | int8 | auto
  std::vector<std::string> devices = {"auto"};  // "cpu", "cuda:N", "auto": one replica each
  std::string calibration;                   // absolute; a calibration file; empty: calibration.json in `path`, if any
  std::optional<AttentionScheme> attention;  // of precision fp8; absent: the model folder's own, else high
  bool static_scales = false;                // inputs are quantised with the calibration's scales
  bool overflow_guard = true;                // but for tokens that go beyond them
  std::optional<bool> noise_correction;      // of requests that do not say; absent: where the calibration has it
  std::vector<LayerTable::Rule> layers;      // exceptions from the precision's own choice of layers, in order
  VaeOptions vae;
  bool cuda_graphs = true;  // LoadOptions'
  LoadPolicy load = LoadPolicy::kStartup;
  bool pinned = false;  // is not unloaded to make room for others
};

// What a request may ask for at most; a model's own limits come on top.
struct RequestLimits {
  int max_width = 2048;         // pixels
  int max_height = 2048;        // pixels
  int max_steps = 150;          // denoising steps
  int max_image_count = 16;     // images per request
  int max_prompt_bytes = 8192;  // each prompt's UTF-8
};

// What is kept of requests that are drawn, for their callers to ask for again by the same request_id.
struct ResultsConfig {
  absl::Duration keep = absl::Seconds(60);  // since it was drawn; zero: not at all
  int64_t keep_bytes = 256 << 20;           // of all pictures that are held, of requests that run too
  bool anonymous = true;                    // of callers who are no tenant: they are one, and join each other's
};

enum class LogLevel { kDebug, kInfo, kWarning, kError };
enum class LogFormat { kText, kJson };

struct LogConfig {
  LogLevel level = LogLevel::kInfo;
  LogFormat format = LogFormat::kText;
  bool prompts = false;  // whether a request's closing line holds its prompts
  std::string
      audit_file;  // absolute; where who operated and who was turned away is appended too, as JSON; empty: nowhere
};

// Whether a client has to show a certificate of its own.
enum class ClientCertificates { kNone, kOptional, kRequired };

// PEM files, absolute. They are read anew when they change.
struct TlsConfig {
  std::string certificate;  // the server's, and those that lead from it towards a known authority
  std::string key;
  std::string client_ca;  // of those that clients' certificates must be signed by; empty where they show none
  ClientCertificates client_certificates = ClientCertificates::kNone;
};

// What a client's connection may take.
struct ConnectionLimits {
  absl::Duration handshake_timeout = absl::Seconds(20);  // until TLS and HTTP/2 have been agreed on
  absl::Duration keepalive_time = absl::Seconds(60);  // after that much silence the other end is asked whether it lives
  absl::Duration keepalive_timeout = absl::Seconds(20);  // and has as long to say so
  absl::Duration idle_timeout = absl::Minutes(30);       // without a call: the connection is closed
  absl::Duration max_age = absl::InfiniteDuration();     // the client is asked to connect anew; what runs goes on
  int64_t memory_bytes = int64_t{1} << 30;               // of what gRPC counts of all connections
  int64_t answer_bytes = 256 << 20;                      // of pictures in whole answers that are not read yet
  int max_per_peer = 0;                                  // connections from one address; 0: any number
};

// A service beside the server that looks at prompts and pictures (proto/fresco/v1/content_check.proto).
struct ContentCheckConfig {
  std::string address;  // plaintext gRPC; empty: nothing is checked
  bool prompts = true;
  bool pictures = false;
  absl::Duration timeout = absl::Seconds(5);  // of one question
  bool allow_when_unreachable = false;
};

struct ServerConfig {
  std::string address = "127.0.0.1:8500";           // gRPC; port 0: any free one
  absl::Duration grace_period = absl::Seconds(30);  // after SIGTERM, for running requests
  bool exit_when_device_lost = true;                // with code 75, once what others draw is done: to be started anew
  int64_t max_request_bytes = 256 << 10;            // a gRPC message to the server
  int max_concurrent_streams = 1024;                // calls at once per connection
  ConnectionLimits connections;
  std::optional<TlsConfig> tls;                        // absent: plaintext
  std::string tokens;                                  // absolute; the file of who may call; empty: anybody
  absl::Duration reload_interval = absl::Seconds(10);  // how often the files of tls and tokens are looked at
  bool allow_plaintext = false;                        // beyond this machine too
  bool allow_anonymous = false;                        // likewise

  bool metrics_enabled = true;
  std::string metrics_address = "127.0.0.1:9500";  // GET /metrics; no host name but localhost; port 0: any free one

  std::vector<ModelConfig> models;  // the first is what a request without a model gets

  int max_queue = 256;                                   // requests waiting
  int max_batch = 8;                                     // images per denoising step
  int max_resident = 32;                                 // images on a device, in the step or paused
  int64_t resident_bytes = int64_t{1} << 30;             // of their latents and texts, on a device
  bool tenant_header = false;                            // callers say whose they are, in metadata; else all are one
  CoreOptions scheduling;                                // policy, classes, shares (docs/SCHEDULING.md)
  WatchdogOptions watchdog;                              // when a device is taken for hung
  std::string cost_model;                                // absolute; what was learned of steps; empty: not kept
  Decoding decoding = Decoding::kAuto;                   // of finished images: between a device's steps or beside them
  double preview_share = 0.2;                            // of the steps' time, for previews that hold up other requests
  absl::Duration measure_at_load = absl::Seconds(5);     // at most, of steps of a model that was loaded; zero: not
  int encode_threads = 1;                                // for PNG, JPEG and WebP
  absl::Duration slow_reader_limit = absl::Seconds(30);  // a client that reads nothing for so long loses its call
  int64_t slow_reader_rate = 256 << 10;                  // bytes a second, of an answer that is sent whole
  int64_t channel_bytes = 32 << 20;                      // events kept for one client before its previews are dropped

  int threads = 0;                         // CPU threads for computing; 0: as many as the machine has
  int64_t prompt_cache_bytes = 256 << 20;  // encoded prompts kept per model and device
  bool measure_kernels = true;             // of GPUs, as a model is loaded; kept beside cost_model

  std::map<std::string, int64_t> memory_budgets;  // bytes of models' weights, by device; those not named: no bound
  // Bytes of all that tensors take of a device: of each that is named, else of every one; 0: no bound.
  std::map<std::string, int64_t> device_budgets;
  int64_t device_budget = 0;
  int64_t BudgetOf(const std::string& device) const;
  // Beyond which tensors run out of the device's memory; likewise.
  std::map<std::string, int64_t> device_limits;
  int64_t device_limit = 0;
  int64_t LimitOf(const std::string& device) const;

  ContentCheckConfig content_check;

  bool embed_prompts = true;  // whether pictures carry the texts they were drawn from

  ResultsConfig results;

  RequestLimits limits;
  LogConfig log;
};

struct ConfigSource {
  std::string file;      // for messages
  std::string base_dir;  // absolute: what relative model paths are relative to
};

// Reads a configuration. INVALID_ARGUMENT with every mistake at once, one per line and in the file's order, each as
// "file:line: key: what is wrong": unknown keys (with the nearest known one), duplicates, wrong types, impossible
// values, model paths that do not exist. A text without `models` leaves ServerConfig::models empty: the caller decides
// (FindDemoModel).
absl::StatusOr<ServerConfig> ParseConfig(std::string_view text, const ConfigSource& source);

// ParseConfig of a file; relative model paths are relative to its folder. NOT_FOUND if it cannot be read.
absl::StatusOr<ServerConfig> LoadConfigFile(const std::string& path);

// INVALID_ARGUMENT unless `address` is host:port, with a host name, an IPv4 address or an IPv6 address in brackets and
// a port from 0 to 65535.
absl::Status CheckAddress(std::string_view address);

// The same, and INVALID_ARGUMENT for a host name other than localhost: the HTTP server takes IP addresses.
absl::Status CheckMetricsAddress(std::string_view address);

// FAILED_PRECONDITION where other machines can reach the server and it has no TLS or asks nobody who calls, unless the
// configuration allows that in as many words.
absl::Status CheckExposure(const ServerConfig& config);

// Where the model that ships with Fresco lies: models/demo in the working directory, else in a folder above the
// program's (build/bin/../../models/demo), else PREFIX/share/fresco/models/demo. NOT_FOUND naming the places looked at.
// Absolute.
absl::StatusOr<std::string> FindDemoModel(const std::string& working_directory, const std::string& program);

// The model that is served when the configuration names none.
ModelConfig DemoModel(const std::string& path);

}  // namespace fresco
