// How many bytes a computation holds at the most, played through by shapes alone: every tensor that it makes is held
// here, in the same order and as long as there. Torch-free.
//
// *_memory.cc beside each model play its forward so: whoever changes what lives how long in a forward changes it there
// too, and tests/pipeline/engine/memory_plan_test.cc compares with what the allocator counts.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

namespace fresco {

// Not thread-safe; outlives what it has given out.
class ActivationLedger {
 public:
  // Some bytes, held while it lives.
  class Held {
   public:
    Held() = default;
    Held(Held&& other) noexcept
        : ledger_(std::exchange(other.ledger_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
    Held& operator=(Held&& other) noexcept {
      if (this == &other) return *this;
      Release();
      ledger_ = std::exchange(other.ledger_, nullptr);
      bytes_ = std::exchange(other.bytes_, 0);
      return *this;
    }
    ~Held() { Release(); }

    void Release() {
      if (ledger_ != nullptr) ledger_->held_ -= bytes_;
      ledger_ = nullptr;
      bytes_ = 0;
    }
    bool defined() const { return ledger_ != nullptr; }

   private:
    friend class ActivationLedger;
    Held(ActivationLedger* ledger, int64_t bytes) : ledger_(ledger), bytes_(bytes) {}

    ActivationLedger* ledger_ = nullptr;
    int64_t bytes_ = 0;
  };

  ActivationLedger() = default;
  ActivationLedger(const ActivationLedger&) = delete;
  ActivationLedger& operator=(const ActivationLedger&) = delete;

  [[nodiscard]] Held Hold(int64_t bytes) {
    held_ += bytes;
    peak_ = std::max(peak_, held_);
    return {this, bytes};
  }
  // Held and let go at once.
  void Touch(int64_t bytes) { peak_ = std::max(peak_, held_ + bytes); }

  int64_t peak() const { return peak_; }

 private:
  int64_t held_ = 0;
  int64_t peak_ = 0;
};

}  // namespace fresco
