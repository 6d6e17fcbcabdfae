#include "actors/secrets.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <openssl/sha.h>

#include <algorithm>
#include <array>

namespace plimsoll {

Result<std::string> make_secret(std::string_view prefix) {
  std::array<unsigned char, 32> random;
  if (RAND_bytes(random.data(), random.size()) != 1) {
    return fail(ErrorCode::internal, "the system has no randomness to make a secret of");
  }
  std::array<unsigned char, 45> base64;  // 43 characters, "=" and a zero
  EVP_EncodeBlock(base64.data(), random.data(), random.size());
  OPENSSL_cleanse(random.data(), random.size());
  std::string out(prefix);
  out.append(base64.begin(), base64.begin() + 43);
  std::replace(out.end() - 43, out.end(), '+', '-');
  std::replace(out.end() - 43, out.end(), '/', '_');
  return out;
}

std::string sha256_hex(std::string_view secret) {
  std::array<unsigned char, SHA256_DIGEST_LENGTH> digest;
  SHA256(reinterpret_cast<const unsigned char*>(secret.data()), secret.size(), digest.data());
  std::string out;
  for (const auto byte : digest) {
    out.push_back("0123456789abcdef"[byte >> 4]);
    out.push_back("0123456789abcdef"[byte & 15]);
  }
  return out;
}

bool same_digest(std::string_view a, std::string_view b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

}  // namespace plimsoll
