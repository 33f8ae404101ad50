// Requests that the scheduler does not know yet, since their model is being loaded or their texts are being looked at,
// so that Cancel finds them. Those that may be shared are known to SharedRequests already.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "pipeline/base/mutex.h"
#include "server/scheduler/event_channel.h"

namespace fresco {

// Thread-safe. Held by shared_ptr, since who looks at a text may let go of its request later than the server ends.
class WaitingRequests : public std::enable_shared_from_this<WaitingRequests> {
 public:
  // A request waits for as long as its entry lives.
  class Entry;
  std::shared_ptr<Entry> Add(const std::string& tenant, const std::string& id, std::shared_ptr<EventChannel> channel);

  // Ends the tenant's requests of that id: their callers are told why, leave, and with that are waited for no more.
  // NOT_FOUND if none waits.
  absl::Status Cancel(const std::string& tenant, const std::string& id, const absl::Status& reason, absl::Time now);

 private:
  using Key = std::pair<std::string, std::string>;  // tenant, id
  using Entries =
      std::multimap<Key, std::shared_ptr<EventChannel>>;  // an id that its caller has made may be there twice

  void Remove(Entries::iterator entry);

  Mutex mutex_;
  Entries entries_ FRESCO_GUARDED_BY(mutex_);
};

class WaitingRequests::Entry {
 public:
  Entry(std::shared_ptr<WaitingRequests> requests, Entries::iterator entry)
      : requests_(std::move(requests)), entry_(entry) {}
  ~Entry() { requests_->Remove(entry_); }
  Entry(const Entry&) = delete;
  Entry& operator=(const Entry&) = delete;

 private:
  const std::shared_ptr<WaitingRequests> requests_;
  const Entries::iterator entry_;
};

}  // namespace fresco
