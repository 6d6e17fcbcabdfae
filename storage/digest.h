// SHA-256, for the names of what is cached.
#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace plimsoll::storage {

std::string digest_of(std::string_view text);  // 32 bytes

// Of a text that comes in pieces.
class Digest {
 public:
  Digest();
  ~Digest();
  Digest& add(std::string_view piece);
  std::string finish();  // once

 private:
  struct State;
  const std::unique_ptr<State> state_;
};

}  // namespace plimsoll::storage
