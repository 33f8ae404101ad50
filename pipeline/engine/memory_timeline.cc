#include "pipeline/engine/memory_timeline.h"

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <numeric>
#include <utility>

namespace fresco {
namespace {

// Smaller changes of a holder are one with those that follow: a step makes thousands of small tensors.
constexpr int64_t kSampleBytes = 16 << 10;
constexpr size_t kMostSamples = 4'000'000;  // 100 MB; afterwards only peaks are noted

std::vector<int64_t> Pick(const std::vector<int64_t>& bytes, const std::vector<MemoryHolderId>& ids) {
  std::vector<int64_t> picked;
  for (const MemoryHolderId id : ids) picked.push_back(bytes[id]);
  return picked;
}

}  // namespace

int64_t MemoryHistory::Moment::total_bytes() const {
  return std::accumulate(bytes.begin(), bytes.end(), int64_t{0});
}

const MemoryHistory::Stage* MemoryHistory::peak() const {
  const auto most = std::max_element(stages.begin(), stages.end(), [](const Stage& a, const Stage& b) {
    return a.peak.total_bytes() < b.peak.total_bytes();
  });
  return most == stages.end() ? nullptr : &*most;
}

MemoryTimeline::MemoryTimeline(MemoryLedger* ledger, const Clock* clock)
    : ledger_(ledger), clock_(clock), held_(kMaxMemoryHolders), sampled_(kMaxMemoryHolders) {}

MemoryTimeline::~MemoryTimeline() {
  ledger_->SetListener(nullptr);
}

void MemoryTimeline::Begin(const std::string& stage) {
  End();
  {
    const absl::Time now = clock_->Now();
    MutexLock lock(&mutex_);
    held_ = ledger_->HeldBytes();
    total_ = std::accumulate(held_.begin(), held_.end(), int64_t{0});
    const size_t before = samples_.size();
    for (size_t i = 0; i < held_.size(); ++i) AddSample(now, static_cast<MemoryHolderId>(i));
    for (size_t i = before; i + 1 < samples_.size(); ++i) samples_[i].settled = false;
    const auto known = std::find_if(stages_.begin(), stages_.end(), [&](const auto& one) { return one.name == stage; });
    open_ = static_cast<int>(known - stages_.begin());
    if (known == stages_.end()) stages_.push_back({stage, now, now, now, -1, {}});
    NotePeak(now);
  }
  ledger_->SetListener(this);
}

void MemoryTimeline::End() {
  ledger_->SetListener(nullptr);
  MutexLock lock(&mutex_);
  if (open_ >= 0) stages_[static_cast<size_t>(open_)].end = clock_->Now();
  open_ = -1;
}

void MemoryTimeline::OnChange(MemoryHolderId holder, int64_t bytes) {
  const absl::Time now = clock_->Now();
  MutexLock lock(&mutex_);
  total_ += bytes - held_[holder];
  held_[holder] = bytes;
  NotePeak(now);
  if (std::abs(bytes - sampled_[holder]) >= kSampleBytes) AddSample(now, holder);
}

void MemoryTimeline::AddSample(absl::Time now, MemoryHolderId holder) {
  if (held_[holder] == sampled_[holder] || samples_.size() == kMostSamples) return;
  sampled_[holder] = held_[holder];
  samples_.push_back({now, holder, held_[holder]});
}

void MemoryTimeline::NotePeak(absl::Time now) {
  if (open_ < 0) return;
  OpenStage& stage = stages_[static_cast<size_t>(open_)];
  if (total_ <= stage.peak_bytes) return;
  stage.peak_bytes = total_;
  stage.peak_at = now;
  stage.at_peak = held_;
}

// Plays the samples through; of those of one slice of the time, the moment at which most was held.
std::vector<MemoryHistory::Moment> MemoryTimeline::Thin(int count) const {
  if (stages_.empty()) return {};
  const absl::Time begin = stages_.front().begin;
  absl::Time end = begin;
  for (const OpenStage& stage : stages_) end = std::max(end, stage.end);
  const absl::Duration slice = std::max(absl::Nanoseconds(1), (end - begin) / std::max(1, count));
  Bytes held(kMaxMemoryHolders);
  int64_t total = 0, most = 0;
  std::vector<MemoryHistory::Moment> moments;
  absl::Time until = begin;
  for (const Sample& sample : samples_) {
    total += sample.bytes - held[sample.holder];
    held[sample.holder] = sample.bytes;
    if (!sample.settled || (sample.at < until && total <= most)) continue;
    if (sample.at >= until) {
      moments.push_back({sample.at, held});
      until = sample.at + slice;
    } else {
      moments.back() = {sample.at, held};
    }
    most = total;
  }
  moments.push_back({end, held});
  return moments;
}

MemoryHistory MemoryTimeline::History(int moments) const {
  MutexLock lock(&mutex_);
  const std::vector<MemoryHistory::Moment> thin = Thin(moments);
  std::vector<MemoryHolderId> ids;
  for (size_t i = 0; i < held_.size(); ++i) {
    const auto any = [&](const MemoryHistory::Moment& moment) { return moment.bytes[i] != 0; };
    const auto at_peak = [&](const OpenStage& stage) { return stage.at_peak[i] != 0; };
    if (std::any_of(thin.begin(), thin.end(), any) || std::any_of(stages_.begin(), stages_.end(), at_peak))
      ids.push_back(static_cast<MemoryHolderId>(i));
  }
  const auto most = std::max_element(stages_.begin(), stages_.end(), [](const OpenStage& a, const OpenStage& b) {
    return a.peak_bytes < b.peak_bytes;
  });
  std::stable_sort(ids.begin(), ids.end(), [&](auto a, auto b) { return most->at_peak[a] > most->at_peak[b]; });
  MemoryHistory history;
  for (const MemoryHolderId id : ids) history.holders.push_back(MemoryHolderOf(id));
  for (const MemoryHistory::Moment& moment : thin) history.moments.push_back({moment.at, Pick(moment.bytes, ids)});
  for (const OpenStage& stage : stages_) {
    history.stages.push_back({stage.name, stage.begin, stage.end, {stage.peak_at, Pick(stage.at_peak, ids)}});
  }
  return history;
}

}  // namespace fresco
