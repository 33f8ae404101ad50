// Certificates made on the spot, for tests of TLS.
#pragma once

#include <string>
#include <vector>

#include "absl/time/time.h"

namespace fresco {

struct TestCertificate {
  std::string certificate, key;  // PEM
};

// One that signs others, by itself.
TestCertificate MakeAuthority(const std::string& name);

struct CertificateWishes {
  std::string name = "localhost";  // the subject's common name
  std::vector<std::string> alternative_names = {"DNS:localhost", "IP:127.0.0.1"};
  absl::Duration since = -absl::Hours(1), until = absl::Hours(24);  // from now
};

// One signed by `authority`.
TestCertificate MakeCertificate(const TestCertificate& authority, const CertificateWishes& wishes);

}  // namespace fresco
