#include "pipeline/engine/memory_budget.h"

#include <algorithm>

namespace fresco {

MemoryBudget::Claim::~Claim() {
  if (budget_ != nullptr) budget_->Release(bytes_, purpose_);
}

void MemoryBudget::Claim::Shrink(int64_t bytes) {
  if (budget_ == nullptr || bytes >= bytes_) return;
  MutexLock lock(&budget_->mutex_);
  budget_->claimed_ -= bytes_ - bytes;
  bytes_ = bytes;
  budget_->changed_.NotifyAll();
}

void MemoryBudget::Release(int64_t bytes, Purpose purpose) {
  MutexLock lock(&mutex_);
  claimed_ -= bytes;
  if (purpose == Purpose::kComputing) --computing_;
  changed_.NotifyAll();
}

MemoryBudget::Claim MemoryBudget::MakeRoom(int64_t bytes, const std::function<int64_t()>& held, Purpose purpose) {
  MutexLock lock(&mutex_);
  const uint64_t own = next_turn_++;
  // Of what others have claimed some is held already: together they may seem to need more than they do, and then this
  // waits until they are done.
  while (own != turn_ || (computing_ > 0 && Missing(bytes, held) > 0)) changed_.Wait(&mutex_);
  ++turn_;
  while (Missing(bytes, held) > 0 && EvictFor(Missing(bytes, held))) {
  }
  const bool fits = Missing(bytes, held) <= 0;
  if (!fits) ++overdrafts_;
  claimed_ += bytes;
  if (purpose == Purpose::kComputing) ++computing_;
  changed_.NotifyAll();  // whose turn it is now
  return {this, bytes, purpose, fits};
}

int64_t MemoryBudget::Missing(int64_t bytes, const std::function<int64_t()>& held) const {
  return held() + Uncounted() + claimed_ + bytes - bytes_;
}

int64_t MemoryBudget::Uncounted() const {
  int64_t sum = 0;
  for (const Evictable* component : components_) sum += component->uncounted_bytes();
  return sum;
}

bool MemoryBudget::CouldHold(int64_t bytes, const std::function<int64_t()>& held) const {
  MutexLock lock(&mutex_);
  int64_t stays = held() + Uncounted();
  for (const Evictable* component : components_) stays -= component->evictable_bytes();
  return stays + bytes <= bytes_;
}

// Whether something went.
bool MemoryBudget::EvictFor(int64_t missing) {
  Evictable* best = nullptr;
  int64_t least = 0;
  for (Evictable* component : components_) {
    const int64_t own = component->evictable_bytes();
    if (own >= missing && (best == nullptr || own < least)) {
      best = component;
      least = own;
    }
  }
  if (best == nullptr) {
    const auto oldest = std::find_if(components_.begin(), components_.end(),
                                     [](const Evictable* component) { return component->evictable_bytes() > 0; });
    if (oldest == components_.end()) return false;
    best = *oldest;
  }
  if (best->Evict()) ++evictions_;
  return true;
}

void MemoryBudget::Add(Evictable* component) {
  MutexLock lock(&mutex_);
  components_.push_back(component);
}

void MemoryBudget::Remove(Evictable* component) {
  MutexLock lock(&mutex_);
  components_.remove(component);
}

void MemoryBudget::CountUse(Evictable* component) {
  MutexLock lock(&mutex_);
  const auto found = std::find(components_.begin(), components_.end(), component);
  if (found != components_.end()) components_.splice(components_.end(), components_, found);
}

int64_t MemoryBudget::evictions() const {
  MutexLock lock(&mutex_);
  return evictions_;
}

int64_t MemoryBudget::overdrafts() const {
  MutexLock lock(&mutex_);
  return overdrafts_;
}

}  // namespace fresco
