#include "server/auth/token_file.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <set>
#include <sstream>

#include "absl/strings/escaping.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/base/tenant.h"
#include "pipeline/checkpoint/sha256.h"
#include "server/config/yaml_reader.h"

namespace fresco {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxTokens = 10'000;
constexpr size_t kDigestDigits = 2 * sizeof(TokenDigest);

std::string ExpectedName() {
  return StrCat("expected a name of ", kTenantNameRule);
}

std::optional<TokenDigest> ParseDigest(std::string_view text) {
  const bool hex = text.size() == kDigestDigits &&
                   std::all_of(text.begin(), text.end(), [](unsigned char c) { return absl::ascii_isxdigit(c); });
  if (!hex) return std::nullopt;
  const std::string bytes = absl::HexStringToBytes(ToAbsl(text));
  TokenDigest digest;
  std::memcpy(digest.data(), bytes.data(), digest.size());
  return digest;
}

// A day begins at midnight UTC.
std::optional<absl::Time> ParseExpiry(const std::string& text) {
  absl::Time time;
  std::string error;
  for (const absl::string_view format : {absl::string_view("%Y-%m-%d"), absl::string_view(absl::RFC3339_sec)}) {
    if (absl::ParseTime(format, text, absl::UTCTimeZone(), &time, &error)) return time;
  }
  return std::nullopt;
}

void ReadIdentity(YamlMap* section, TokenEntry* entry) {
  std::string digest;
  section->Read("sha256", &digest);
  section->Read("certificate", &entry->certificate);
  if (digest.empty() == entry->certificate.empty()) {
    section->AddError("sha256", "expected it or `certificate`, one of the two");
  } else if (!digest.empty()) {
    const std::optional<TokenDigest> parsed = ParseDigest(digest);
    // The text is not said back: somebody may have put the token itself there.
    if (!parsed.has_value()) section->AddError("sha256", "expected the 64 hexadecimal digits of the token's SHA-256");
    entry->digest = parsed.value_or(TokenDigest{});
  }
}

void ReadScopes(YamlMap* section, Scopes* scopes) {
  std::vector<std::string> names = {std::string(kScopeNames[static_cast<size_t>(Scope::kGenerate)])};
  section->Read("scopes", &names);
  for (const std::string& name : names) {
    const auto found = std::find(kScopeNames.begin(), kScopeNames.end(), name);
    if (found == kScopeNames.end()) {
      section->AddError("scopes", StrCat("expected generate, operate or reflect, found '", name, "'"));
    } else {
      scopes->set(static_cast<size_t>(found - kScopeNames.begin()));
    }
  }
  if (scopes->test(static_cast<size_t>(Scope::kOperate))) scopes->set(static_cast<size_t>(Scope::kReflect));
}

void ReadRates(YamlMap* section, TokenEntry* entry) {
  section->Read("requests_per_minute", 0, 1e9, &entry->requests_per_minute);
  // As many as come in a second, where nothing is said.
  entry->burst = std::max(1, static_cast<int>(std::lround(std::ceil(entry->requests_per_minute / 60))));
  section->Read("burst", 1, 1'000'000, &entry->burst);
  section->Read("max_concurrent", 0, 1'000'000, &entry->max_concurrent);
}

TokenEntry ReadEntry(const YAML::Node& node, const std::string& key, ConfigErrors* errors) {
  YamlMap section(node, key, errors);
  TokenEntry entry;
  section.Read("name", &entry.name);
  if (!IsTenantName(entry.name)) section.AddError("name", ExpectedName());
  ReadIdentity(&section, &entry);
  entry.tenant = entry.name;
  section.Read("tenant", &entry.tenant);
  if (!IsTenantName(entry.tenant)) section.AddError("tenant", ExpectedName());
  section.Read("names_tenants", &entry.names_tenants);
  ReadScopes(&section, &entry.scopes);
  ReadRates(&section, &entry);
  std::string expires;
  section.Read("expires", &expires);
  if (!expires.empty()) {
    const std::optional<absl::Time> time = ParseExpiry(expires);
    if (!time.has_value())
      section.AddError("expires", "expected a day or a time, like 2027-12-31 or 2027-12-31T18:00:00Z");
    entry.expires = time.value_or(absl::InfiniteFuture());
  }
  section.Finish();
  return entry;
}

void ReadEntries(const YAML::Node& document, ConfigErrors* errors, std::vector<TokenEntry>* entries) {
  YamlMap top(document, "", errors);
  const YAML::Node list = top.Take("tokens");
  top.Finish();
  if (!list || !list.IsSequence() || list.size() > kMaxTokens) {
    top.AddError("tokens", StrCat("expected a list of at most ", kMaxTokens, ", which may be empty: []"));
    return;
  }
  std::set<std::string> names;
  std::set<TokenDigest> digests;
  std::set<std::string> certificates;
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string key = StrCat("tokens[", i, "]");
    TokenEntry entry = ReadEntry(list[i], key, errors);
    const auto add = [&](std::string_view what) { errors->Add(list[i].Mark(), key, what); };
    if (!names.insert(entry.name).second) add(StrCat("'", entry.name, "' is the name of another too"));
    if (entry.certificate.empty() ? !digests.insert(entry.digest).second
                                  : !certificates.insert(entry.certificate).second)
      add("is the token or the certificate of another too");
    entries->push_back(std::move(entry));
  }
}

}  // namespace

absl::StatusOr<std::vector<TokenEntry>> ParseTokens(std::string_view text, const std::string& file) {
  ConfigErrors errors(file);
  std::vector<TokenEntry> entries;
  try {
    const YamlDocuments documents = LoadDocuments(text);
    if (documents.count != 1) {
      errors.Add(YAML::Mark::null_mark(), "", "expected one YAML document with a list `tokens`");
    } else {
      ReadEntries(documents.first, &errors, &entries);
    }
  } catch (const YAML::Exception& error) {
    errors.Add(error.mark, "", StrCat("not YAML: ", error.msg));
  }
  FRESCO_RETURN_IF_ERROR(errors.ToStatus());
  return entries;
}

absl::StatusOr<std::vector<TokenEntry>> LoadTokenFile(const std::string& path) {
  std::error_code error;
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (fs::is_directory(path, error) || !file || !(text << file.rdbuf()))
    return absl::NotFoundError(StrCat(path, ": cannot read this file of tokens, or it is empty"));
  return ParseTokens(text.str(), path);
}

TokenDigest DigestOf(std::string_view token) {
  Sha256 sha;
  sha.Add(token);
  return sha.Finish();
}

absl::StatusOr<NewToken> MakeToken(const std::string& name, const std::function<uint64_t()>& random) {
  if (!IsTenantName(name)) return absl::InvalidArgumentError(StrCat(ExpectedName(), ", found '", name, "'"));
  std::string bytes;
  for (int i = 0; i < 4; ++i) {
    const uint64_t word = random();
    bytes.append(reinterpret_cast<const char*>(&word), sizeof word);
  }
  NewToken made;
  std::string text;
  absl::WebSafeBase64Escape(bytes, &text);
  // The prefix is for scanners that look for secrets where none should be.
  made.token = StrCat("fresco_", text);
  const TokenDigest digest = DigestOf(made.token);
  const std::string hex = absl::BytesToHexString({reinterpret_cast<const char*>(digest.data()), digest.size()});
  made.entry = StrCat("  - name: ", name, "\n    sha256: ", hex, "\n    scopes: [generate]\n");
  return made;
}

}  // namespace fresco
