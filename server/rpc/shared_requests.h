// Requests that more than one call reads. A call whose caller has named it (request_id) and that asks for the same as
// one of that name which runs joins it; after it is drawn, and as long as that is kept, it gets what was drawn. Names
// are a tenant's own.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "pipeline/base/clock.h"
#include "pipeline/base/mutex.h"
#include "server/config/config.h"
#include "server/rpc/request_identity.h"
#include "server/scheduler/event_channel.h"
#include "server/scheduler/events.h"
#include "server/scheduler/ordered_calls.h"

namespace fresco {

struct CallFacts;  // of the request, for the log (call.cc)

struct SharedRequestsOptions {
  ResultsConfig results;
  int64_t channel_bytes = 32 << 20;  // events that each call's channel holds before it is full
};

// The functions are called from many threads, without a lock held.
struct SharedRequestsDependencies {
  Clock* clock = nullptr;  // outlives the object
  // Nobody reads a request any more, whose events go to `source`: it is to end for this reason.
  std::function<void(const EventChannel& source, const absl::Status& reason)> cancel;
  // Somebody reads it who waits until then.
  std::function<void(const EventChannel& source, absl::Time deadline)> extend_deadline;
  // Pictures of so many bytes are held for calls that may come. May be null.
  std::function<void(int64_t bytes)> on_held;
};

// Thread-safe. A request's events come by one channel, its source, of which this is the only reader; each call reads a
// channel of its own, at its own pace.
class SharedRequests : public std::enable_shared_from_this<SharedRequests> {
 public:
  enum class Role {
    kFirst,   // who hands the request to the scheduler
    kJoined,  // it runs, or waits, already
    kServed,  // it has been drawn
  };
  // A call's place at a request.
  struct Seat {
    Role role = Role::kFirst;
    uint64_t request = 0;
    std::shared_ptr<EventChannel> source;   // GenerationRequest::channel
    std::shared_ptr<EventChannel> channel;  // the call's own
    std::shared_ptr<OrderedCalls> deliveries;
    std::shared_ptr<CallFacts> facts;  // the request's: those of its first call
  };

  static std::shared_ptr<SharedRequests> Start(const SharedRequestsOptions& options,
                                               const SharedRequestsDependencies& dependencies);
  SharedRequests(const SharedRequestsOptions& options, const SharedRequestsDependencies& dependencies);
  ~SharedRequests();

  // When it returns, no function is running or will be called. No call is open any more; sources may go on.
  void Stop();

  // A first call submits the request, or calls Fail; every other one is to read its channel: where the request stands
  // (queued, started, each image's last step), each image that has been drawn already, then what happens from now on.
  // ALREADY_EXISTS if what has that name is another request, or too much of it has been drawn to be held (both with
  // what is to be done about it in the message).
  absl::StatusOr<Seat> Enter(const std::string& tenant, const RequestIdentity& identity, absl::Time deadline,
                             const std::shared_ptr<CallFacts>& facts);

  // Until when anybody who has entered waits. Of a request that has ended: for ever, as its source says that it has.
  absl::Time DeadlineOf(const Seat& seat) const;
  // The scheduler has it: those who have entered meanwhile may wait longer than it was told.
  void Submitted(const Seat& seat);
  // It could not be submitted: all other calls fail with that.
  void Fail(const Seat& seat, const absl::Status& status);
  // Ends, for all its calls, a request that waits or runs. NOT_FOUND if the tenant has none of that id.
  absl::Status Cancel(const std::string& tenant, const std::string& id, const absl::Status& reason);
  // The call reads on no more. When it was the last one the request is cancelled, for `reason`; once it has ended, or a
  // second time, nothing.
  void Leave(const Seat& seat, const absl::Status& reason);

 private:
  using Key = std::pair<std::string, std::string>;  // tenant, id
  // A request, from its first call to its end or, where it is kept, to the end of that.
  struct Record {
    Key key;
    RequestIdentity identity;
    std::shared_ptr<EventChannel> source;
    std::shared_ptr<OrderedCalls> deliveries;  // of events to the readers' channels
    std::shared_ptr<CallFacts> facts;
    std::vector<std::shared_ptr<EventChannel>> readers;
    absl::Time deadline;  // the latest of its calls'

