// Frames between routers and nodes: whatever comes over the link is decoded or refused, and what
// was decoded can be sent on.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "actors/wire.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto message = plimsoll::wire::decode({reinterpret_cast<const char*>(data), size});
  if (message && !plimsoll::wire::decode(plimsoll::wire::encode(*message))) std::abort();
  return 0;
}
