#include "storage/cache_record.h"

#include <openssl/evp.h>
#include <openssl/rand.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cstring>
#include <memory>
#include <utility>

#include "storage/digest.h"

namespace plimsoll::storage {
namespace {

constexpr std::uint8_t record_version = 1;
constexpr std::uint8_t flag_encrypted = 1;
constexpr std::size_t checksum_offset = 16;
constexpr std::size_t nonce_bytes = 12;
constexpr std::size_t tag_bytes = 16;
constexpr std::string_view kind_names[] = {"prefix", "embedding", "tokens"};

using CipherContext = std::unique_ptr<EVP_CIPHER_CTX, decltype(&EVP_CIPHER_CTX_free)>;

const unsigned char* bytes_of(std::string_view text) {
  return reinterpret_cast<const unsigned char*>(text.data());
}

// Of the header before the checksum, the entry's name and the body.
std::uint64_t checksum_of(const CacheHash& hash, std::string_view record) {
  char bound[checksum_offset + sizeof(hash.bytes)];
  std::memcpy(bound, record.data(), checksum_offset);
  std::memcpy(bound + checksum_offset, hash.bytes.data(), sizeof(hash.bytes));
  const auto body = record.substr(record_header_bytes);
  return XXH3_64bits_withSeed(body.data(), body.size(), XXH3_64bits(bound, sizeof(bound)));
}

// Appends nonce, ciphertext and tag to `out`, which holds the header.
bool encrypt(const CacheHash& hash, std::string_view value, std::string_view key,
             std::string& out) {
  const CipherContext context(EVP_CIPHER_CTX_new(), EVP_CIPHER_CTX_free);
  const std::size_t start = out.size();
  out.resize(start + nonce_bytes + value.size() + tag_bytes);
  auto* nonce = reinterpret_cast<unsigned char*>(out.data()) + start;
  auto* text = nonce + nonce_bytes;
  int length = 0;
  return context != nullptr && RAND_bytes(nonce, nonce_bytes) == 1 &&
         EVP_EncryptInit_ex(context.get(), EVP_aes_256_gcm(), nullptr, bytes_of(key), nonce) == 1 &&
         EVP_EncryptUpdate(context.get(), nullptr, &length, bytes_of(out), checksum_offset) == 1 &&
         EVP_EncryptUpdate(context.get(), nullptr, &length, hash.bytes.data(),
                           static_cast<int>(hash.bytes.size())) == 1 &&
         EVP_EncryptUpdate(context.get(), text, &length, bytes_of(value),
                           static_cast<int>(value.size())) == 1 &&
         EVP_EncryptFinal_ex(context.get(), text + length, &length) == 1 &&
         EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_GCM_GET_TAG, tag_bytes, text + value.size()) ==
             1;
}

std::optional<std::string> decrypt(const CacheHash& hash, std::string_view record,
                                   std::string_view key) {
  const CipherContext context(EVP_CIPHER_CTX_new(), EVP_CIPHER_CTX_free);
  const auto body = record.substr(record_header_bytes);
  const auto text = body.substr(nonce_bytes, body.size() - encryption_bytes);
  std::string tag(body.substr(body.size() - tag_bytes));
  std::string value(text.size(), '\0');
  auto* out = reinterpret_cast<unsigned char*>(value.data());
  int length = 0;
  if (context != nullptr &&
      EVP_DecryptInit_ex(context.get(), EVP_aes_256_gcm(), nullptr, bytes_of(key),
                         bytes_of(body)) == 1 &&
      EVP_DecryptUpdate(context.get(), nullptr, &length, bytes_of(record), checksum_offset) == 1 &&
      EVP_DecryptUpdate(context.get(), nullptr, &length, hash.bytes.data(),
                        static_cast<int>(hash.bytes.size())) == 1 &&
      EVP_DecryptUpdate(context.get(), out, &length, bytes_of(text),
                        static_cast<int>(text.size())) == 1 &&
      EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_GCM_SET_TAG, tag_bytes, tag.data()) == 1 &&
      EVP_DecryptFinal_ex(context.get(), out + length, &length) == 1) {
    return value;
  }
  return std::nullopt;
}

}  // namespace

std::string_view to_string(CacheKind kind) { return kind_names[static_cast<std::size_t>(kind)]; }

std::optional<CacheKind> cache_kind_of(std::string_view name) {
  for (std::size_t i = 0; i < cache_kind_count; ++i) {
    if (kind_names[i] == name) return static_cast<CacheKind>(i);
  }
  return std::nullopt;
}

CacheHash hash_of(std::string_view salt, CacheKind kind, std::string_view key) {
  // The salt's length before it: no other salt and key give the same text.
  std::string text;
  put_number(text, static_cast<std::uint32_t>(salt.size()));
  text.append(salt);
  text.push_back(static_cast<char>(kind));
  text.append(key);
  CacheHash hash;
  std::memcpy(hash.bytes.data(), digest_of(text).data(), hash.bytes.size());
  return hash;
}

Result<void> encode_record(const CacheHash& hash, const RecordHeader& header,
                           std::string_view value, std::string_view key, std::string& out) {
  out.clear();
  out.reserve(record_header_bytes + value.size() + encryption_bytes);
  put_number(out, record_version);
  put_number(out, static_cast<std::uint8_t>(header.kind));
  put_number(out, key.empty() ? std::uint8_t{0} : flag_encrypted);
  put_number(out, std::uint8_t{0});
  put_number(out, header.ttl_ms);
  put_number(out, header.created_ms);
  put_number(out, std::uint64_t{0});
  if (key.empty()) {
    out.append(value);
  } else if (!encrypt(hash, value, key, out)) {
    return fail(ErrorCode::internal, "an entry of the cache could not be encrypted");
  }
  std::string checksum;
  put_number(checksum, checksum_of(hash, out));
  out.replace(checksum_offset, checksum.size(), checksum);
  return {};
}

Result<RecordHeader> verify_record(const CacheHash& hash, CacheKind kind, std::string_view bytes) {
  if (bytes.size() < record_header_bytes ||
      checksum_of(hash, bytes) != get_number<std::uint64_t>(bytes.data() + checksum_offset)) {
    return fail(ErrorCode::malformed, "a record's checksum is wrong");
  }
  if (bytes[0] != record_version || bytes[1] != static_cast<char>(kind)) {
    return fail(ErrorCode::malformed, "a record is of another version or kind");
  }
  if (bytes[2] == flag_encrypted && bytes.size() < record_header_bytes + encryption_bytes) {
    return fail(ErrorCode::malformed, "an encrypted record is too short");
  }
  RecordHeader header;
  header.kind = kind;
  header.ttl_ms = get_number<std::uint32_t>(bytes.data() + 4);
  header.created_ms = get_number<std::int64_t>(bytes.data() + 8);
  return header;
}

Result<Record> decode_record(const CacheHash& hash, CacheKind kind, std::string_view bytes,
                             std::string_view key) {
  auto header = verify_record(hash, kind, bytes);
  if (!header) return tl::unexpected(header.error());
  const bool encrypted = bytes[2] == flag_encrypted;
  if (encrypted == key.empty()) {
    return fail(ErrorCode::failed_precondition,
                encrypted ? "a record is encrypted and there is no key"
                          : "a record is plain where entries are encrypted");
  }
  Record record{*header, {}};
  if (!encrypted) {
    record.value = bytes.substr(record_header_bytes);
    return record;
  }
  auto value = decrypt(hash, bytes, key);
  if (!value) return fail(ErrorCode::malformed, "a record is not of this key, or damaged");
  record.value = std::move(*value);
  return record;
}

}  // namespace plimsoll::storage
