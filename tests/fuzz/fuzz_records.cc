// Records of the state store: whatever bytes are there, a record that keeps the rules and survives
// being written again, or a typed error.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "actors/records.h"

namespace {

void check(bool good) {
  if (!good) __builtin_trap();
}

template <class Decode>
void round_trip(std::string_view bytes, const Decode& decode) {
  const auto record = decode(bytes);
  if (!record) {
    check(record.error().code == plimsoll::ErrorCode::malformed ||
          record.error().code == plimsoll::ErrorCode::unsupported);
    check(!record.error().message.empty());
    return;
  }
  const auto again = decode(plimsoll::encode(*record));
  check(again && *again == *record);
}

}  // namespace

// The first byte picks the kind.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 7) {
    case 0: round_trip(bytes, plimsoll::decode_tenant); break;
    case 1: round_trip(bytes, plimsoll::decode_node); break;
    case 2: round_trip(bytes, plimsoll::decode_placement); break;
    case 3: round_trip(bytes, plimsoll::decode_join_token); break;
    case 4: round_trip(bytes, plimsoll::decode_router); break;
    case 5: round_trip(bytes, plimsoll::decode_usage); break;
    default: round_trip(bytes, plimsoll::decode_quota_lease); break;
  }
  return 0;
}
