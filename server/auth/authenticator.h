// Tells callers apart by their tokens or certificates, and holds each to its rate and its number of open calls.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "pipeline/base/clock.h"
#include "pipeline/base/mutex.h"
#include "server/auth/token_file.h"

namespace fresco {

// What a call shows of its caller.
struct Credentials {
  std::vector<std::string> authorization;  // the metadata of that name, as often as it came
  std::vector<std::string> certificate;    // the names in the client's certificate, which has been verified
  std::vector<std::string> tenant;         // the metadata fresco-tenant
};

struct Caller {
  std::string token;   // its name in the file; never the token. Empty: anybody
  std::string tenant;  // whose the calls are; empty: nobody's in particular
};

// Thread-safe.
class Authenticator {
 public:
  // `clock` outlives it.
  Authenticator(std::vector<TokenEntry> entries, const Clock* clock);
  ~Authenticator();

  // Other entries from now on. What has been used of a rate, and what is open, counts on where an entry of that name
  // stays.
  void Replace(std::vector<TokenEntry> entries);

  // UNAUTHENTICATED where nothing that is known, or something that has expired, was shown; PERMISSION_DENIED where the
  // caller may not do this (no scope: something that all who are known may); INVALID_ARGUMENT for a tenant that is no
  // name. Takes as long for a token that is nearly right as for any other.
  absl::StatusOr<Caller> Authenticate(const Credentials& credentials, std::optional<Scope> scope) const;

  // One call that draws, as long as it lives. May outlive the authenticator.
  class Permit;
  // RESOURCE_EXHAUSTED, with when to come back, for a caller that has made too many calls or has too many open.
  absl::StatusOr<std::shared_ptr<Permit>> Admit(const Caller& caller);

 private:
  struct Use;
  struct Known {
    TokenEntry entry;
    std::shared_ptr<Use> use;
  };

  const Known* Find(const Credentials& credentials, absl::Status* why) const FRESCO_REQUIRES(mutex_);
  const Known* FindToken(std::string_view token) const FRESCO_REQUIRES(mutex_);

  const Clock* const clock_;
  mutable Mutex mutex_;
  std::map<std::string, Known> known_ FRESCO_GUARDED_BY(mutex_);  // by name
};

class Authenticator::Permit {
 public:
  explicit Permit(std::shared_ptr<Use> use);
  ~Permit();
  // The call asks for what has been counted before: the rate has it back. Once.
  void GiveBackRate();

  Permit(const Permit&) = delete;
  Permit& operator=(const Permit&) = delete;

 private:
  const std::shared_ptr<Use> use_;
};

}  // namespace fresco
