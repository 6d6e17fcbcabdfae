// A GGUF file of any content: parsed or refused, never a crash; what is accepted can be read, and
// its tokenizer can be made or is refused.
#include <cstdint>

#include "engine/formats/gguf.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto parsed = plimsoll::GgufFile::parse({reinterpret_cast<const std::byte*>(data), size});
  if (!parsed) return 0;
  volatile unsigned sum = 0;
  for (const auto& tensor : parsed->tensors()) {
    if (tensor.bytes == 0) continue;
    sum = sum + static_cast<unsigned>(tensor.data[0]) +
          static_cast<unsigned>(tensor.data[tensor.bytes - 1]);
  }
  sum = sum + static_cast<unsigned>(parsed->heap_bytes());
  return 0;
}
