#include "server/main/access.h"

#include <filesystem>
#include <string_view>
#include <system_error>
#include <utility>

#include "pipeline/base/status.h"
#include "server/auth/tls_files.h"
#include "server/auth/token_file.h"

namespace fresco {
namespace {

std::string TemporaryFolder() {
  std::error_code error;
  const std::filesystem::path folder = std::filesystem::temp_directory_path(error);
  return error ? "/tmp" : folder.string();
}

}  // namespace

Access::Access(const ServerConfig& config, Clock* clock, const Logger* logger, Metrics* metrics)
    : config_(config), clock_(clock), logger_(logger), metrics_(metrics) {}

absl::Status Access::Start() {
  FRESCO_RETURN_IF_ERROR(OpenAudit());
  if (config_.tls.has_value()) FRESCO_RETURN_IF_ERROR(StartTls());
  if (!config_.tokens.empty()) FRESCO_RETURN_IF_ERROR(StartTokens());
  return absl::OkStatus();
}

absl::Status Access::StartTls() {
  const TlsConfig& tls = *config_.tls;
  std::vector<std::string> files = {tls.certificate, tls.key};
  if (!tls.client_ca.empty()) files.push_back(tls.client_ca);
  tls_watch_ = std::make_unique<FileWatch>(
      std::move(files), config_.reload_interval, clock_,
      [this, failing = false](bool changed) mutable { Look("tls", changed, &failing, &Access::ReadTls); });
  FRESCO_ASSIGN_OR_RETURN(tls_folder_, TlsFolder::Make(TemporaryFolder()));
  FRESCO_RETURN_IF_ERROR(ReadTls());
  tls_watch_->Start();
  return absl::OkStatus();
}

absl::Status Access::StartTokens() {
  token_watch_ = std::make_unique<FileWatch>(
      std::vector<std::string>{config_.tokens}, config_.reload_interval, clock_,
      [this, failing = false](bool changed) mutable { Look("tokens", changed, &failing, &Access::ReadTokens); });
  callers_ = std::make_unique<Authenticator>(std::vector<TokenEntry>(), clock_);
  FRESCO_RETURN_IF_ERROR(ReadTokens());
  token_watch_->Start();
  return absl::OkStatus();
}

void Access::Stop() {
  tls_watch_.reset();
  token_watch_.reset();
  tls_folder_.reset();
}

std::optional<TlsConfig> Access::tls() const {
  if (tls_folder_ == nullptr) return std::nullopt;
  return tls_folder_->Settings(*config_.tls);
}

// gRPC is given what has been checked, and nothing else: it would take what is broken too.
absl::Status Access::ReadTls() {
  FRESCO_ASSIGN_OR_RETURN(const TlsFiles files, ReadTlsFiles(*config_.tls, clock_->WallTime()));
  FRESCO_RETURN_IF_ERROR(tls_folder_->Put(files));
  for (const CertificateFile& file : files.described) {
    metrics_->SetCertificateExpiry(file.setting, file.not_after);
    logger_->Log(LogLevel::kInfo, "certificate",
                 {{"file", file.path},
                  {"subject", file.subject},
                  {"expires", absl::FormatTime(absl::RFC3339_sec, file.not_after, absl::UTCTimeZone())}});
  }
  return absl::OkStatus();
}

absl::Status Access::ReadTokens() {
  FRESCO_ASSIGN_OR_RETURN(std::vector<TokenEntry> entries, LoadTokenFile(config_.tokens));
  std::vector<std::string> tenants;
  for (const TokenEntry& entry : entries) tenants.push_back(entry.tenant);
  metrics_->NameTenants(tenants);
  const auto count = static_cast<int64_t>(entries.size());
  callers_->Replace(std::move(entries));
  logger_->Log(LogLevel::kInfo, "tokens", {{"file", config_.tokens}, {"count", count}});
  return absl::OkStatus();
}

absl::Status Access::OpenAudit() {
  if (config_.log.audit_file.empty()) return absl::OkStatus();
  FRESCO_ASSIGN_OR_RETURN(audit_file_, LineFile::Open(config_.log.audit_file));
  LogConfig config;
  config.format = LogFormat::kJson;
  audit_ = std::make_unique<Logger>(config, clock_, [this](std::string_view line) { WriteAudit(line); });
  return absl::OkStatus();
}

// What the disk does not take goes where somebody may still see it.
void Access::WriteAudit(std::string_view line) {
  const absl::Status written = audit_file_->Write(line);
  if (written.ok()) return;
  logger_->Log(LogLevel::kError, "audit_not_written",
               {{"message", std::string(written.message())}, {"line", std::string(line)}});
}

// What could not be taken is tried again each time: a certificate that is not valid yet will be, a disk that is full
// may have room. It is told again when it is taken, or is another.
void Access::Look(const char* setting, bool changed, bool* failing, absl::Status (Access::*read)()) {
  if (!changed && !*failing) return;
  const absl::Status status = (this->*read)();
  *failing = !status.ok();
  if (changed || status.ok()) Reload(setting, status);
}

void Access::Reload(const char* setting, const absl::Status& status) {
  metrics_->CountReload(setting, status.ok());
  const LogLevel level = status.ok() ? LogLevel::kInfo : LogLevel::kError;
  LogFields fields = {{"setting", std::string(setting)}, {"ok", status.ok()}};
  if (!status.ok()) fields.emplace_back("message", std::string(status.message()));
  logger_->Log(level, "reloaded", fields);
}

}  // namespace fresco
