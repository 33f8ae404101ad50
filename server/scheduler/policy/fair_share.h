// Weighted fair shares by virtual time: start-time fair queueing (Goyal, Vin, Cheng 1996) over tenants, in seconds of
// device time instead of bits. Each tenant has what it was served, divided by its weight; virtual time is the least of
// those that have something waiting, so that all of them advance together. A tenant that comes back after a pause
// starts at virtual time: it neither saves up what it did not use nor pays for what nobody else wanted. One
// that has something on the devices and nothing waiting does not hold virtual time back, but is as far behind as it was
// when something of it waits again.
//
// A tenant may be ahead of virtual time by the allowance, so that priorities and deadlines decide among those who are
// about even; beyond it, it comes after all that are not.
#pragma once

#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "server/scheduler/policy/job.h"

namespace fresco {

// Not thread-safe.
class FairShare {
 public:
  static constexpr double kLeastWeight = 1e-6;

  // Found or made; a weight of an existing one changes. One that is no number above 0 counts as kLeastWeight.
  TenantId Tenant(std::string_view name, double weight);
  // Forgets a tenant, which must be forgettable. Its number may be given to another.
  void Forget(TenantId tenant);
  // Whether forgetting it loses nothing: it is known, and not backlogged nor ahead of virtual time.
  bool Forgettable(TenantId tenant) const;

  // The tenant comes back: it had nothing, and has something now.
  void Join(TenantId tenant);
  // Whether something of the tenant waits.
  void SetBacklogged(TenantId tenant, bool backlogged);
  // What is no time (negative, infinite, not a number) is not charged.
  void Charge(TenantId tenant, double device_seconds);
  // How far ahead a tenant may be: seconds of device time for each unit of weight.
  void SetAllowance(double seconds);

  double served(TenantId tenant) const { return tenants_[tenant].served; }
  double weight(TenantId tenant) const { return tenants_[tenant].weight; }
  bool beyond(TenantId tenant) const { return tenants_[tenant].served > virtual_time_ + allowance_; }
  const std::string& name(TenantId tenant) const { return tenants_[tenant].name; }
  double virtual_time() const { return virtual_time_; }
  double backlogged_weight() const { return backlogged_weight_; }
  int size() const { return static_cast<int>(tenants_.size()); }  // above all numbers of tenants
  int known() const { return static_cast<int>(ids_.size()); }

  // Backlogged tenants whose beyond() or, being beyond, served() is not what it was at the last call.
  std::vector<TenantId> TakeChanged();

 private:
  struct State {
    std::string name;
    double weight = 1;
    double served = 0;  // by weight
    bool known = true;
    bool backlogged = false;
    bool listed = false;  // in beyond_
    bool changed = false;
  };

  void Advance();
  void MarkChanged(TenantId tenant);

  std::vector<State> tenants_;
  std::vector<TenantId> free_;
  std::map<std::string, TenantId, std::less<>> ids_;
  std::set<std::pair<double, TenantId>> backlogged_;  // by what they were served
  std::set<std::pair<double, TenantId>> beyond_;      // those of them that are beyond, likewise
  std::vector<TenantId> changed_;
  double virtual_time_ = 0;
  double most_served_ = 0;
  double backlogged_weight_ = 0;
  double allowance_ = 0;
};

}  // namespace fresco
