#include "server/auth/tls_files.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <algorithm>
#include <ctime>
#include <fstream>
#include <memory>
#include <sstream>

#include "absl/time/civil_time.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"

namespace fresco {
namespace {

template <auto Free>
struct Deleter {
  template <typename T>
  void operator()(T* object) const {
    Free(object);
  }
};
using Bio = std::unique_ptr<BIO, Deleter<BIO_free>>;
using Certificate = std::unique_ptr<X509, Deleter<X509_free>>;
using Key = std::unique_ptr<EVP_PKEY, Deleter<EVP_PKEY_free>>;
using Context = std::unique_ptr<SSL_CTX, Deleter<SSL_CTX_free>>;

absl::Status Wrong(const std::string& path, std::string_view what) {
  ERR_clear_error();
  return absl::FailedPreconditionError(StrCat(path, ": ", what));
}

// Instead of asking at the terminal.
int NoPassphrase(char* /*buffer*/, int /*size*/, int /*writing*/, void* /*data*/) {
  return -1;
}

absl::Time ToTime(const ASN1_TIME* time) {
  std::tm tm = {};
  if (ASN1_TIME_to_tm(time, &tm) != 1) return absl::InfinitePast();
  return absl::FromCivil(
      absl::CivilSecond(tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec),
      absl::UTCTimeZone());
}

std::string SubjectOf(X509* certificate) {
  const Bio text(BIO_new(BIO_s_mem()));
  X509_NAME_print_ex(text.get(), X509_get_subject_name(certificate), 0, XN_FLAG_RFC2253);
  char* data = nullptr;
  const long size = BIO_get_mem_data(text.get(), &data);
  return std::string(data, static_cast<size_t>(size));
}

std::string Date(absl::Time time) {
  return absl::FormatTime(absl::RFC3339_sec, time, absl::UTCTimeZone());
}

absl::StatusOr<std::string> Read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  if (!file) return Wrong(path, "cannot be read");
  return text.str();
}

Bio Open(const std::string& text) {
  return Bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

absl::StatusOr<std::vector<Certificate>> ParseCertificates(const std::string& path, const std::string& text) {
  const Bio file = Open(text);
  std::vector<Certificate> certificates;
  while (Certificate next{PEM_read_bio_X509(file.get(), nullptr, NoPassphrase, nullptr)}) {
    certificates.push_back(std::move(next));
  }
  // The end of the file is told as an error too.
  const bool at_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
  if (certificates.empty()) return Wrong(path, "holds no certificate in PEM");
  if (!at_end) return Wrong(path, StrCat("its certificate ", certificates.size() + 1, " is no PEM"));
  ERR_clear_error();
  return certificates;
}

absl::StatusOr<CertificateFile> Describe(const std::string& setting, const std::string& path,
                                         const std::vector<Certificate>& certificates, absl::Time now) {
  CertificateFile file{setting, path, SubjectOf(certificates.front().get()), absl::InfiniteFuture()};
  for (const Certificate& certificate : certificates) {
    const absl::Time not_before = ToTime(X509_get0_notBefore(certificate.get()));
    const absl::Time not_after = ToTime(X509_get0_notAfter(certificate.get()));
    const std::string whose = StrCat("the certificate of ", SubjectOf(certificate.get()));
    if (now > not_after) return Wrong(path, StrCat(whose, " has expired on ", Date(not_after)));
    if (now < not_before) return Wrong(path, StrCat(whose, " is not valid before ", Date(not_before)));
    file.not_after = std::min(file.not_after, not_after);
  }
  return file;
}

// As TLS will use it: keys of some sorts and sizes are refused only then.
absl::Status CheckUse(const TlsConfig& config, const std::vector<Certificate>& chain, EVP_PKEY* key) {
  const Context context(SSL_CTX_new(TLS_server_method()));
  bool taken = SSL_CTX_use_certificate(context.get(), chain.front().get()) == 1;
  for (size_t i = 1; taken && i < chain.size(); ++i)
    taken = SSL_CTX_add1_chain_cert(context.get(), chain[i].get()) == 1;
  taken = taken && SSL_CTX_use_PrivateKey(context.get(), key) == 1;
  if (taken) return absl::OkStatus();
  const char* const reason = ERR_reason_error_string(ERR_peek_last_error());
  return Wrong(config.certificate, StrCat("TLS does not take it: ", reason == nullptr ? "no reason is given" : reason));
}

absl::Status CheckKey(const TlsConfig& config, const std::string& text, const std::vector<Certificate>& chain) {
  X509* const certificate = chain.front().get();
  const Bio file = Open(text);
  const Key key(PEM_read_bio_PrivateKey(file.get(), nullptr, NoPassphrase, nullptr));
  if (key == nullptr) return Wrong(config.key, "holds no private key in PEM that is not encrypted");
  if (X509_check_private_key(certificate, key.get()) != 1)
    return Wrong(config.key, StrCat("is not the key of the certificate in ", config.certificate));
  return CheckUse(config, chain, key.get());
}

}  // namespace

absl::StatusOr<TlsFiles> ReadTlsFiles(const TlsConfig& config, absl::Time now) {
  TlsFiles files;
  FRESCO_ASSIGN_OR_RETURN(files.certificate, Read(config.certificate));
  FRESCO_ASSIGN_OR_RETURN(const std::vector<Certificate> own, ParseCertificates(config.certificate, files.certificate));
  FRESCO_ASSIGN_OR_RETURN(CertificateFile described, Describe("certificate", config.certificate, own, now));
  files.described.push_back(std::move(described));
  FRESCO_ASSIGN_OR_RETURN(files.key, Read(config.key));
  FRESCO_RETURN_IF_ERROR(CheckKey(config, files.key, own));
  if (config.client_ca.empty()) return files;
  FRESCO_ASSIGN_OR_RETURN(files.client_ca, Read(config.client_ca));
  FRESCO_ASSIGN_OR_RETURN(const std::vector<Certificate> authorities,
                          ParseCertificates(config.client_ca, files.client_ca));
  FRESCO_ASSIGN_OR_RETURN(described, Describe("client_ca", config.client_ca, authorities, now));
  files.described.push_back(std::move(described));
  return files;
}

}  // namespace fresco
