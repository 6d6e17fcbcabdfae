#include "storage/digest.h"

#include <openssl/evp.h>

namespace plimsoll::storage {

std::string digest_of(std::string_view text) {
  std::string digest(32, '\0');
  unsigned int length = 0;
  EVP_Digest(text.data(), text.size(), reinterpret_cast<unsigned char*>(digest.data()), &length,
             EVP_sha256(), nullptr);
  return digest;
}

}  // namespace plimsoll::storage
