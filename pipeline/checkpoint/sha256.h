// SHA-256, over OpenSSL's libcrypto.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace fresco {

// One digest. Not thread-safe.
class Sha256 {
 public:
  using Digest = std::array<unsigned char, 32>;

  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void Add(std::span<const std::byte> bytes);
  void Add(std::string_view text) { Add(std::as_bytes(std::span(text.data(), text.size()))); }

  // Once, at the end.
  Digest Finish();
  std::string FinishHex();  // 64 digits

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

}  // namespace fresco
