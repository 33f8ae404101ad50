// The file of server.tokens: who may call, and what (docs/SECURITY.md). It holds digests; the tokens themselves are
// known to their callers alone.
#pragma once

#include <array>
#include <bitset>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace fresco {

// What a caller may do: draw, and cancel what is its own; call fresco.v1.Operations; ask what services there are
// (reflection). Who may operate may ask too.
enum class Scope { kGenerate, kOperate, kReflect };
inline constexpr std::array<std::string_view, 3> kScopeNames = {"generate", "operate", "reflect"};
using Scopes = std::bitset<kScopeNames.size()>;

// SHA-256 of a token's bytes.
using TokenDigest = std::array<unsigned char, 32>;

struct TokenEntry {
  std::string name;                // for logs and messages; no two are the same
  TokenDigest digest = {};         // unless it is a certificate's
  std::string certificate;         // a name in a client's certificate, instead of a token; empty: a token's
  std::string tenant;              // whose the calls are
  Scopes scopes;                   // by Scope
  bool names_tenants = false;      // its calls say whose they are, each, by the header fresco-tenant
  double requests_per_minute = 0;  // of calls that draw; 0: any number
  int burst = 0;                   // of them, that may come at once
  int max_concurrent = 0;          // calls that draw, open at the same time; 0: any number
  absl::Time expires = absl::InfiniteFuture();  // by the wall's clock
};

// INVALID_ARGUMENT with every mistake, one a line, as "file:line: key: what is wrong".
absl::StatusOr<std::vector<TokenEntry>> ParseTokens(std::string_view text, const std::string& file);

// ParseTokens of a file. NOT_FOUND if it cannot be read.
absl::StatusOr<std::vector<TokenEntry>> LoadTokenFile(const std::string& path);

TokenDigest DigestOf(std::string_view token);

// A token of 256 bits, and the entry of the file that takes it.
struct NewToken {
  std::string token;
  std::string entry;  // YAML, an element of the list `tokens`
};
// `random`: 64 bits that nobody can guess. INVALID_ARGUMENT for what is no name.
absl::StatusOr<NewToken> MakeToken(const std::string& name, const std::function<uint64_t()>& random);

}  // namespace fresco
