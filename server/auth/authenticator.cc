#include "server/auth/authenticator.h"

#include <openssl/crypto.h>

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "pipeline/base/strings.h"
#include "pipeline/base/tenant.h"
#include "server/scheduler/retry.h"

namespace fresco {
namespace {

constexpr std::string_view kScheme = "Bearer ";
// Where nobody can say when one of the caller's own calls will end.
constexpr absl::Duration kAgainWhenOpen = absl::Seconds(1);

constexpr char kNothingShown[] = "this server asks who calls: send metadata `authorization: Bearer TOKEN`";
constexpr char kNotKnown[] = "the token is not known here";

}  // namespace

// What an entry's callers have used. It outlives the entry where a call does.
struct Authenticator::Use {
  Mutex mutex;
  double spent FRESCO_GUARDED_BY(mutex) = 0;  // calls, less those that the rate has given back since
  absl::Time spent_at FRESCO_GUARDED_BY(mutex) = absl::InfinitePast();
  int open FRESCO_GUARDED_BY(mutex) = 0;
};

Authenticator::Permit::Permit(std::shared_ptr<Use> use) : use_(std::move(use)) {}

Authenticator::Permit::~Permit() {
  MutexLock lock(&use_->mutex);
  --use_->open;
}

void Authenticator::Permit::GiveBackRate() {
  MutexLock lock(&use_->mutex);
  use_->spent = std::max(0.0, use_->spent - 1);
}

Authenticator::Authenticator(std::vector<TokenEntry> entries, const Clock* clock) : clock_(clock) {
  Replace(std::move(entries));
}

Authenticator::~Authenticator() = default;

void Authenticator::Replace(std::vector<TokenEntry> entries) {
  MutexLock lock(&mutex_);
  std::map<std::string, Known> fresh;
  for (TokenEntry& entry : entries) {
    const auto old = known_.find(entry.name);
    std::shared_ptr<Use> use = old == known_.end() ? std::make_shared<Use>() : old->second.use;
    const std::string name = entry.name;
    fresh.emplace(name, Known{std::move(entry), std::move(use)});
  }
  known_.swap(fresh);
}

// Looks at every entry, and at every byte of each: how long it takes says nothing of what is in the file.
const Authenticator::Known* Authenticator::FindToken(std::string_view token) const {
  const TokenDigest digest = DigestOf(token);
  const Known* found = nullptr;
  for (const auto& [name, known] : known_) {
    const bool same = CRYPTO_memcmp(digest.data(), known.entry.digest.data(), digest.size()) == 0;
    if (same && known.entry.certificate.empty()) found = &known;
  }
  return found;
}

const Authenticator::Known* Authenticator::Find(const Credentials& credentials, absl::Status* why) const {
  if (credentials.authorization.size() > 1) {
    *why = absl::UnauthenticatedError("metadata `authorization` came more than once");
    return nullptr;
  }
  if (!credentials.authorization.empty()) {
    const std::string& text = credentials.authorization.front();
    const Known* found = nullptr;
    if (absl::StartsWithIgnoreCase(text, ToAbsl(kScheme)))
      found = FindToken(std::string_view(text).substr(kScheme.size()));
    if (found == nullptr) *why = absl::UnauthenticatedError(kNotKnown);
    return found;
  }
  for (const auto& [name, known] : known_) {
    const std::vector<std::string>& names = credentials.certificate;
    if (!known.entry.certificate.empty() &&
        std::find(names.begin(), names.end(), known.entry.certificate) != names.end())
      return &known;
  }
  *why = absl::UnauthenticatedError(
      credentials.certificate.empty() ? kNothingShown : "the client's certificate is of nobody known here");
  return nullptr;
}

absl::StatusOr<Caller> Authenticator::Authenticate(const Credentials& credentials, std::optional<Scope> scope) const {
  MutexLock lock(&mutex_);
  absl::Status why;
  const Known* const known = Find(credentials, &why);
  if (known == nullptr) return why;
  const TokenEntry& entry = known->entry;
  if (clock_->WallTime() >= entry.expires) {
    return absl::UnauthenticatedError(StrCat("the token '", entry.name, "' has expired on ",
                                             absl::FormatTime(absl::RFC3339_sec, entry.expires, absl::UTCTimeZone())));
  }
  if (scope.has_value() && !entry.scopes.test(static_cast<size_t>(*scope))) {
    return absl::PermissionDeniedError(
        StrCat("the token '", entry.name, "' is not one of those that may ", kScopeNames[static_cast<size_t>(*scope)]));
  }
  Caller caller{entry.name, entry.tenant};
  if (credentials.tenant.empty()) return caller;
  const std::string& named = credentials.tenant.front();
  if (credentials.tenant.size() > 1 || !IsTenantName(named)) {
    return absl::InvalidArgumentError(StrCat(kTenantHeader, " must be one name of ", kTenantNameRule));
  }
  if (named != entry.tenant && !entry.names_tenants) {
    return absl::PermissionDeniedError(
        StrCat("the token '", entry.name, "' calls for the tenant '", entry.tenant, "', not for '", named, "'"));
  }
  caller.tenant = named;
  return caller;
}

absl::StatusOr<std::shared_ptr<Authenticator::Permit>> Authenticator::Admit(const Caller& caller) {
  std::shared_ptr<Use> use;
  double per_second = 0;
  int burst = 0, max_concurrent = 0;
  {
    MutexLock lock(&mutex_);
    const auto found = known_.find(caller.token);
    if (found == known_.end()) return absl::UnauthenticatedError(kNotKnown);  // it has just gone
    use = found->second.use;
    per_second = found->second.entry.requests_per_minute / 60;
    burst = found->second.entry.burst;
    max_concurrent = found->second.entry.max_concurrent;
  }
  const absl::Time now = clock_->Now();
  MutexLock lock(&use->mutex);
  if (max_concurrent > 0 && use->open >= max_concurrent) {
    return WithRetryAfter(absl::ResourceExhaustedError(absl::StrFormat(
                              "the token '%s' has %d calls open, as many as it may", caller.token, use->open)),
                          kAgainWhenOpen);
  }
  if (per_second > 0) {
    const double back = absl::ToDoubleSeconds(std::min(now - use->spent_at, absl::Hours(24 * 365))) * per_second;
    const double spent = std::max(0.0, use->spent - std::max(0.0, back));
    // A call less a millionth: what the arithmetic leaves over is no call.
    if (spent + 1 > burst + 1e-6) {
      const absl::Duration wait = absl::Seconds((spent + 1 - burst) / per_second);
      return WithRetryAfter(
          absl::ResourceExhaustedError(absl::StrFormat(
              "the token '%s' may make %g calls a minute that draw, %d at once: again in %s", caller.token,
              per_second * 60, burst, absl::FormatDuration(absl::Ceil(wait, absl::Milliseconds(100))))),
          wait);
    }
    use->spent = spent + 1;
    use->spent_at = now;
  }
  ++use->open;
  return std::make_shared<Permit>(use);
}

}  // namespace fresco
