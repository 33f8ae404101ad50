// The file of tokens: who may call is somebody, with limits that are numbers; an entry that is made is taken.
#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "pipeline/base/tenant.h"
#include "server/auth/token_file.h"
#include "tests/fuzz/fuzz.h"

namespace fresco::fuzz {
namespace {

void CheckEntry(const TokenEntry& entry) {
  Check(IsTenantName(entry.name) && IsTenantName(entry.tenant), "an entry of nobody");
  Check(std::isfinite(entry.requests_per_minute) && entry.requests_per_minute >= 0, "a rate that is no number");
  Check(entry.burst >= 1 && entry.max_concurrent >= 0, "a limit below none");
  // Two entries of no token would be each other's.
  Check(!entry.certificate.empty() || entry.digest != TokenDigest{}, "an entry of no token and no certificate");
}

// In the place of a list's first element.
void CheckMade(const std::string& name) {
  uint64_t word = 0;
  const auto made = MakeToken(name, [&word] { return word += 0x9e3779b97f4a7c15; });
  Check(made.ok(), "no token for a name that is one:", name);
  const auto parsed = ParseTokens("tokens:\n" + made->entry, "made.yaml");
  Check(parsed.ok() && parsed->size() == 1, "an entry that was made is refused:", parsed.status().ToString());
  Check(parsed->front().name == name && parsed->front().digest == DigestOf(made->token), "another's entry");
}

}  // namespace
}  // namespace fresco::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fresco::fuzz;  // NOLINT(google-build-using-namespace)
  const auto entries = fresco::ParseTokens(TextOf(data, size), "tokens.yaml");
  if (!entries.ok()) {
    CheckError(entries.status(), "tokens.yaml");
    return 0;
  }
  std::set<std::string> names;
  for (const fresco::TokenEntry& entry : *entries) {
    CheckEntry(entry);
    Check(names.insert(entry.name).second, "two of one name:", entry.name);
  }
  if (!entries->empty()) CheckMade(entries->front().name);
  return 0;
}
