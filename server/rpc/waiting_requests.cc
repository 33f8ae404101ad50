#include "server/rpc/waiting_requests.h"

#include <vector>

#include "pipeline/base/strings.h"
#include "server/scheduler/request_state.h"

namespace fresco {

std::shared_ptr<WaitingRequests::Entry> WaitingRequests::Add(const std::string& tenant, const std::string& id,
                                                             std::shared_ptr<EventChannel> channel) {
  MutexLock lock(&mutex_);
  return std::make_shared<Entry>(shared_from_this(), entries_.emplace(Key(tenant, id), std::move(channel)));
}

absl::Status WaitingRequests::Cancel(const std::string& tenant, const std::string& id, const absl::Status& reason,
                                     absl::Time now) {
  std::vector<std::shared_ptr<EventChannel>> channels;
  {
    MutexLock lock(&mutex_);
    const auto [first, last] = entries_.equal_range({tenant, id});
    for (auto entry = first; entry != last; ++entry) {
      if (!entry->second->closed()) channels.push_back(entry->second);
    }
  }
  if (channels.empty()) return absl::NotFoundError(StrCat("no request with the id '", id, "' is waiting or running"));
  // Should it be handed to the scheduler just now, that finds its channel closed.
  for (const auto& channel : channels) channel->Put(FailedEvent{CopyForThread(reason)}, now);
  return absl::OkStatus();
}

void WaitingRequests::Remove(Entries::iterator entry) {
  MutexLock lock(&mutex_);
  entries_.erase(entry);
}

}  // namespace fresco
