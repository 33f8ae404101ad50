// Bytes that several hold and nobody changes: a picture on its way to all that read it is there once.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

namespace fresco {

// Copies share the bytes. Thread-safe as std::shared_ptr: each copy by itself.
class SharedBytes {
 public:
  SharedBytes() = default;
  SharedBytes(std::string bytes) : bytes_(std::make_shared<const std::string>(std::move(bytes))) {}  // NOLINT: implicit

  const std::string& str() const {
    static const std::string* const kNone = new std::string;
    return bytes_ != nullptr ? *bytes_ : *kNone;
  }
  size_t size() const { return str().size(); }
  operator std::string_view() const { return str(); }  // NOLINT: implicit

  friend bool operator==(const SharedBytes& a, std::string_view b) { return a.str() == b; }

 private:
  std::shared_ptr<const std::string> bytes_;  // null: none
};

}  // namespace fresco
