#include "storage/cache_record.h"

#include <gtest/gtest.h>

#include <set>

#include "tests/storage/disk_cache_testing.h"

namespace plimsoll::storage {
namespace {

const CacheHash hash = hash_of("salt", CacheKind::embedding, "key");
const RecordHeader header{CacheKind::embedding, 60'000, 1'700'000'000'000};

std::string encoded(const std::string& value, const std::string& key = {}) {
  std::string out;
  EXPECT_TRUE(encode_record(hash, header, value, key, out));
  return out;
}

TEST(CacheRecord, ComesBackPlainAndEncrypted) {
  for (const std::string& key : {std::string(), random_bytes(1, encryption_key_bytes)}) {
    for (const std::size_t bytes : {0, 1, 1000}) {
      const auto value = random_bytes(2, bytes);
      const auto record = decode_record(hash, CacheKind::embedding, encoded(value, key), key);
      ASSERT_TRUE(record);
      EXPECT_EQ(record->value, value);
      EXPECT_EQ(record->header.created_ms, header.created_ms);
      EXPECT_EQ(record->header.ttl_ms, header.ttl_ms);
    }
  }
}

TEST(CacheRecord, AnyFlippedBitAndAnyCutIsFound) {
  for (const std::string& key : {std::string(), random_bytes(1, encryption_key_bytes)}) {
    const auto whole = encoded(random_bytes(2, 40), key);
    for (std::size_t bit = 0; bit < 8 * whole.size(); ++bit) {
      auto broken = whole;
      broken[bit / 8] = static_cast<char>(broken[bit / 8] ^ (1 << bit % 8));
      EXPECT_FALSE(decode_record(hash, CacheKind::embedding, broken, key)) << bit;
    }
    for (std::size_t length = 0; length < whole.size(); ++length) {
      EXPECT_FALSE(decode_record(hash, CacheKind::embedding, whole.substr(0, length), key));
    }
  }
}

TEST(CacheRecord, IsBoundToItsNameKindAndKey) {
  const auto key = random_bytes(1, encryption_key_bytes);
  const auto plain = encoded("value"), secret = encoded("value", key);
  const auto other = hash_of("salt", CacheKind::embedding, "other key");
  for (const auto& [bytes, k] : {std::pair(plain, std::string()), std::pair(secret, key)}) {
    EXPECT_FALSE(decode_record(other, CacheKind::embedding, bytes, k));
    EXPECT_FALSE(decode_record(hash, CacheKind::tokens, bytes, k));
  }
  EXPECT_EQ(decode_record(hash, CacheKind::embedding, secret, random_bytes(9, 32)).error().code,
            ErrorCode::malformed);
  EXPECT_EQ(decode_record(hash, CacheKind::embedding, secret, {}).error().code,
            ErrorCode::failed_precondition);
  EXPECT_EQ(decode_record(hash, CacheKind::embedding, plain, key).error().code,
            ErrorCode::failed_precondition);
}

TEST(CacheRecord, EncryptionHidesTheValueAndNeverRepeats) {
  const auto key = random_bytes(1, encryption_key_bytes);
  const std::string value = "a sentence that is somebody's own business";
  const auto a = encoded(value, key), b = encoded(value, key);
  EXPECT_EQ(a.find(value.substr(0, 8)), std::string::npos);
  EXPECT_NE(a.substr(record_header_bytes), b.substr(record_header_bytes));
}

TEST(CacheRecord, NoSaltAndKeyRunTogether) {
  std::set<CacheHash> hashes;
  for (const auto& [salt, key] : {std::pair("ab", "c"), {"a", "bc"}, {"", "abc"}, {"abc", ""}}) {
    for (const auto kind : {CacheKind::prefix, CacheKind::embedding, CacheKind::tokens}) {
      hashes.insert(hash_of(salt, kind, key));
    }
  }
  EXPECT_EQ(hashes.size(), 12u);
}

TEST(CacheRecord, KindsHaveNames) {
  for (const auto kind : {CacheKind::prefix, CacheKind::embedding, CacheKind::tokens}) {
    EXPECT_EQ(cache_kind_of(to_string(kind)), kind);
  }
  EXPECT_FALSE(cache_kind_of("prefixes"));
}

}  // namespace
}  // namespace plimsoll::storage
