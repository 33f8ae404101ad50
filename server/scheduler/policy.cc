#include "server/scheduler/policy.h"

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <tuple>

namespace fresco {
namespace {

std::vector<int> Indices(size_t count) {
  std::vector<int> indices(count);
  std::iota(indices.begin(), indices.end(), 0);
  return indices;
}

bool SameGroup(const RunningImage& a, const RunningImage& b) {
  return a.engine == b.engine && a.batch_key == b.batch_key;
}

}  // namespace

std::vector<int> ImagesToStart(const PolicyView& view, const PolicyOptions& options) {
  const auto order = [&](int index) {
    const WaitingImage& image = view.waiting[index];
    return std::tuple(image.priority, image.sequence, image.image_index);
  };
  std::vector<int> chosen = Indices(view.waiting.size());
  std::sort(chosen.begin(), chosen.end(), [&](int a, int b) { return order(a) < order(b); });
  const int free = std::max(0, options.max_batch - static_cast<int>(view.running.size()));
  if (static_cast<int>(chosen.size()) > free) chosen.resize(free);
  return chosen;
}

std::vector<int> NextBatch(const PolicyView& view, const PolicyOptions& options) {
  // The image that is due leads; whatever can go with it does. Newcomers carry the number of the step before them, so a
  // stream of them cannot push ahead of a group that has waited since an earlier step.
  const auto due = [&](int index) {
    const RunningImage& image = view.running[index];
    return std::tuple(image.last_step, image.priority, image.sequence, index);
  };
  std::vector<int> order = Indices(view.running.size());
  std::sort(order.begin(), order.end(), [&](int a, int b) { return due(a) < due(b); });
  std::vector<int> batch;
  for (int index : order) {
    if (static_cast<int>(batch.size()) == options.max_batch) break;
    if (SameGroup(view.running[index], view.running[order.front()])) batch.push_back(index);
  }
  return batch;
}

}  // namespace fresco
