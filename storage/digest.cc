#include "storage/digest.h"

#include <openssl/evp.h>

namespace plimsoll::storage {

constexpr std::size_t digest_bytes = 32;

std::string digest_of(std::string_view text) {
  std::string digest(digest_bytes, '\0');
  unsigned int length = 0;
  EVP_Digest(text.data(), text.size(), reinterpret_cast<unsigned char*>(digest.data()), &length,
             EVP_sha256(), nullptr);
  return digest;
}

struct Digest::State {
  ~State() { EVP_MD_CTX_free(context); }
  EVP_MD_CTX* const context = EVP_MD_CTX_new();
};

Digest::Digest() : state_(std::make_unique<State>()) {
  EVP_DigestInit_ex(state_->context, EVP_sha256(), nullptr);
}
Digest::~Digest() = default;

Digest& Digest::add(std::string_view piece) {
  EVP_DigestUpdate(state_->context, piece.data(), piece.size());
  return *this;
}

std::string Digest::finish() {
  std::string digest(digest_bytes, '\0');
  unsigned int length = 0;
  EVP_DigestFinal_ex(state_->context, reinterpret_cast<unsigned char*>(digest.data()), &length);
  return digest;
}

}  // namespace plimsoll::storage
