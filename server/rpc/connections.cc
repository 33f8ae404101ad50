#include "server/rpc/connections.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "pipeline/base/strings.h"

namespace fresco {
namespace {

struct Peer {
  std::string name;     // as gRPC says it
  std::string address;  // without the port
};

Peer OfV4(const in_addr& address, int port) {
  char text[INET_ADDRSTRLEN] = {};
  inet_ntop(AF_INET, &address, text, sizeof(text));
  return {StrCat("ipv4:", text, ":", port), text};
}

// The other end of a socket; empty if it is not connected.
Peer PeerOf(int socket) {
  sockaddr_storage storage{};
  socklen_t size = sizeof(storage);
  if (getpeername(socket, reinterpret_cast<sockaddr*>(&storage), &size) != 0) return {};
  if (storage.ss_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(storage);
    return OfV4(v4.sin_addr, ntohs(v4.sin_port));
  }
  if (storage.ss_family != AF_INET6) return {};
  const auto& v6 = reinterpret_cast<const sockaddr_in6&>(storage);
  if (IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr)) {
    in_addr v4{};
    std::memcpy(&v4, v6.sin6_addr.s6_addr + 12, sizeof(v4));
    return OfV4(v4, ntohs(v6.sin6_port));
  }
  char text[INET6_ADDRSTRLEN] = {};
  inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof(text));
  return {StrCat("ipv6:%5B", text, "%5D:", ntohs(v6.sin6_port)), text};
}

}  // namespace

Connections::Connections(int max_per_peer, int max_streams, const Clock* clock, OnEnded on_ended)
    : max_per_peer_(max_per_peer), max_streams_(max_streams), clock_(clock), on_ended_(std::move(on_ended)) {}

bool Connections::Add(int socket) {
  Peer peer = PeerOf(socket);
  if (peer.name.empty()) return true;  // it has gone already, as gRPC will see
  MutexLock lock(&mutex_);
  if (const auto old = open_.find(socket); old != open_.end()) Forget(old);
  if (!HasRoom(peer.address)) return false;
  if (const auto old = by_peer_.find(peer.name); old != by_peer_.end()) Forget(open_.find(old->second));
  by_peer_[peer.name] = socket;
  by_address_[peer.address].insert(socket);
  open_[socket] = {std::move(peer.name), std::move(peer.address), 0, clock_->Now(), 0, false};
  return true;
}

void Connections::Forget(Open::iterator connection) {
  by_peer_.erase(connection->second.peer);
  const auto same = by_address_.find(connection->second.address);
  same->second.erase(connection->first);
  if (same->second.empty()) by_address_.erase(same);
  open_.erase(connection);
}

bool Connections::HasRoom(const std::string& address) {
  const auto same = by_address_.find(address);
  if (max_per_peer_ == 0 || same == by_address_.end()) return true;
  if (same->second.size() < static_cast<size_t>(max_per_peer_)) return true;
  std::vector<int> closed;
  for (const int socket : same->second) {
    if (PeerOf(socket).name != open_.at(socket).peer) closed.push_back(socket);
  }
  const size_t left = same->second.size() - closed.size();
  for (const int socket : closed) Forget(open_.find(socket));
  return left < static_cast<size_t>(max_per_peer_);
}

Connections::Connection* Connections::Find(std::string_view peer) {
  const auto found = by_peer_.find(peer);
  return found == by_peer_.end() ? nullptr : &open_.at(found->second);
}

bool Connections::IsTooMuch(const Connection& connection) const {
  return connection.given_up > kMaxGivenUp || connection.calls > max_streams_ + kMaxGivenUp;
}

bool Connections::EndIfTooMuch(Connection* connection) {
  if (connection->ended || !IsTooMuch(*connection)) return false;
  connection->ended = true;
  const int socket = by_peer_.at(connection->peer);
  // gRPC may have closed it, and the number may be another's by now.
  return PeerOf(socket).name == connection->peer && shutdown(socket, SHUT_RDWR) == 0;
}

void Connections::CallBegun(std::string_view peer) {
  bool ended = false;
  {
    MutexLock lock(&mutex_);
    Connection* const connection = Find(peer);
    if (connection == nullptr) return;
    ++connection->calls;
    ended = EndIfTooMuch(connection);
  }
  if (ended) on_ended_(std::string(peer));
}

void Connections::CallOver(std::string_view peer, bool given_up) {
  bool ended = false;
  {
    MutexLock lock(&mutex_);
    Connection* const connection = Find(peer);
    if (connection == nullptr) return;
    const absl::Time now = clock_->Now();
    const double forgiven = kForgivenPerSecond * absl::ToDoubleSeconds(now - connection->since) + (given_up ? 0 : 1);
    connection->since = now;
    connection->given_up = std::max(0.0, connection->given_up - forgiven) + (given_up ? 1 : 0);
    ended = EndIfTooMuch(connection);
  }
  if (ended) on_ended_(std::string(peer));
}

void Connections::CallGone(std::string_view peer) {
  MutexLock lock(&mutex_);
  // One of an earlier connection's from there may have been noticed late.
  if (Connection* const connection = Find(peer); connection != nullptr && connection->calls > 0) --connection->calls;
}

}  // namespace fresco
