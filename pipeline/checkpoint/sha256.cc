#include "pipeline/checkpoint/sha256.h"

#include <openssl/evp.h>

#include <cstdlib>

#include "absl/strings/escaping.h"

namespace fresco {
namespace {

// libcrypto's digests only fail where memory is out or a provider is broken.
void OrDie(bool ok) {
  if (!ok) std::abort();
}

}  // namespace

struct Sha256::Context {
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> evp{EVP_MD_CTX_new(), &EVP_MD_CTX_free};
};

Sha256::Sha256() : context_(std::make_unique<Context>()) {
  OrDie(context_->evp != nullptr && EVP_DigestInit_ex(context_->evp.get(), EVP_sha256(), nullptr) == 1);
}

Sha256::~Sha256() = default;

void Sha256::Add(std::span<const std::byte> bytes) {
  OrDie(EVP_DigestUpdate(context_->evp.get(), bytes.data(), bytes.size()) == 1);
}

Sha256::Digest Sha256::Finish() {
  Digest digest = {};
  OrDie(EVP_DigestFinal_ex(context_->evp.get(), digest.data(), nullptr) == 1);
  return digest;
}

std::string Sha256::FinishHex() {
  const Digest digest = Finish();
  return absl::BytesToHexString({reinterpret_cast<const char*>(digest.data()), digest.size()});
}

}  // namespace fresco
