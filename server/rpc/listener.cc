#include "server/rpc/listener.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

#include "pipeline/base/status.h"
#include "pipeline/base/strings.h"

namespace fresco {
namespace {

// Until it is tried again to take connections that wait: descriptors come back when calls end.
constexpr int kPauseMs = 100;

// Another address may have the port that the first got of any free ones.
constexpr int kTries = 10;

struct FreeAddresses {
  void operator()(addrinfo* addresses) const { freeaddrinfo(addresses); }
};
using Addresses = std::unique_ptr<addrinfo, FreeAddresses>;

absl::StatusOr<Addresses> Resolve(const std::string& address) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos) return absl::UnavailableError("it has no port");
  std::string host = address.substr(0, colon);
  if (host.size() > 2 && host.front() == '[') host = host.substr(1, host.size() - 2);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.c_str(), address.substr(colon + 1).c_str(), &hints, &found);
  if (error != 0) return absl::UnavailableError(gai_strerror(error));
  return Addresses(found);
}

void SetOption(int socket, int level, int name, int value) {
  setsockopt(socket, level, name, &value, sizeof(value));
}

void SetPort(sockaddr_storage* address, int port) {
  const auto wire = htons(static_cast<uint16_t>(port));
  if (address->ss_family == AF_INET6) {
    reinterpret_cast<sockaddr_in6*>(address)->sin6_port = wire;
  } else {
    reinterpret_cast<sockaddr_in*>(address)->sin_port = wire;
  }
}

int PortOf(int socket) {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  if (getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size) != 0) return 0;
  return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6&>(address).sin6_port
                                             : reinterpret_cast<const sockaddr_in&>(address).sin_port);
}

// A socket that listens, or -1 with errno.
int ListenOn(const addrinfo& info, int port) {
  sockaddr_storage address{};
  std::memcpy(&address, info.ai_addr, info.ai_addrlen);
  if (port != 0) SetPort(&address, port);
  const int fd = socket(info.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  // Connections of a process before this one may still be closing.
  SetOption(fd, SOL_SOCKET, SO_REUSEADDR, 1);
  if (info.ai_family == AF_INET6) SetOption(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
  if (bind(fd, reinterpret_cast<const sockaddr*>(&address), info.ai_addrlen) == 0 && listen(fd, SOMAXCONN) == 0)
    return fd;
  const int error = errno;
  close(fd);
  errno = error;
  return -1;
}

// accept(2): what is wrong with this connection, or its network, is nothing to the next.
bool OfOneConnection(int error) {
  switch (error) {
    case EINTR:
    case ECONNABORTED:
    case EPROTO:
    case EPERM:
    case ENETDOWN:
    case ENOPROTOOPT:
    case EHOSTDOWN:
    case ENONET:
    case EHOSTUNREACH:
    case EOPNOTSUPP:
    case ENETUNREACH:
    case ETIMEDOUT:
      return true;
    default:
      return false;
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<Listener>> Listener::Bind(const std::string& address, absl::Duration unacknowledged) {
  std::unique_ptr<Listener> listener(new Listener(unacknowledged));
  absl::Status bound;
  for (int i = 0; i < kTries; ++i) {
    bound = listener->BindAll(address);
    const bool other_port = address.ends_with(":0") && !bound.ok();
    if (!other_port) break;
  }
  if (!bound.ok()) return absl::UnavailableError(StrCat("cannot listen on ", address, ": ", bound.message()));
  return listener;
}

Listener::Listener(absl::Duration unacknowledged)
    : unacknowledged_(unacknowledged), stop_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

Listener::~Listener() {
  Stop();
  close(stop_);
}

absl::Status Listener::BindAll(const std::string& address) {
  FRESCO_ASSIGN_OR_RETURN(const Addresses addresses, Resolve(address));
  CloseSockets();
  port_ = 0;
  int error = EADDRNOTAVAIL;
  for (const addrinfo* info = addresses.get(); info != nullptr; info = info->ai_next) {
    const int fd = ListenOn(*info, port_);
    // A name may stand for addresses that this machine does not have, like IPv6's of localhost.
    if (fd < 0 && (errno == EADDRNOTAVAIL || errno == EAFNOSUPPORT)) continue;
    if (fd < 0) {
      error = errno;
      CloseSockets();
      break;
    }
    sockets_.push_back(fd);
    port_ = PortOf(fd);
  }
  if (!sockets_.empty()) return absl::OkStatus();
  return absl::UnavailableError(error == EADDRINUSE ? "the port is taken" : std::strerror(error));
}

void Listener::CloseSockets() {
  for (const int fd : sockets_) close(fd);
  sockets_.clear();
}

void Listener::Start(Take take, OnTrouble on_trouble) {
  take_ = std::move(take);
  on_trouble_ = std::move(on_trouble);
  thread_ = std::thread([this] { Run(); });
}

void Listener::Stop() {
  if (thread_.joinable()) {
    const uint64_t one = 1;
    (void)!write(stop_, &one, sizeof(one));
    thread_.join();
  }
  CloseSockets();
}

void Listener::Run() {
  std::vector<pollfd> files = {{stop_, POLLIN, 0}};
  for (const int fd : sockets_) files.push_back({fd, POLLIN, 0});
  while (true) {
    // In trouble the sockets stay ready: they are left alone for a while.
    const bool pause = trouble_ != 0;
    if (poll(files.data(), pause ? 1 : files.size(), pause ? kPauseMs : -1) < 0) continue;
    if (files[0].revents != 0) return;
    bool all = true;
    for (const int fd : sockets_) all = AcceptAll(fd) && all;
    if (all) Tell(0);
  }
}

// False: it cannot be done now.
bool Listener::AcceptAll(int socket) {
  while (true) {
    const int fd = accept4(socket, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
      SetOption(fd, IPPROTO_TCP, TCP_NODELAY, 1);
      SetOption(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, static_cast<int>(absl::ToInt64Milliseconds(unacknowledged_)));
      take_(fd);
      continue;
    }
    if (errno == EAGAIN || errno == EWOULDBLOCK) return true;
    if (OfOneConnection(errno)) continue;
    Tell(errno);
    return false;
  }
}

void Listener::Tell(int error) {
  if (std::exchange(trouble_, error) == error) return;
  on_trouble_(error == 0 ? absl::OkStatus() : absl::ResourceExhaustedError(std::strerror(error)));
}

}  // namespace fresco
