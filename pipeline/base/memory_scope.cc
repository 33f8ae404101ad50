#include "pipeline/base/memory_scope.h"

#include <array>
#include <atomic>
#include <utility>

#include "pipeline/base/mutex.h"
#include "pipeline/base/strings.h"

namespace fresco {
namespace {

thread_local MemoryHolderId current_holder = 0;
thread_local std::string_view current_model;
thread_local std::string_view current_name;

// Numbers are given once and never taken back: a block of memory carries its holder's, and may outlive whoever it was.
class Holders {
 public:
  static Holders& Instance() {
    static Holders* const instance = new Holders();  // never destroyed: tensors may outlive main()
    return *instance;
  }

  MemoryHolderId NumberOf(std::string_view model, std::string_view component, MemoryKind kind) {
    MutexLock lock(&mutex_);
    const int count = count_.load(std::memory_order_relaxed);
    for (int i = 1; i < count; ++i) {
      const MemoryHolder& known = holders_[static_cast<size_t>(i)];
      if (known.kind == kind && known.component == component && known.model == model)
        return static_cast<MemoryHolderId>(i);
    }
    if (count == kMaxMemoryHolders) return 0;
    holders_[static_cast<size_t>(count)] = {std::string(model), std::string(component), kind};
    count_.store(count + 1, std::memory_order_release);
    return static_cast<MemoryHolderId>(count);
  }

  int count() const { return count_.load(std::memory_order_acquire); }
  // Of a number that was given: it does not change any more.
  const MemoryHolder& Of(MemoryHolderId id) const { return holders_[id]; }

 private:
  Mutex mutex_;
  std::array<MemoryHolder, kMaxMemoryHolders> holders_;  // written under the mutex, read by whoever has the number
  std::atomic<int> count_ = 1;
};

}  // namespace

std::string_view MemoryKindName(MemoryKind kind) {
  constexpr std::string_view kNames[] = {"weights", "activations", "state"};
  return kNames[static_cast<size_t>(kind)];
}

std::string NameOf(const MemoryHolder& holder) {
  if (holder.component.empty()) return "other";
  if (holder.kind == MemoryKind::kState) return holder.component;
  return StrCat(holder.component, " ", MemoryKindName(holder.kind));
}

int MemoryHolderCount() {
  return Holders::Instance().count();
}

const MemoryHolder& MemoryHolderOf(MemoryHolderId id) {
  return Holders::Instance().Of(id);
}

MemoryScope::MemoryScope(std::string_view component, MemoryKind kind)
    : before_(std::exchange(current_holder, Holders::Instance().NumberOf(current_model, component, kind))) {}

MemoryScope::~MemoryScope() {
  current_holder = before_;
}

MemoryModelScope::MemoryModelScope(std::string_view model) : before_(std::exchange(current_model, model)) {}

MemoryModelScope::~MemoryModelScope() {
  current_model = before_;
}

MemoryNameScope::MemoryNameScope(std::string_view name) : before_(std::exchange(current_name, name)) {}

MemoryNameScope::~MemoryNameScope() {
  current_name = before_;
}

MemoryHolderId CurrentMemoryHolder() {
  return current_holder;
}

std::string_view CurrentMemoryName() {
  return current_name;
}

}  // namespace fresco
