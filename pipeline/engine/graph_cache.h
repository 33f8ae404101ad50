// Which graphs are kept: those of the shapes that come again, the most recently used ones, within a bound of memory.
// Torch-free.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <iterator>
#include <list>
#include <memory>
#include <string>
#include <utility>

namespace fresco {

struct GraphLimits {
  int64_t bytes = 0;        // of all graphs
  size_t graphs = 32;       // at the most
  int uses_before = 2;      // of a key without a graph, before it has one: what comes once is not worth it
  size_t remembered = 256;  // keys without a graph whose uses are counted

  // Of a key, after which it has its graph.
  constexpr int uses_to_record() const { return uses_before + 1; }
};

// Not thread-safe.
template <typename Graph>
class GraphCache {
 public:
  // `warn`: told, once, why a graph could not be made.
  GraphCache(const GraphLimits& limits, std::function<void(const std::string& why)> warn)
      : limits_(limits), warn_(std::move(warn)) {}

  // The graph of `key`, until the next call; null: there is none, because it has not come often enough, takes more than
  // all graphs may (`bytes`: what it takes), or could not be made. make(kept): a std::unique_ptr<Graph>, beside others
  // that take `kept` bytes; null: not now, and again once the key has come as often again. May throw, and is not called
  // for the key again then before Clear.
  template <typename Make>
  Graph* Use(const std::string& key, int64_t bytes, const Make& make) {
    Entry& entry = Touch(key);
    if (entry.graph != nullptr || entry.failed || entry.uses++ < limits_.uses_before || bytes > limits_.bytes)
      return entry.graph.get();
    Shrink(limits_.bytes - bytes, limits_.graphs - 1);
    try {
      entry.graph = make(bytes_);
      if (entry.graph == nullptr) {
        entry.uses = 0;
        return nullptr;
      }
      entry.bytes = bytes;
      bytes_ += bytes;
      ++graphs_;
    } catch (const std::exception& error) {
      entry.failed = true;
      Warn(error.what());
    }
    return entry.graph.get();
  }

  // Lets go of all graphs and forgets their keys: whether there were any.
  bool Clear() {
    const bool any = graphs_ > 0;
    entries_.clear();
    bytes_ = 0;
    graphs_ = 0;
    return any;
  }

  int64_t bytes() const { return bytes_; }
  size_t graphs() const { return graphs_; }

 private:
  struct Entry {
    std::string key;
    std::unique_ptr<Graph> graph;
    int64_t bytes = 0;
    int uses = 0;
    bool failed = false;
  };

  // The key's entry, as the most recently used one.
  Entry& Touch(const std::string& key) {
    for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
      if (entry->key != key) continue;
      entries_.splice(entries_.begin(), entries_, entry);
      return entries_.front();
    }
    if (entries_.size() >= limits_.remembered + limits_.graphs) Remove(std::prev(entries_.end()));
    entries_.push_front({key, nullptr});
    return entries_.front();
  }

  // The graphs that have not been used for longest go, until the rest is within the bounds.
  void Shrink(int64_t bytes, size_t graphs) {
    for (auto entry = entries_.end(); entry != entries_.begin() && (bytes_ > bytes || graphs_ > graphs);) {
      --entry;
      if (entry->graph != nullptr) entry = Remove(entry);
    }
  }

  typename std::list<Entry>::iterator Remove(typename std::list<Entry>::iterator entry) {
    if (entry->graph != nullptr) {
      bytes_ -= entry->bytes;
      --graphs_;
    }
    return entries_.erase(entry);
  }

  void Warn(const char* why) {
    if (!std::exchange(warned_, true) && warn_) warn_(why);
  }

  const GraphLimits limits_;
  const std::function<void(const std::string& why)> warn_;
  std::list<Entry> entries_;  // the most recently used first
  int64_t bytes_ = 0;
  size_t graphs_ = 0;
  bool warned_ = false;
};

}  // namespace fresco
