// Mutex and condition variable with clang's thread-safety annotations, over the standard library's: the distribution's
// abseil is built without ThreadSanitizer's hooks, so absl::Mutex would hide or invent races in sanitizer runs.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

#if defined(__clang__)
#define FRESCO_THREAD_ATTRIBUTE(x) __attribute__((x))
#else
#define FRESCO_THREAD_ATTRIBUTE(x)
#endif

#define FRESCO_GUARDED_BY(x) FRESCO_THREAD_ATTRIBUTE(guarded_by(x))
#define FRESCO_PT_GUARDED_BY(x) FRESCO_THREAD_ATTRIBUTE(pt_guarded_by(x))
#define FRESCO_REQUIRES(...) FRESCO_THREAD_ATTRIBUTE(requires_capability(__VA_ARGS__))
#define FRESCO_EXCLUDES(...) FRESCO_THREAD_ATTRIBUTE(locks_excluded(__VA_ARGS__))
#define FRESCO_NO_THREAD_SAFETY_ANALYSIS FRESCO_THREAD_ATTRIBUTE(no_thread_safety_analysis)

namespace fresco {

// Not recursive.
class FRESCO_THREAD_ATTRIBUTE(capability("mutex")) Mutex {
 public:
  Mutex() = default;
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;

  void Lock() FRESCO_THREAD_ATTRIBUTE(acquire_capability()) { mutex_.lock(); }
  void Unlock() FRESCO_THREAD_ATTRIBUTE(release_capability()) { mutex_.unlock(); }

 private:
  friend class CondVar;
  std::mutex mutex_;
};

// Holds a mutex for a scope.
class FRESCO_THREAD_ATTRIBUTE(scoped_lockable) MutexLock {
 public:
  explicit MutexLock(Mutex* mutex) FRESCO_THREAD_ATTRIBUTE(acquire_capability(mutex)) : mutex_(mutex) {
    mutex_->Lock();
  }
  ~MutexLock() FRESCO_THREAD_ATTRIBUTE(release_capability()) { mutex_->Unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex* const mutex_;
};

// Waits may wake without a reason: loop on the condition.
class CondVar {
 public:
  CondVar() = default;
  CondVar(const CondVar&) = delete;
  CondVar& operator=(const CondVar&) = delete;

  void Wait(Mutex* mutex) FRESCO_REQUIRES(mutex) {
    std::unique_lock<std::mutex> lock(mutex->mutex_, std::adopt_lock);
    condition_.wait(lock);
    lock.release();
  }
  // Returns false if `timeout` passed without a notification.
  bool WaitFor(Mutex* mutex, std::chrono::nanoseconds timeout) FRESCO_REQUIRES(mutex) {
    std::unique_lock<std::mutex> lock(mutex->mutex_, std::adopt_lock);
#if defined(__SANITIZE_THREAD__)
    // gcc 12's tsan does not intercept pthread_cond_clockwait, which the steady clock uses.
    const bool notified =
        condition_.wait_until(lock, std::chrono::system_clock::now() + timeout) == std::cv_status::no_timeout;
#else
    const bool notified = condition_.wait_for(lock, timeout) == std::cv_status::no_timeout;
#endif
    lock.release();
    return notified;
  }
  void NotifyOne() {
    condition_.notify_one();
  }
  void NotifyAll() {
    condition_.notify_all();
  }

 private:
  std::condition_variable condition_;
};

}  // namespace fresco
