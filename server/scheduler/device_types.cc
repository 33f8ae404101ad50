// Images that must be the same bit for bit each time (ImageSpec::deterministic). Devices of another type compute other
// bits: begun, such an image goes on only on its own type or, where no device of that has its model any more, begins
// anew from its seed on another.
#include <algorithm>
#include <string_view>
#include <utility>

#include "server/scheduler/dispatcher.h"

namespace fresco {
namespace {

// "cuda" of "cuda:1".
std::string_view TypeName(std::string_view device) {
  return device.substr(0, device.find(':'));
}

}  // namespace

// The number of the first device of the type.
int Dispatcher::TypeOf(const std::string& device) const {
  const auto first = std::find_if(workers_.begin(), workers_.end(),
                                  [&](const Worker& worker) { return TypeName(worker.device) == TypeName(device); });
  return static_cast<int>(first - workers_.begin());
}

CostTypeId Dispatcher::CostTypeOf(const std::string& device) {
  return costs_.Type(TypeName(device));
}

bool Dispatcher::IsStranded(const Image& image) const {
  if (image.type < 0) return false;
  const ModelId model = core_->Model(image.request->request().model);
  for (size_t i = 0; i < workers_.size(); ++i) {
    const bool can = workers_[i].lost.empty() && workers_[i].type == image.type;
    if (can && core_->index().IsLoaded(static_cast<DeviceId>(i), model)) return false;
  }
  return true;
}

void Dispatcher::BeginAnew(JobId id, Image* image, absl::Time now, Dropped* dropped) {
  dropped->push_back(std::move(image->parked));
  image->type = -1;
  core_->Displace(id, image->request->request().images[image->index].steps, now);
  changed_.NotifyAll();
}

// Of those that wait.
void Dispatcher::BeginStrandedAnew(absl::Time now, Dropped* dropped) {
  for (auto& [id, image] : images_) {
    if (image.waits && image.parked != nullptr && IsStranded(image)) BeginAnew(id, &image, now, dropped);
  }
}

}  // namespace fresco
