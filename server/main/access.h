// The files that say who may call: the server's certificates and its tokens, as they are now.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "pipeline/base/clock.h"
#include "server/auth/authenticator.h"
#include "server/auth/file_watch.h"
#include "server/auth/tls_folder.h"
#include "server/config/config.h"
#include "server/log/line_file.h"
#include "server/log/logger.h"
#include "server/metrics/metrics.h"

namespace fresco {

class Access {
 public:
  // All outlive it.
  Access(const ServerConfig& config, Clock* clock, const Logger* logger, Metrics* metrics);

  // Reads the files, and reads those that change anew from now on. An error names the file. Call it once.
  absl::Status Start();
  // Reads no file any more, and removes those of tls(). For a process that ends without destructors.
  void Stop();

  Authenticator* callers() const { return callers_.get(); }  // null: anybody may call
  // The settings of the configuration, with files for gRPC that are good ones, now and whenever it reads them.
  std::optional<TlsConfig> tls() const;
  const Logger* audit() const { return audit_ != nullptr ? audit_.get() : logger_; }

 private:
  absl::Status StartTls();
  absl::Status StartTokens();
  absl::Status ReadTls();
  absl::Status ReadTokens();
  absl::Status OpenAudit();
  // What the thread of a watch does at each look. `failing`: whether the last try at these files has failed.
  void Look(const char* setting, bool changed, bool* failing, absl::Status (Access::*read)());
  void Reload(const char* setting, const absl::Status& status);
  void WriteAudit(std::string_view line);

  const ServerConfig& config_;
  Clock* const clock_;
  const Logger* const logger_;
  Metrics* const metrics_;
  std::unique_ptr<Authenticator> callers_;
  std::unique_ptr<LineFile> audit_file_;
  std::unique_ptr<Logger> audit_;
  std::unique_ptr<TlsFolder> tls_folder_;               // null: plaintext
  std::unique_ptr<FileWatch> tls_watch_, token_watch_;  // last: their threads use the others
};

}  // namespace fresco
