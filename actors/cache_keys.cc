#include "actors/cache_keys.h"

#include <fmt/format.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <sys/stat.h>

#include <fstream>
#include <memory>
#include <optional>
#include <stdexcept>

namespace plimsoll {
namespace {

constexpr std::size_t key_bytes = 32;

std::optional<std::string> of_hex(const std::string& text) {
  if (text.size() != 2 * key_bytes || text.find_first_not_of("0123456789abcdefABCDEF") != text.npos)
    return std::nullopt;
  std::string key;
  for (std::size_t i = 0; i < text.size(); i += 2) {
    key.push_back(static_cast<char>(std::stoi(text.substr(i, 2), nullptr, 16)));
  }
  return key;
}

std::optional<std::string> of_base64(const std::string& text) {
  constexpr std::size_t encoded_bytes = 44;  // 33 bytes, the last of them but padding
  if (text.size() != encoded_bytes || text.back() != '=' || text[encoded_bytes - 2] == '=') {
    return std::nullopt;
  }
  unsigned char decoded[key_bytes + 1];
  const auto length = EVP_DecodeBlock(decoded, reinterpret_cast<const unsigned char*>(text.data()),
                                      static_cast<int>(text.size()));
  if (length != key_bytes + 1) return std::nullopt;
  return std::string(reinterpret_cast<const char*>(decoded), key_bytes);
}

}  // namespace

Result<CacheKeys> CacheKeys::read(const std::filesystem::path& file) {
  struct stat status {};
  std::string text;
  if (::stat(file.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) {
    return fail(ErrorCode::not_found, "there is no file " + file.string());
  }
  if ((status.st_mode & 077) != 0) {
    return fail(ErrorCode::permission_denied,
                fmt::format("{0} can be read by others (mode {1:o}): chmod 600 {0}", file.string(),
                            status.st_mode & 0777));
  }
  std::ifstream(file) >> text;
  auto key = of_hex(text);
  if (!key) key = of_base64(text);
  if (key) return CacheKeys(std::move(*key));
  return fail(ErrorCode::invalid_argument,
              file.string() +
                  " holds no key of 32 bytes, as hexadecimal digits or in base64; `openssl rand "
                  "-hex 32` makes one");
}

std::string CacheKeys::of(const TenantId& tenant) const {
  const std::unique_ptr<EVP_KDF, decltype(&EVP_KDF_free)> kdf(
      EVP_KDF_fetch(nullptr, OSSL_KDF_NAME_HKDF, nullptr), EVP_KDF_free);
  const std::unique_ptr<EVP_KDF_CTX, decltype(&EVP_KDF_CTX_free)> context(
      EVP_KDF_CTX_new(kdf.get()), EVP_KDF_CTX_free);
  std::string digest = "SHA256";
  std::string key = key_;
  std::string info = "plimsoll cache tenant " + tenant.get();
  const OSSL_PARAM params[] = {
      OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest.data(), digest.size()),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, key.data(), key.size()),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, info.data(), info.size()),
      OSSL_PARAM_construct_end()};
  std::string out(key_bytes, '\0');
  // Without its key nothing may be written.
  if (context == nullptr ||
      EVP_KDF_derive(context.get(), reinterpret_cast<unsigned char*>(out.data()), out.size(),
                     params) != 1) {
    throw std::runtime_error("OpenSSL has no HKDF-SHA256");
  }
  return out;
}

}  // namespace plimsoll