    // What whoever comes now is told.
    std::optional<QueuedEvent> queued;
    absl::Time queued_at;
    std::optional<StartedEvent> started;
    std::map<int, ProgressEvent> progress;  // of images that are not drawn, without previews
    std::vector<ImageEvent> images;
    bool whole = true;  // all that were drawn are in `images`
    std::optional<CompletedEvent> completed;

    int64_t bytes = 0;   // that it is charged for
    absl::Time expires;  // once completed
  };
  using Records = std::map<uint64_t, Record>;
  using Expiries = std::set<std::pair<absl::Time, uint64_t>>;
  // What is held for a tenant.
  struct Holding {
    int64_t bytes = 0;
    Expiries kept;  // requests that are completed, the oldest first
  };

  Seat Begin(const Key& key, const RequestIdentity& identity, absl::Time deadline,
             const std::shared_ptr<CallFacts>& facts) FRESCO_REQUIRES(mutex_);
  Seat Join(uint64_t request, Record* record, absl::Time now) FRESCO_REQUIRES(mutex_);
  absl::Status CheckSame(const Record& record, const RequestIdentity& identity) const FRESCO_REQUIRES(mutex_);
  static void Replay(const Record& record, const std::shared_ptr<EventChannel>& channel, absl::Time now);
  static void Deliver(const Record& record, const std::shared_ptr<EventChannel>& channel, RequestEvent event,
                      absl::Time now);

  // Something has come from a request's source.
  void OnSource(uint64_t request) FRESCO_EXCLUDES(mutex_);
  void Take(Records::iterator found, RequestEvent event) FRESCO_REQUIRES(mutex_);
  void Note(Records::iterator found, const QueuedEvent& event, absl::Time now) FRESCO_REQUIRES(mutex_);
  void Note(Records::iterator found, const StartedEvent& event, absl::Time now) FRESCO_REQUIRES(mutex_);
  void Note(Records::iterator found, const ProgressEvent& event, absl::Time now) FRESCO_REQUIRES(mutex_);
  void Note(Records::iterator found, const ImageEvent& event, absl::Time now) FRESCO_REQUIRES(mutex_);
  void Note(Records::iterator found, const CompletedEvent& event, absl::Time now) FRESCO_REQUIRES(mutex_);
  void Note(Records::iterator found, const FailedEvent& event, absl::Time now) FRESCO_REQUIRES(mutex_);

  // All its readers but that one, if any, are told why.
  void EndWith(Records::iterator found, const absl::Status& status, const std::shared_ptr<EventChannel>& but)
      FRESCO_REQUIRES(mutex_);

  // What is held, and for how long.
  void Charge(Record* record, int64_t bytes) FRESCO_REQUIRES(mutex_);
  void Trim() FRESCO_REQUIRES(mutex_);
  void ForgetImages(const std::string& tenant) FRESCO_REQUIRES(mutex_);
  void DropExpired(absl::Time now) FRESCO_REQUIRES(mutex_);
  void Erase(Records::iterator found) FRESCO_REQUIRES(mutex_);
  void RunExpiry() FRESCO_EXCLUDES(mutex_);

  const SharedRequestsOptions options_;
  const SharedRequestsDependencies dependencies_;
  OrderedCalls notices_;  // on_held, of what changed under the lock

  mutable Mutex mutex_;
  CondVar changed_;
  Records records_ FRESCO_GUARDED_BY(mutex_);
  std::map<Key, uint64_t> by_key_ FRESCO_GUARDED_BY(mutex_);  // records_ once more
  uint64_t entered_ FRESCO_GUARDED_BY(mutex_) = 0;
  Expiries expiries_ FRESCO_GUARDED_BY(mutex_);                        // of all that are kept
  std::map<std::string, Holding> holdings_ FRESCO_GUARDED_BY(mutex_);  // by tenant, of those that have any
  int64_t held_ FRESCO_GUARDED_BY(mutex_) = 0;                         // bytes, of all
  int inside_ FRESCO_GUARDED_BY(mutex_) = 0;                           // threads in OnSource
  bool stopped_ FRESCO_GUARDED_BY(mutex_) = false;
  std::thread expiry_;  // constant until Stop
};

}  // namespace fresco
