#include "bench/service/traffic.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <thread>
#include <utility>

namespace fresco {
namespace {

absl::Duration FromProto(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

std::shared_ptr<grpc::Channel> Connect(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // a connection of its own
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

}  // namespace

// Owns itself until it is done.
class Traffic::Stream final : public grpc::ClientReadReactor<v1::GenerateEvent> {
 public:
  Stream(Traffic* traffic, absl::Time due, std::function<void()> opened, Done done)
      : traffic_(*traffic), due_(due), opened_(std::move(opened)), done_(std::move(done)) {}

  void Start(v1::ImageGeneration::Stub* stub, const v1::GenerateRequest& request) {
    request_ = request;
    record_.late = traffic_.clock_->Now() - due_;
    context_.set_wait_for_ready(true);
    stub->async()->Generate(&context_, &request_, this);
    StartRead(&event_);
    StartCall();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (opened_) std::exchange(opened_, nullptr)();
    Take();
    StartRead(&event_);
  }

  void OnDone(const grpc::Status& status) override {
    record_.total = traffic_.clock_->Now() - due_;
    record_.code = status.error_code();
    record_.error = status.error_message();
    const bool drawn = pictures_ == 1 && completed_ == 1 && !after_completed_;
    record_.well_formed = status.ok() ? drawn : completed_ == 0;
    const Done done = std::move(done_);
    const CallRecord record = std::move(record_);
    Traffic& traffic = traffic_;
    delete this;
    done(record);
    traffic.Ended();
  }

 private:
  void Take() {
    after_completed_ = after_completed_ || completed_ > 0;
    if (event_.has_image()) {
      const v1::ImageChunk& chunk = event_.image();
      record_.bytes += static_cast<int64_t>(chunk.data().size());
      if (record_.bytes == chunk.total_bytes()) ++pictures_;
    }
    if (event_.has_completed()) {
      ++completed_;
      const v1::Timings& timings = event_.completed().timings();
      record_.queue = FromProto(timings.queue());
      record_.prepare = FromProto(timings.prepare());
      record_.denoise = FromProto(timings.denoise());
      record_.decode = FromProto(timings.decode());
      record_.encode = FromProto(timings.encode());
    }
  }

  Traffic& traffic_;
  const absl::Time due_;
  std::function<void()> opened_;
  Done done_;
  grpc::ClientContext context_;
  v1::GenerateRequest request_;
  v1::GenerateEvent event_;
  CallRecord record_;
  int pictures_ = 0, completed_ = 0;
  bool after_completed_ = false;
};

Traffic::Traffic(const TrafficOptions& options, const Clock* clock) : clock_(clock) {
  for (int i = 0; i < options.connections; ++i)
    stubs_.push_back(v1::ImageGeneration::NewStub(Connect(options.address)));
  request_.set_prompt("load");
  request_.set_steps(options.steps);
  request_.set_width(options.side);
  request_.set_height(options.side);
}

Traffic::~Traffic() {
  AwaitNone();
}

void Traffic::Send(absl::Time due, std::function<void()> opened, Done done) {
  uint64_t number;
  {
    MutexLock lock(&mutex_);
    number = sent_++;
    ++under_way_;
  }
  v1::GenerateRequest request = request_;
  request.set_seed(number);
  auto* stream = new Stream(this, due, std::move(opened), std::move(done));
  stream->Start(stubs_[number % stubs_.size()].get(), request);
}

void Traffic::Ended() {
  MutexLock lock(&mutex_);
  --under_way_;
  ended_.NotifyAll();
}

void Traffic::AwaitNone() {
  MutexLock lock(&mutex_);
  while (under_way_ > 0) ended_.Wait(&mutex_);
}

int Traffic::under_way() const {
  MutexLock lock(&mutex_);
  return under_way_;
}

namespace {

// What calls leave behind, from many threads.
class Ledger {
 public:
  Ledger(size_t count, Each each) : each_(std::move(each)) { records_.reserve(count); }

  void Add(const CallRecord& record) {
    MutexLock lock(&mutex_);
    records_.push_back(record);
    if (each_) each_(records_.size());
  }
  Records Take() {
    MutexLock lock(&mutex_);
    return std::move(records_);
  }

 private:
  const Each each_;  // called with the lock, so that counts come in order
  Mutex mutex_;
  Records records_ FRESCO_GUARDED_BY(mutex_);
};

// One of the places of a closed loop: sends the next when its last has ended.
class ClosedLoop {
 public:
  ClosedLoop(Traffic* traffic, const Clock* clock, size_t count)
      : traffic_(*traffic), clock_(*clock), left_(count), ledger_(count, {}) {}

  void SendNext() {
    {
      MutexLock lock(&mutex_);
      if (left_ == 0) return;
      --left_;
    }
    traffic_.Send(clock_.Now(), {}, [this](const CallRecord& record) {
      ledger_.Add(record);
      SendNext();
    });
  }
  Records Take() { return ledger_.Take(); }

 private:
  Traffic& traffic_;
  const Clock& clock_;
  Mutex mutex_;
  size_t left_ FRESCO_GUARDED_BY(mutex_);
  Ledger ledger_;
};

}  // namespace

Records RunClosedLoop(Traffic* traffic, const Clock* clock, int in_flight, size_t count) {
  ClosedLoop loop(traffic, clock, count);
  for (int i = 0; i < in_flight; ++i) loop.SendNext();
  traffic->AwaitNone();
  return loop.Take();
}

Records RunOpenLoop(Traffic* traffic, const Clock* clock, double rate, size_t count, uint64_t seed, const Each& each) {
  Ledger ledger(count, each);
  std::mt19937_64 random(seed);
  absl::Time due = clock->Now();
  for (size_t i = 0; i < count; ++i) {
    // Between arrivals of a Poisson process; written out, for the same times with every standard library.
    const double uniform = static_cast<double>(random() >> 11) * 0x1p-53;  // [0, 1)
    due += absl::Seconds(-std::log1p(-uniform) / rate);
    const absl::Duration wait = due - clock->Now();
    if (wait > absl::ZeroDuration()) std::this_thread::sleep_for(absl::ToChronoNanoseconds(wait));
    traffic->Send(due, {}, [&ledger](const CallRecord& record) { ledger.Add(record); });
  }
  traffic->AwaitNone();
  return ledger.Take();
}

absl::Duration Quantile(std::vector<absl::Duration> durations, double share) {
  if (durations.empty()) return absl::ZeroDuration();
  const auto rank = static_cast<size_t>(std::ceil(share * static_cast<double>(durations.size())));
  const auto nth = durations.begin() + static_cast<ptrdiff_t>(std::clamp<size_t>(rank, 1, durations.size()) - 1);
  std::nth_element(durations.begin(), nth, durations.end());
  return *nth;
}

}  // namespace fresco
