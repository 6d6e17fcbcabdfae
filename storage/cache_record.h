// What the cache on disk writes: records that can be checked without trusting anything around them.
//
// A record: u8 version, u8 kind, u8 flags (1: encrypted), u8 0, u32 ttl_ms, i64 created_ms, u64
// checksum, body; little-endian. The checksum (XXH3-64) covers all of it and the entry's key. An
// encrypted body is a nonce of 12 bytes, the AES-256-GCM ciphertext and a tag of 16; header and key
// are authenticated with it.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "engine/base/result.h"

namespace plimsoll::storage {

enum class CacheKind : std::uint8_t { prefix, embedding, tokens };
inline constexpr std::size_t cache_kind_count = 3;
std::string_view to_string(CacheKind kind);
std::optional<CacheKind> cache_kind_of(std::string_view name);

// The name of an entry: SHA-256 of salt, kind and key, cut to 128 bits. What lies under it can be
// found only by who knows all three.
struct CacheHash {
  std::array<std::uint8_t, 16> bytes{};
  auto operator<=>(const CacheHash&) const = default;
  std::string_view view() const {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
};
CacheHash hash_of(std::string_view salt, CacheKind kind, std::string_view key);

struct RecordHeader {
  CacheKind kind = CacheKind::prefix;
  std::uint32_t ttl_ms = 0;
  std::int64_t created_ms = 0;  // since 1970
};
inline constexpr std::size_t record_header_bytes = 24;
inline constexpr std::size_t encryption_bytes = 28;  // that a body grows by
inline constexpr std::size_t encryption_key_bytes = 32;

// `out` becomes the record of `value`, encrypted if `key` is not empty. Errors: internal.
Result<void> encode_record(const CacheHash& hash, const RecordHeader& header,
                           std::string_view value, std::string_view key, std::string& out);

struct Record {
  RecordHeader header;
  std::string value;
};
// Errors: malformed (damage: length, version, checksum, tag), failed_precondition (it is encrypted
// and `key` is empty, or the other way round).
Result<Record> decode_record(const CacheHash& hash, CacheKind kind, std::string_view bytes,
                             std::string_view key);
// Everything but the tag of an encrypted one, which takes the key. Errors: malformed.
Result<RecordHeader> verify_record(const CacheHash& hash, CacheKind kind, std::string_view bytes);

// Little-endian numbers in a string, for records and for what describes segments.
template <class T>
void put_number(std::string& out, T number) {
  for (std::size_t i = 0; i < sizeof(T); ++i) {
    out.push_back(static_cast<char>(static_cast<std::uint64_t>(number) >> (8 * i) & 0xff));
  }
}
template <class T>
T get_number(const char* bytes) {
  std::uint64_t number = 0;
  for (std::size_t i = sizeof(T); i-- > 0;) {
    number = number << 8 | static_cast<unsigned char>(bytes[i]);
  }
  return static_cast<T>(number);
}

}  // namespace plimsoll::storage
