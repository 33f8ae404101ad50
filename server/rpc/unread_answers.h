// The pictures that whole answers (CreateImage) hold until their callers have read them: gRPC has an answer from when
// it is complete to when its caller has taken it all, which is up to the caller.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "pipeline/base/mutex.h"
#include "server/scheduler/shared_bytes.h"

namespace fresco {

// Thread-safe.
class UnreadAnswers {
 public:
  // `limit`: bytes, of all pictures, each once however many answers it is in, and of the answers themselves.
  explicit UnreadAnswers(int64_t limit) : limit_(limit) {}

  // One answer's part, until it is destroyed. The UnreadAnswers outlive it.
  class Hold;

  // RESOURCE_EXHAUSTED, with when to try again, if the answer would make them more than the limit, or its tenant's more
  // than half of it. A tenant has a name; of callers without one nobody knows how many they are. Who holds nothing
  // always gets what there is room for, and the only answer is always let through.
  absl::StatusOr<std::unique_ptr<Hold>> Take(const std::string& tenant, const std::vector<SharedBytes>& pictures);

 private:
  // Of pictures that are in no answer yet, and of the answer.
  int64_t Added(const std::vector<SharedBytes>& pictures) const FRESCO_REQUIRES(mutex_);
  void Charge(const std::string& tenant, int64_t bytes) FRESCO_REQUIRES(mutex_);
  void Add(const Hold& hold) FRESCO_REQUIRES(mutex_);
  void Remove(const Hold& hold);

  const int64_t limit_;
  mutable Mutex mutex_;
  int64_t held_ FRESCO_GUARDED_BY(mutex_) = 0;
  std::map<std::string, int64_t> by_tenant_ FRESCO_GUARDED_BY(mutex_);   // of those that hold any
  std::map<const std::string*, int> answers_ FRESCO_GUARDED_BY(mutex_);  // that a picture is in
};

class UnreadAnswers::Hold {
 public:
  Hold(UnreadAnswers* answers, std::string tenant, std::vector<SharedBytes> pictures);
  ~Hold();
  Hold(const Hold&) = delete;
  Hold& operator=(const Hold&) = delete;

 private:
  friend class UnreadAnswers;

  UnreadAnswers* const answers_;
  const std::string tenant_;
  const std::vector<SharedBytes> pictures_;
};

}  // namespace fresco
