#include "server/scheduler/policy/fair_share.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace fresco {

TenantId FairShare::Tenant(std::string_view name, double asked_weight) {
  const double weight = std::isfinite(asked_weight) ? std::max(asked_weight, kLeastWeight) : kLeastWeight;
  const auto found = ids_.find(name);
  TenantId tenant = found == ids_.end() ? -1 : found->second;
  if (tenant < 0) {
    if (free_.empty()) {
      tenant = size();
      tenants_.emplace_back();
    } else {
      tenant = free_.back();
      free_.pop_back();
      tenants_[tenant] = State();
    }
    tenants_[tenant].name = std::string(name);
    tenants_[tenant].weight = weight;
    ids_.emplace(name, tenant);
  }
  State& state = tenants_[tenant];
  if (state.weight != weight) {
    if (state.backlogged) backlogged_weight_ += weight - state.weight;
    state.weight = weight;
  }
  return tenant;
}

bool FairShare::Forgettable(TenantId tenant) const {
  const State& state = tenants_[tenant];
  return state.known && !state.backlogged && state.served <= virtual_time_;
}

void FairShare::Forget(TenantId tenant) {
  ids_.erase(tenants_[tenant].name);
  tenants_[tenant].known = false;
  free_.push_back(tenant);
}

void FairShare::Join(TenantId tenant) {
  State& state = tenants_[tenant];
  state.served = std::max(state.served, virtual_time_);
}

void FairShare::SetBacklogged(TenantId tenant, bool backlogged) {
  State& state = tenants_[tenant];
  if (state.backlogged == backlogged) return;
  state.backlogged = backlogged;
  if (backlogged) {
    backlogged_.emplace(state.served, tenant);
    backlogged_weight_ += state.weight;
  } else {
    backlogged_.erase({state.served, tenant});
    if (state.listed) beyond_.erase({state.served, tenant});
    state.listed = false;
    backlogged_weight_ = backlogged_.empty() ? 0 : backlogged_weight_ - state.weight;
  }
  Advance();
}

void FairShare::Charge(TenantId tenant, double device_seconds) {
  if (!(device_seconds >= 0) || !std::isfinite(device_seconds)) return;
  State& state = tenants_[tenant];
  const double served = state.served + device_seconds / state.weight;
  most_served_ = std::max(most_served_, served);
  if (!state.backlogged) {
    state.served = served;
    return;
  }
  backlogged_.erase({state.served, tenant});
  if (state.listed) {
    beyond_.erase({state.served, tenant});
    beyond_.emplace(served, tenant);
    MarkChanged(tenant);
  }
  state.served = served;
  backlogged_.emplace(served, tenant);
  Advance();
}

void FairShare::SetAllowance(double seconds) {
  allowance_ = seconds;
  Advance();
}

void FairShare::Advance() {
  // Nobody waits: everybody has had all they wanted, and all start even.
  virtual_time_ = backlogged_.empty() ? most_served_ : backlogged_.begin()->first;
  const double last = virtual_time_ + allowance_;
  while (!beyond_.empty() && beyond_.begin()->first <= last) {
    const TenantId tenant = beyond_.begin()->second;
    beyond_.erase(beyond_.begin());
    tenants_[tenant].listed = false;
    MarkChanged(tenant);
  }
  // Those that are beyond are the end of backlogged_: what is not listed comes before what is.
  for (auto it = backlogged_.upper_bound({last, std::numeric_limits<TenantId>::max()});
       it != backlogged_.end() && !tenants_[it->second].listed; ++it) {
    tenants_[it->second].listed = true;
    beyond_.insert(*it);
    MarkChanged(it->second);
  }
}

void FairShare::MarkChanged(TenantId tenant) {
  if (tenants_[tenant].changed) return;
  tenants_[tenant].changed = true;
  changed_.push_back(tenant);
}

std::vector<TenantId> FairShare::TakeChanged() {
  for (TenantId tenant : changed_) tenants_[tenant].changed = false;
  return std::exchange(changed_, {});
}

}  // namespace fresco
