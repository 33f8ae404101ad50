#include "server/rpc/shared_requests.h"

#include <algorithm>
#include <variant>

#include "absl/strings/str_join.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "server/scheduler/request_state.h"

namespace fresco {
namespace {

// What a picture and a request take beside their bytes and texts.
constexpr int64_t kImageBytes = 1024, kRecordBytes = 2048;

int64_t BytesOf(const ImageEvent& event) {
  const ImageSpec& spec = event.provenance.spec;
  size_t bytes = event.image.bytes.size() + spec.prompt.size() + spec.negative_prompt.size();
  for (const auto* text : {&spec.prompt_2, &spec.prompt_3, &spec.negative_prompt_2, &spec.negative_prompt_3})
    bytes += text->has_value() ? (*text)->size() : 0;
  return kImageBytes + static_cast<int64_t>(bytes);
}

// One that shares nothing with `event` but what never changes.
RequestEvent CopyForReader(const RequestEvent& event) {
  if (const auto* failed = std::get_if<FailedEvent>(&event)) return FailedEvent{CopyForThread(failed->status)};
  return event;
}

}  // namespace

std::shared_ptr<SharedRequests> SharedRequests::Start(const SharedRequestsOptions& options,
                                                      const SharedRequestsDependencies& dependencies) {
  auto shared = std::make_shared<SharedRequests>(options, dependencies);
  if (options.results.keep > absl::ZeroDuration()) {
    shared->expiry_ = std::thread([own = shared.get()] { own->RunExpiry(); });
  }
  return shared;
}

SharedRequests::SharedRequests(const SharedRequestsOptions& options, const SharedRequestsDependencies& dependencies)
    : options_(options), dependencies_(dependencies) {}

SharedRequests::~SharedRequests() {
  Stop();
}

void SharedRequests::Stop() {
  {
    MutexLock lock(&mutex_);
    stopped_ = true;
    changed_.NotifyAll();
    while (inside_ > 0) changed_.Wait(&mutex_);
  }
  if (expiry_.joinable()) expiry_.join();
}

absl::StatusOr<SharedRequests::Seat> SharedRequests::Enter(const std::string& tenant, const RequestIdentity& identity,
                                                           absl::Time deadline,
                                                           const std::shared_ptr<CallFacts>& facts) {
  Seat seat;
  bool waits_longer = false;
  absl::Status same;
  {
    MutexLock lock(&mutex_);
    const absl::Time now = dependencies_.clock->Now();
    DropExpired(now);
    const Key key = {tenant, identity.id};
    const auto named = by_key_.find(key);
    if (named == by_key_.end()) {
      seat = Begin(key, identity, deadline, facts);
    } else {
      Record& record = records_.at(named->second);
      same = CheckSame(record, identity);
      if (same.ok()) {
        seat = Join(named->second, &record, now);
        waits_longer = seat.role == Role::kJoined && deadline > record.deadline;
        record.deadline = std::max(record.deadline, deadline);
      }
    }
  }
  notices_.Run();
  FRESCO_RETURN_IF_ERROR(same);
  seat.deliveries->Run();
  if (waits_longer) dependencies_.extend_deadline(*seat.source, deadline);
  return seat;
}

SharedRequests::Seat SharedRequests::Begin(const Key& key, const RequestIdentity& identity, absl::Time deadline,
                                           const std::shared_ptr<CallFacts>& facts) {
  const uint64_t request = ++entered_;
  Record& record = records_[request];
  record.key = key;
  record.identity = identity;
  record.source = std::make_shared<EventChannel>(options_.channel_bytes);
  record.deliveries = std::make_shared<OrderedCalls>();
  record.facts = facts;
  record.deadline = deadline;
  by_key_.emplace(key, request);
  // The scheduler may hold the source for longer than anybody holds this.
  record.source->SetReadyCallback([weak = weak_from_this(), request] {
    if (const auto own = weak.lock(); own != nullptr) own->OnSource(request);
  });
  Seat seat = {Role::kFirst,      request, record.source, std::make_shared<EventChannel>(options_.channel_bytes),
               record.deliveries, facts};
  record.readers.push_back(seat.channel);
  return seat;
}

SharedRequests::Seat SharedRequests::Join(uint64_t request, Record* record, absl::Time now) {
  const Role role = record->completed.has_value() ? Role::kServed : Role::kJoined;
  Seat seat = {
      role,         request, record->source, std::make_shared<EventChannel>(options_.channel_bytes), record->deliveries,
      record->facts};
  Replay(*record, seat.channel, now);
  if (role == Role::kJoined) record->readers.push_back(seat.channel);
  return seat;
}

absl::Status SharedRequests::CheckSame(const Record& record, const RequestIdentity& identity) const {
  const std::string what = StrCat("a request with the id '", identity.id, "' ",
                                  record.completed.has_value() ? "has been drawn already" : "is running already");
  if (record.identity.method != identity.method) {
    return absl::AlreadyExistsError(
        StrCat(what, ", by ", record.identity.method, " and not ", identity.method, ": another needs another id"));
  }
  if (const std::vector<std::string> fields = DifferingFields(record.identity, identity); !fields.empty()) {
    return absl::AlreadyExistsError(
        StrCat(what, ", and differs from this one in ", absl::StrJoin(fields, ", "), ": another needs another id"));
  }
  if (!record.whole) {
    return absl::AlreadyExistsError(StrCat(what,
                                           ", and its pictures are too large to be held for a second caller "
                                           "(results.keep_bytes): try again when it has ended"));
  }
  return absl::OkStatus();
}

void SharedRequests::Replay(const Record& record, const std::shared_ptr<EventChannel>& channel, absl::Time now) {
  if (record.queued.has_value()) {
    const absl::Duration rest = record.queued->estimated_wait - (now - record.queued_at);
    Deliver(record, channel, QueuedEvent{record.queued->position, std::max(rest, absl::ZeroDuration())}, now);
  }
  if (record.started.has_value()) Deliver(record, channel, *record.started, now);
  for (const ImageEvent& image : record.images) Deliver(record, channel, image, now);
  for (const auto& [image, progress] : record.progress) Deliver(record, channel, progress, now);
  if (record.completed.has_value()) Deliver(record, channel, *record.completed, now);
}

void SharedRequests::Deliver(const Record& record, const std::shared_ptr<EventChannel>& channel, RequestEvent event,
                             absl::Time now) {
  record.deliveries->Add([channel, event = std::move(event), now]() mutable { channel->Put(std::move(event), now); });
}

absl::Time SharedRequests::DeadlineOf(const Seat& seat) const {
  MutexLock lock(&mutex_);
  const auto found = records_.find(seat.request);
  return found == records_.end() ? absl::InfiniteFuture() : found->second.deadline;
}

void SharedRequests::Submitted(const Seat& seat) {
  dependencies_.extend_deadline(*seat.source, DeadlineOf(seat));
}

void SharedRequests::Fail(const Seat& seat, const absl::Status& status) {
  {
    MutexLock lock(&mutex_);
    const auto found = records_.find(seat.request);
    if (found == records_.end()) return;
    EndWith(found, status, seat.channel);
  }
  notices_.Run();
  seat.deliveries->Run();
}

absl::Status SharedRequests::Cancel(const std::string& tenant, const std::string& id, const absl::Status& reason) {
  std::shared_ptr<EventChannel> source;
  std::shared_ptr<OrderedCalls> deliveries;
  {
    MutexLock lock(&mutex_);
    const auto named = by_key_.find({tenant, id});
    const auto found = named == by_key_.end() ? records_.end() : records_.find(named->second);
    if (found == records_.end() || found->second.completed.has_value())
      return absl::NotFoundError(StrCat("no request with the id '", id, "' is waiting or running"));
    source = found->second.source;
    deliveries = found->second.deliveries;
    EndWith(found, reason, nullptr);
  }
  notices_.Run();
  deliveries->Run();
  dependencies_.cancel(*source, reason);
  return absl::OkStatus();
}

void SharedRequests::EndWith(Records::iterator found, const absl::Status& status,
                             const std::shared_ptr<EventChannel>& but) {
  const Record& record = found->second;
  const absl::Time now = dependencies_.clock->Now();
  for (const auto& reader : record.readers) {
    if (reader != but) Deliver(record, reader, FailedEvent{CopyForThread(status)}, now);
  }
  // The scheduler then knows, whenever it gets the request, that nobody wants it.
  record.source->Close();
  Erase(found);
}

void SharedRequests::Leave(const Seat& seat, const absl::Status& reason) {
  {
    MutexLock lock(&mutex_);
    const auto found = records_.find(seat.request);
    if (found == records_.end() || found->second.completed.has_value()) return;
    std::vector<std::shared_ptr<EventChannel>>& readers = found->second.readers;
    if (std::erase(readers, seat.channel) == 0 || !readers.empty()) return;
    // Before its name is another's: the scheduler then knows that this one has been given up.
    seat.source->Close();
    Erase(found);
  }
  notices_.Run();
  dependencies_.cancel(*seat.source, reason);
}

void SharedRequests::OnSource(uint64_t request) {
  std::shared_ptr<OrderedCalls> deliveries;
  {
    MutexLock lock(&mutex_);
    const auto found = records_.find(request);
    if (stopped_ || found == records_.end()) return;
    ++inside_;
    deliveries = found->second.deliveries;
    const std::shared_ptr<EventChannel> source = found->second.source;
    // After its last event, which may take the record along, there is none.
    while (std::optional<RequestEvent> event = source->Next()) Take(found, *std::move(event));
  }
  notices_.Run();
  deliveries->Run();
  MutexLock lock(&mutex_);
  if (--inside_ == 0) changed_.NotifyAll();
}

void SharedRequests::Take(Records::iterator found, RequestEvent event) {
  const Record& record = found->second;
  const absl::Time now = dependencies_.clock->Now();
  for (const auto& reader : record.readers) Deliver(record, reader, CopyForReader(event), now);
  std::visit([&](const auto& held) FRESCO_REQUIRES(mutex_) { Note(found, held, now); }, event);
}

void SharedRequests::Note(Records::iterator found, const QueuedEvent& event, absl::Time now) {
  found->second.queued = event;
  found->second.queued_at = now;
}

void SharedRequests::Note(Records::iterator found, const StartedEvent& event, absl::Time now) {
  found->second.started = event;
  Note(found, QueuedEvent{}, now);  // it waits no more
}

void SharedRequests::Note(Records::iterator found, const ProgressEvent& event, absl::Time /*now*/) {
  ProgressEvent& progress = found->second.progress[event.image_index];
  progress = event;
  progress.preview.reset();
}

void SharedRequests::Note(Records::iterator found, const ImageEvent& event, absl::Time /*now*/) {
  Record& record = found->second;
  record.progress.erase(event.image_index);
  if (!record.whole) return;
  record.images.push_back(event);
  Charge(&record, BytesOf(event));
  Trim();
}

void SharedRequests::Note(Records::iterator found, const CompletedEvent& event, absl::Time now) {
  Record& record = found->second;
  record.completed = event;
  record.readers.clear();
  record.progress.clear();
  if (!record.whole || options_.results.keep <= absl::ZeroDuration()) return Erase(found);
  record.expires = now + options_.results.keep;
  Charge(&record, kRecordBytes + 2 * BytesOf(record.identity));  // the log's facts are much the same texts
  expiries_.emplace(record.expires, found->first);
  holdings_[record.key.first].kept.emplace(record.expires, found->first);
  changed_.NotifyAll();
  Trim();
}

// A retry runs anew.
void SharedRequests::Note(Records::iterator found, const FailedEvent& /*event*/, absl::Time /*now*/) {
  Erase(found);
}

void SharedRequests::Charge(Record* record, int64_t bytes) {
  if (bytes == 0) return;
  record->bytes += bytes;
  held_ += bytes;
  const auto holding = holdings_.try_emplace(record->key.first).first;
  holding->second.bytes += bytes;
  if (holding->second.bytes == 0) holdings_.erase(holding);
  if (dependencies_.on_held == nullptr) return;
  notices_.Add([this, held = held_] { dependencies_.on_held(held); });
}

// Whoever holds the most makes room, so that nobody pushes out another who holds less.
void SharedRequests::Trim() {
  const auto holds_less = [](const auto& a, const auto& b) { return a.second.bytes < b.second.bytes; };
  while (held_ > options_.results.keep_bytes) {
    const auto most = std::max_element(holdings_.begin(), holdings_.end(), holds_less);
    if (most->second.kept.empty()) {
      ForgetImages(most->first);
    } else {
      Erase(records_.find(most->second.kept.begin()->second));
    }
  }
}

// Of the tenant's requests that run, the one that holds the most: its callers get all of it, and nobody joins it.
void SharedRequests::ForgetImages(const std::string& tenant) {
  Record* largest = nullptr;
  for (auto& [request, record] : records_) {
    if (record.key.first == tenant && (largest == nullptr || record.bytes > largest->bytes)) largest = &record;
  }
  largest->whole = false;
  largest->images.clear();
  Charge(largest, -largest->bytes);
}

void SharedRequests::DropExpired(absl::Time now) {
  while (!expiries_.empty() && expiries_.begin()->first <= now) Erase(records_.find(expiries_.begin()->second));
}

void SharedRequests::Erase(Records::iterator found) {
  Record& record = found->second;
  expiries_.erase({record.expires, found->first});
  if (const auto holding = holdings_.find(record.key.first); holding != holdings_.end())
    holding->second.kept.erase({record.expires, found->first});
  Charge(&record, -record.bytes);
  by_key_.erase(record.key);
  records_.erase(found);
}

void SharedRequests::RunExpiry() {
  while (true) {
    {
      MutexLock lock(&mutex_);
      if (stopped_) return;
      const absl::Time next = expiries_.empty() ? absl::InfiniteFuture() : expiries_.begin()->first;
      if (next > dependencies_.clock->Now()) {
        dependencies_.clock->WaitUntil(&changed_, &mutex_, next);
        continue;
      }
      DropExpired(next);
    }
    notices_.Run();
  }
}

}  // namespace fresco
