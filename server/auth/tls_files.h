// What is in the files of server.tls, before gRPC is given them: it would not say what is wrong with one.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/config/config.h"

namespace fresco {

struct CertificateFile {
  std::string setting;  // "certificate", "client_ca"
  std::string path;
  std::string subject;   // of the file's first certificate, as in RFC 2253
  absl::Time not_after;  // the earliest end of those in the file
};

// What the files held when they were read, all of it checked.
struct TlsFiles {
  std::string certificate, key, client_ca;  // PEM; client_ca is empty where there is none
  std::vector<CertificateFile> described;
};

// Reads each of them once. FAILED_PRECONDITION, naming the file, for one that cannot be read, is not PEM, holds an
// encrypted key, or certificates that have expired by `now` or are not valid yet, for a key that is not the
// certificate's, and for a pair that TLS does not take, since its key is too short, say.
absl::StatusOr<TlsFiles> ReadTlsFiles(const TlsConfig& config, absl::Time now);

}  // namespace fresco
