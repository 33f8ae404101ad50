// What the models on one device may hold of its memory together, and who makes room for whom: components that are not
// needed at the moment (text encoders, the VAE) go when their room is, and are loaded again from their files when they
// are needed (residency.h); so do graphs, which are recorded again (graph_calls.h). Torch-free.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <string>
#include <utility>

#include "absl/time/time.h"
#include "pipeline/base/mutex.h"

namespace fresco {

class Clock;

// What can be let go of: a component's weights, graphs.
class Evictable {
 public:
  virtual ~Evictable() = default;
  // Bytes that would be free; 0: it is not there, or somebody uses it. Thread-safe, and calls no budget.
  virtual int64_t evictable_bytes() const = 0;
  // Lets go, unless somebody has begun to use it meanwhile: whether it did. Thread-safe, and calls no budget.
  virtual bool Evict() = 0;
  // Bytes that it keeps of the device and that MakeRoom's `held` does not know of. Thread-safe, and calls no budget.
  virtual int64_t uncounted_bytes() const { return 0; }
};

// A component that has come to the device because it was needed.
struct ComponentLoad {
  std::string model;      // LoadOptions::name
  std::string component;  // ModelInfo::Component's
  int64_t bytes = 0;
  absl::Duration took;  // zero: it is streamed, which is a part of computing
};

// Shared by the engines of one device. Thread-safe.
class MemoryBudget {
 public:
  // `bytes`: of tensors, as MemoryUseOf counts them, and of what Evictables keep besides. `clock` outlives it: loads
  // are timed by it. `on_load`: told of each, on the thread that needs it; may be null.
  MemoryBudget(int64_t bytes, const Clock* clock, std::function<void(const ComponentLoad&)> on_load = nullptr)
      : bytes_(bytes), clock_(*clock), on_load_(std::move(on_load)) {}
  MemoryBudget(const MemoryBudget&) = delete;
  MemoryBudget& operator=(const MemoryBudget&) = delete;

  // What room is for. Computing is over soon, and others wait for it; nobody waits for a model that is being loaded,
  // which may take minutes: its room counts, and if there is no more the budget is overdrawn.
  enum class Purpose { kComputing, kLoading };

  // Room that is spoken for while it lives.
  class Claim {
   public:
    Claim() = default;
    Claim(Claim&& other) noexcept
        : budget_(std::exchange(other.budget_, nullptr)),
          bytes_(std::exchange(other.bytes_, 0)),
          purpose_(other.purpose_),
          fits_(other.fits_) {}
    Claim& operator=(Claim&&) = delete;
    ~Claim();
    // No more than `bytes` of it from now on: the rest has been allocated for good.
    void Shrink(int64_t bytes);

    // The budget is not overdrawn by it.
    bool fits() const { return fits_; }

   private:
    friend class MemoryBudget;
    Claim(MemoryBudget* budget, int64_t bytes, Purpose purpose, bool fits)
        : budget_(budget), bytes_(bytes), purpose_(purpose), fits_(fits) {}
    MemoryBudget* budget_ = nullptr;
    int64_t bytes_ = 0;
    Purpose purpose_ = Purpose::kComputing;
    bool fits_ = true;
  };

  // Until the claim goes, its caller may allocate `bytes` beyond what is held now (`held`: the device's, thread-safe).
  // Waits for others that compute where they do not fit beside it, in turn, and then lets components go: the smallest
  // that makes the room alone, else those that have not been used for longest. Where even that is not enough the budget
  // is overdrawn: better than no picture, as long as the device has it. A thread has one claim at a time.
  [[nodiscard]] Claim MakeRoom(int64_t bytes, const std::function<int64_t()>& held,
                               Purpose purpose = Purpose::kComputing) FRESCO_EXCLUDES(mutex_);

  // Whether MakeRoom of `bytes` could be had without an overdraft once nobody else has a claim.
  bool CouldHold(int64_t bytes, const std::function<int64_t()>& held) const FRESCO_EXCLUDES(mutex_);

  // Of what outlives its being known here.
  void Add(Evictable* component) FRESCO_EXCLUDES(mutex_);
  void Remove(Evictable* component) FRESCO_EXCLUDES(mutex_);
  void CountUse(Evictable* component) FRESCO_EXCLUDES(mutex_);

  int64_t bytes() const { return bytes_; }
  const Clock& clock() const { return clock_; }
  void Tell(const ComponentLoad& load) const {
    if (on_load_) on_load_(load);
  }
  int64_t evictions() const FRESCO_EXCLUDES(mutex_);   // so far
  int64_t overdrafts() const FRESCO_EXCLUDES(mutex_);  // claims for which there was not enough room

 private:
  void Release(int64_t bytes, Purpose purpose) FRESCO_EXCLUDES(mutex_);
  bool EvictFor(int64_t missing) FRESCO_REQUIRES(mutex_);
  int64_t Uncounted() const FRESCO_REQUIRES(mutex_);
  // For a claim of `bytes` more; not above 0: none.
  int64_t Missing(int64_t bytes, const std::function<int64_t()>& held) const FRESCO_REQUIRES(mutex_);

  const int64_t bytes_;
  const Clock& clock_;
  const std::function<void(const ComponentLoad&)> on_load_;

  mutable Mutex mutex_;
  CondVar changed_;
  std::list<Evictable*> components_ FRESCO_GUARDED_BY(mutex_);  // the least recently used first
  int64_t claimed_ FRESCO_GUARDED_BY(mutex_) = 0;
  int computing_ FRESCO_GUARDED_BY(mutex_) = 0;  // claims
  uint64_t next_turn_ FRESCO_GUARDED_BY(mutex_) = 0, turn_ FRESCO_GUARDED_BY(mutex_) = 0;
  int64_t evictions_ FRESCO_GUARDED_BY(mutex_) = 0, overdrafts_ FRESCO_GUARDED_BY(mutex_) = 0;
};

}  // namespace fresco
