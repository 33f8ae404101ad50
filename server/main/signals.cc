#include "server/main/signals.h"

#include <pthread.h>

#include <utility>

namespace fresco {
namespace {

constexpr int kStop = SIGUSR2;  // ends the thread

}  // namespace

Signals::Signals(std::function<void(int, int)> on_signal) : on_signal_(std::move(on_signal)) {
  sigemptyset(&set_);
  for (const int signal : {SIGTERM, SIGINT, kStop}) sigaddset(&set_, signal);
  pthread_sigmask(SIG_BLOCK, &set_, nullptr);
  thread_ = std::thread([this] { Run(); });
}

Signals::~Signals() {
  pthread_kill(thread_.native_handle(), kStop);
  thread_.join();
}

void Signals::Run() {
  int count = 0;
  for (int signal = 0; sigwait(&set_, &signal) == 0 && signal != kStop;) on_signal_(signal, ++count);
}

}  // namespace fresco
