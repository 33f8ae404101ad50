// Components of a model that are on the device while they are needed, and as long after that as their room is not: the
// text encoders and the VAE, under a MemoryBudget.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "pipeline/base/mutex.h"
#include "pipeline/diffusion/text_conditioning.h"
#include "pipeline/engine/engine.h"
#include "pipeline/engine/memory.h"
#include "pipeline/engine/memory_budget.h"
#include "pipeline/engine/model_source.h"
#include "pipeline/models/autoencoder.h"
#include "pipeline/models/clip.h"
#include "pipeline/models/t5.h"

namespace fresco {

// A component's weight files as they were when the model was loaded: what is loaded from them later has to be the same.
class FileStamps {
 public:
  // NOT_FOUND for a file that is not there.
  static absl::StatusOr<FileStamps> Of(const std::vector<std::string>& paths);
  // UNAVAILABLE, naming it, for a file that is gone; FAILED_PRECONDITION for one that has been replaced or written to.
  absl::Status Check() const;

 private:
  struct Stamp {
    std::string path;
    uint64_t device = 0, inode = 0;
    int64_t bytes = 0, modified_ns = 0;
    bool operator==(const Stamp&) const = default;
  };
  static absl::StatusOr<Stamp> Read(const std::string& path);

  std::vector<Stamp> stamps_;
};

// Model: ClipTextModel, T5Encoder or Autoencoder, cheap to copy.
template <typename Model>
class Resident final : public Evictable {
 public:
  struct Options {
    std::string model;  // LoadOptions::name
    std::string name;   // of the component
    Model shape;        // without weights
    FileStamps files;
    std::function<absl::StatusOr<Model>()> load;  // may throw libtorch's exceptions
    // One that reads its weights while it computes (T5Encoder::Streamed); null: there is no such.
    std::function<absl::StatusOr<Model>()> stream = nullptr;
    std::shared_ptr<MemoryBudget> budget;
  };
  explicit Resident(Options options) : options_(std::move(options)) { options_.budget->Add(this); }
  ~Resident() override { options_.budget->Remove(this); }
  Resident(const Resident&) = delete;
  Resident& operator=(const Resident&) = delete;

  // The model with its weights, which stay while it lives, and room for what it computes.
  class Lease {
   public:
    Lease(Resident* resident, Model model, MemoryBudget::Claim claim)
        : claim_(std::move(claim)), user_(resident), model_(std::move(model)) {}
    const Model& operator*() const { return model_; }
    const Model* operator->() const { return &model_; }

   private:
    struct Return {
      void operator()(Resident* resident) const { resident->Return(); }
    };  // null: it is streamed
    MemoryBudget::Claim claim_;
    std::unique_ptr<Resident, Return> user_;
    Model model_;  // goes first: what is returned holds no weights
  };
  // Loads it where it is not there. `activation_bytes`: that computing with it takes. Errors: of FileStamps::Check and
  // of loading; the next call tries again.
  absl::StatusOr<Lease> Lend(int64_t activation_bytes) FRESCO_EXCLUDES(mutex_, loading_);

  // A streamed one, for where the budget does not hold it: `bytes` of its weights are there at a time. Counted as a
  // load; its time is the computation's.
  absl::StatusOr<Lease> LendStreamed(int64_t bytes, int64_t activation_bytes) FRESCO_EXCLUDES(mutex_, loading_);
  // Whether it is there, or there could be room for it.
  bool Fits(int64_t activation_bytes) const FRESCO_EXCLUDES(mutex_);

  const Model& shape() const { return options_.shape; }
  EngineStats::Residency stats() const FRESCO_EXCLUDES(mutex_);

  int64_t evictable_bytes() const override FRESCO_EXCLUDES(mutex_);
  bool Evict() override FRESCO_EXCLUDES(mutex_);

 private:
  std::optional<Model> Borrow() FRESCO_EXCLUDES(mutex_);
  void Return() FRESCO_EXCLUDES(mutex_);
  absl::Status Load() FRESCO_REQUIRES(loading_) FRESCO_EXCLUDES(mutex_);
  int64_t Held() const;

  const Options options_;

  Mutex loading_;  // held while it is loaded; taken before mutex_
  mutable Mutex mutex_;
  std::optional<Model> model_ FRESCO_GUARDED_BY(mutex_);
  std::optional<MappedBytes> mapped_ FRESCO_GUARDED_BY(mutex_);
  int users_ FRESCO_GUARDED_BY(mutex_) = 0;
  EngineStats::Residency stats_ FRESCO_GUARDED_BY(mutex_);
};

// Of one engine. Thread-safe.
class Residency final : public EncoderSource {
 public:
  struct Components {
    Resident<ClipTextModel>::Options clip_l, clip_g;
    std::optional<Resident<T5Encoder>::Options> t5;
    Resident<Autoencoder>::Options vae;
  };
  Residency(Components components, std::shared_ptr<MemoryBudget> budget, const at::Device& device, int threads);

  absl::Status UseClipL(const EncodeSize& size, const std::function<void(const ClipTextModel&)>& use) override;
  absl::Status UseClipG(const EncodeSize& size, const std::function<void(const ClipTextModel&)>& use) override;
  absl::Status UseT5(const EncodeSize& size, const std::function<void(const T5Encoder&)>& use) override;
  // For a picture of such a size.
  absl::StatusOr<Resident<Autoencoder>::Lease> LendVae(int64_t height, int64_t width);
  // For what else is computed.
  MemoryBudget::Claim MakeRoom(int64_t bytes);

  // Of each component, whether it is there or not.
  std::vector<EngineStats::Residency> stats() const;
  const std::shared_ptr<MemoryBudget>& budget() const { return budget_; }
  int threads() const { return threads_; }

 private:
  const std::shared_ptr<MemoryBudget> budget_;
  const at::Device device_;
  const int threads_;
  Resident<ClipTextModel> clip_l_, clip_g_;
  std::optional<Resident<T5Encoder>> t5_;
  Resident<Autoencoder> vae_;
};

}  // namespace fresco
