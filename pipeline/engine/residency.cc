#include "pipeline/engine/residency.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

#include "absl/time/time.h"
#include "pipeline/base/clock.h"
#include "pipeline/base/memory_scope.h"
#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"
#include "pipeline/engine/device.h"

namespace fresco {

absl::StatusOr<FileStamps::Stamp> FileStamps::Read(const std::string& path) {
  struct stat file {};
  if (stat(path.c_str(), &file) != 0) return absl::ErrnoToStatus(errno, StrCat(path, ": cannot be read"));
  constexpr int64_t kNanoseconds = 1'000'000'000;
  return Stamp{path, static_cast<uint64_t>(file.st_dev), static_cast<uint64_t>(file.st_ino), file.st_size,
               file.st_mtim.tv_sec * kNanoseconds + file.st_mtim.tv_nsec};
}

absl::StatusOr<FileStamps> FileStamps::Of(const std::vector<std::string>& paths) {
  FileStamps stamps;
  for (const std::string& path : paths) {
    FRESCO_ASSIGN_OR_RETURN(Stamp stamp, Read(path));
    stamps.stamps_.push_back(std::move(stamp));
  }
  return stamps;
}

absl::Status FileStamps::Check() const {
  for (const Stamp& stamp : stamps_) {
    const absl::StatusOr<Stamp> now = Read(stamp.path);
    if (!now.ok())
      return absl::UnavailableError(StrCat(now.status().message(), ": it is needed again while the model is loaded, ",
                                           "as memory.budget does not hold all of it"));
    if (*now == stamp) continue;
    return absl::FailedPreconditionError(
        StrCat(stamp.path, ": has changed since the model was loaded, and memory.budget does not hold all of it: ",
               "unload the model and load it again"));
  }
  return absl::OkStatus();
}

template <typename Model>
int64_t Resident<Model>::Held() const {
  return MemoryUseOf(options_.shape.placement().device).allocated_bytes;
}

template <typename Model>
std::optional<Model> Resident<Model>::Borrow() {
  MutexLock lock(&mutex_);
  if (model_) ++users_;
  return model_;
}

template <typename Model>
void Resident<Model>::Return() {
  MutexLock lock(&mutex_);
  --users_;
}

template <typename Model>
absl::StatusOr<typename Resident<Model>::Lease> Resident<Model>::Lend(int64_t activation_bytes) {
  const auto held = [this] { return Held(); };
  std::optional<Model> there = Borrow();
  if (there) {
    MemoryBudget::Claim claim = options_.budget->MakeRoom(activation_bytes, held);
    options_.budget->CountUse(this);
    return Lease(this, *std::move(there), std::move(claim));
  }
  MemoryBudget::Claim claim = options_.budget->MakeRoom(options_.shape.weight_bytes() + activation_bytes, held);
  {
    // Another thread may have been first.
    MutexLock lock(&loading_);
    for (there = Borrow(); !there; there = Borrow()) FRESCO_RETURN_IF_ERROR(Load());
  }
  claim.Shrink(activation_bytes);
  options_.budget->CountUse(this);
  return Lease(this, *std::move(there), std::move(claim));
}

template <typename Model>
bool Resident<Model>::Fits(int64_t activation_bytes) const {
  {
    MutexLock lock(&mutex_);
    if (model_) return true;
  }
  return options_.budget->CouldHold(options_.shape.weight_bytes() + activation_bytes, [this] { return Held(); });
}

template <typename Model>
absl::StatusOr<typename Resident<Model>::Lease> Resident<Model>::LendStreamed(int64_t bytes, int64_t activation_bytes) {
  MemoryBudget::Claim claim = options_.budget->MakeRoom(bytes + activation_bytes, [this] { return Held(); });
  FRESCO_RETURN_IF_ERROR(options_.files.Check());
  FRESCO_ASSIGN_OR_RETURN(Model model, options_.stream());
  {
    MutexLock lock(&mutex_);
    ++stats_.loads;
    stats_.loaded_bytes += model.weight_bytes();
  }
  options_.budget->Tell({options_.model, options_.name, model.weight_bytes(), absl::ZeroDuration()});
  return Lease(nullptr, std::move(model), std::move(claim));
}

template <typename Model>
absl::Status Resident<Model>::Load() {
  const MemoryScope memory(options_.name, MemoryKind::kWeights);
  FRESCO_RETURN_IF_ERROR(options_.files.Check());
  const at::Device& device = options_.shape.placement().device;
  const absl::Time begin = options_.budget->clock().Now();
  const int64_t before = CpuBytesOfThisThread();
  FRESCO_ASSIGN_OR_RETURN(Model model, options_.load());
  FRESCO_RETURN_IF_ERROR(options_.files.Check());  // it may have been written to meanwhile
  Synchronize(device);                             // another stream may use it
  const int64_t mapped = model.weight_bytes() - (CpuBytesOfThisThread() - before);
  const ComponentLoad load{options_.model, options_.name, model.weight_bytes(), options_.budget->clock().Now() - begin};
  MappedBytes counted(device.is_cpu() ? std::max<int64_t>(0, mapped)
                                      : 0);  // throws beyond a limit: then it is not there
  {
    MutexLock lock(&mutex_);
    model_ = std::move(model);
    mapped_.emplace(std::move(counted));
    ++stats_.loads;
    stats_.loaded_bytes += load.bytes;
    stats_.load_seconds += absl::ToDoubleSeconds(load.took);
  }
  options_.budget->Tell(load);
  return absl::OkStatus();
}

template <typename Model>
EngineStats::Residency Resident<Model>::stats() const {
  MutexLock lock(&mutex_);
  EngineStats::Residency stats = stats_;
  stats.component = options_.name;
  stats.weight_bytes = options_.shape.weight_bytes();
  stats.there = model_.has_value();
  return stats;
}

template <typename Model>
int64_t Resident<Model>::evictable_bytes() const {
  MutexLock lock(&mutex_);
  return model_ && users_ == 0 ? options_.shape.weight_bytes() : 0;
}

template <typename Model>
bool Resident<Model>::Evict() {
  const CacheRelease release(options_.shape.placement().device);
  MutexLock lock(&mutex_);
  if (!model_ || users_ > 0) return false;
  model_.reset();
  mapped_.reset();
  return true;
}

template class Resident<ClipTextModel>;
template class Resident<T5Encoder>;
template class Resident<Autoencoder>;

Residency::Residency(Components components, std::shared_ptr<MemoryBudget> budget, const at::Device& device, int threads)
    : budget_(std::move(budget)),
      device_(device),
      threads_(threads),
      clip_l_(std::move(components.clip_l)),
      clip_g_(std::move(components.clip_g)),
      vae_(std::move(components.vae)) {
  if (components.t5) t5_.emplace(*std::move(components.t5));
}

namespace {

template <typename Model>
absl::Status Use(Resident<Model>* resident, const EncodeSize& size, int threads,
                 const std::function<void(const Model&)>& use) {
  FRESCO_ASSIGN_OR_RETURN(const auto lease,
                          resident->Lend(resident->shape().EncodeBytes(size.texts, size.tokens, threads)));
  use(*lease);
  return absl::OkStatus();
}

}  // namespace

absl::Status Residency::UseClipL(const EncodeSize& size, const std::function<void(const ClipTextModel&)>& use) {
  return Use(&clip_l_, size, threads_, use);
}

absl::Status Residency::UseClipG(const EncodeSize& size, const std::function<void(const ClipTextModel&)>& use) {
  return Use(&clip_g_, size, threads_, use);
}

absl::Status Residency::UseT5(const EncodeSize& size, const std::function<void(const T5Encoder&)>& use) {
  const int64_t activations = t5_->shape().EncodeBytes(size.texts, size.tokens, threads_);
  if (t5_->Fits(activations)) return Use(&*t5_, size, threads_, use);
  FRESCO_ASSIGN_OR_RETURN(const auto lease, t5_->LendStreamed(t5_->shape().streamed_bytes(), activations));
  use(*lease);
  return absl::OkStatus();
}

absl::StatusOr<Resident<Autoencoder>::Lease> Residency::LendVae(int64_t height, int64_t width) {
  return vae_.Lend(vae_.shape().DecodeBytes(height, width, threads_));
}

MemoryBudget::Claim Residency::MakeRoom(int64_t bytes) {
  return budget_->MakeRoom(bytes, [this] { return MemoryUseOf(device_).allocated_bytes; });
}

std::vector<EngineStats::Residency> Residency::stats() const {
  std::vector<EngineStats::Residency> all = {clip_l_.stats(), clip_g_.stats()};
  if (t5_) all.push_back(t5_->stats());
  all.push_back(vae_.stats());
  return all;
}

}  // namespace fresco
