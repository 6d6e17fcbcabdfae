// What was purged is in no file, and what is encrypted is in none either.
#include <gmock/gmock.h>

#include "tests/storage/disk_cache_testing.h"

namespace plimsoll::storage {
namespace {

using testing::IsEmpty;
using testing::Optional;

constexpr std::size_t secret_bytes = 20'000;

class DiskCachePrivacy : public DiskCacheTest {
 protected:
  // Whether any part of it is in a file: the beginning, the middle or the end of a value.
  bool on_disk(std::uint64_t seed) {
    const auto value = random_bytes(seed, secret_bytes);
    for (const std::size_t at : {std::size_t{0}, secret_bytes / 2, secret_bytes - 64}) {
      if (any_file_has(directory_.path(), value.substr(at, 64))) return true;
    }
    return false;
  }
  void put_secret(const CacheOwner& owner, CacheKind kind, std::uint64_t seed) {
    put(owner, kind, std::to_string(seed), random_bytes(seed, secret_bytes));
  }
};

TEST_F(DiskCachePrivacy, APurgeLeavesNothingOfATenantInAnyFile) {
  options_.flush_after = 1h;
  open();
  for (int i = 0; i < 10; ++i) {
    put_secret(owner("a"), static_cast<CacheKind>(i % 3), i);
    put_secret(owner("b"), static_cast<CacheKind>(i % 3), 100 + i);
    if (i % 4 == 3) flush();
  }
  put_secret(owner("a"), CacheKind::prefix, 50);  // in the buffer
  for (int i = 0; i < 8; ++i) ASSERT_TRUE(on_disk(i)) << "or the scan finds nothing";
  EXPECT_EQ(cache_->purge({TenantId("a"), {}, 0ms}, test_deadline).value(), 11u);
  for (int i = 0; i < 10; ++i) EXPECT_FALSE(on_disk(i));
  flush();
  EXPECT_FALSE(on_disk(50));
  EXPECT_FALSE(any_file_has(directory_.path(), "tenant:a")) << "nor its name";
  const auto a = counts("a");
  EXPECT_EQ(a.bytes, 0u);
  EXPECT_GT(a.purged_total, 0u);
  for (int i = 0; i < 10; ++i) {
    EXPECT_THAT(cache_->get(owner("b"), static_cast<CacheKind>(i % 3), std::to_string(100 + i)),
                Optional(random_bytes(100 + i, secret_bytes)));
  }
  open();
  for (int i = 0; i < 10; ++i) {
    EXPECT_FALSE(cache_->get(owner("a"), static_cast<CacheKind>(i % 3), std::to_string(i)));
  }
}

TEST_F(DiskCachePrivacy, APurgeMayBeOfOneKindOrOfWhatIsOld) {
  options_.flush_after = 1h;
  open();
  put_secret(owner("a"), CacheKind::prefix, 1);
  put_secret(owner("a"), CacheKind::tokens, 2);
  pass(1h);
  put_secret(owner("a"), CacheKind::prefix, 3);  // in one segment with the first
  flush();
  ASSERT_EQ(cache_->stats().segments, 2u);
  EXPECT_EQ(cache_->purge({{}, CacheKind::tokens, 0ms}, test_deadline).value(), 1u);
  EXPECT_FALSE(on_disk(2));
  EXPECT_TRUE(on_disk(1));
  EXPECT_EQ(cache_->purge({TenantId("a"), {}, 30min}, test_deadline).value(), 1u);
  EXPECT_FALSE(on_disk(1));
  EXPECT_TRUE(on_disk(3));
  EXPECT_FALSE(cache_->get(owner("a"), CacheKind::prefix, "1"));
  EXPECT_THAT(cache_->get(owner("a"), CacheKind::prefix, "3"),
              Optional(random_bytes(3, secret_bytes)));
  EXPECT_EQ(cache_->purge({{}, {}, 0ms}, test_deadline).value(), 1u);
  EXPECT_FALSE(on_disk(3));
  EXPECT_EQ(cache_->stats().segments, 0u);
}

TEST_F(DiskCachePrivacy, APurgeHoldsWhileOthersRead) {
  open();
  for (int i = 0; i < 50; ++i) put_secret(owner("a"), CacheKind::prefix, i);
  flush();
  std::atomic<bool> done{false};
  std::vector<std::thread> readers;
  for (int t = 0; t < 2; ++t) {
    readers.emplace_back([&, t] {
      for (int i = t; !done; ++i) {
        cache_->get(owner("a"), CacheKind::prefix, std::to_string(i % 50));
      }
    });
  }
  for (int round = 0; round < 20; ++round) {
    EXPECT_EQ(cache_->purge({TenantId("a"), {}, 0ms}, test_deadline).value(), 50u);
    EXPECT_THAT(segment_files(), IsEmpty()) << "at once, whoever was reading them";
    for (int i = 0; i < 50; ++i) put_secret(owner("a"), CacheKind::prefix, i);
    flush();
  }
  done = true;
  for (auto& reader : readers) reader.join();
  EXPECT_THAT(troubles(), IsEmpty());
}

TEST_F(DiskCachePrivacy, WithAKeyNothingPlainIsOnDisk) {
  options_.keys[TenantId("a")] = random_bytes(7, encryption_key_bytes);
  open();
  for (int i = 0; i < 10; ++i) {
    put_secret(owner("a"), CacheKind::prefix, i);
    put_secret(owner("b"), CacheKind::prefix, 100 + i);
  }
  flush();
  for (int i = 0; i < 10; ++i) {
    EXPECT_FALSE(on_disk(i));
    EXPECT_TRUE(on_disk(100 + i));
    EXPECT_THAT(cache_->get(owner("a"), CacheKind::prefix, std::to_string(i)),
                Optional(random_bytes(i, secret_bytes)));
  }
  EXPECT_FALSE(any_file_has(directory_.path(), options_.keys[TenantId("a")]));
  // Rewriting needs no key and keeps them secret.
  pass(1h);
  put_secret(owner("a"), CacheKind::prefix, 20);
  EXPECT_EQ(cache_->purge({TenantId("a"), {}, 30min}, test_deadline).value(), 10u);
  open();
  EXPECT_THAT(cache_->get(owner("a"), CacheKind::prefix, "20"),
              Optional(random_bytes(20, secret_bytes)));
  EXPECT_FALSE(on_disk(20));
  EXPECT_THAT(troubles(), IsEmpty());
}

TEST_F(DiskCachePrivacy, WithAnotherKeyWhatWasStoredIsGone) {
  open();
  put_secret(owner("a"), CacheKind::prefix, 1);
  flush();
  ASSERT_TRUE(on_disk(1));
  ASSERT_TRUE(cache_->set_key(TenantId("a"), random_bytes(7, encryption_key_bytes)));
  EXPECT_FALSE(cache_->get(owner("a"), CacheKind::prefix, "1"));
  EXPECT_TRUE(eventually([&] { return !on_disk(1); }));
  put_secret(owner("a"), CacheKind::prefix, 2);
  flush();
  options_.keys[TenantId("a")] = random_bytes(8, encryption_key_bytes);
  open();
  EXPECT_FALSE(cache_->get(owner("a"), CacheKind::prefix, "2"));
  EXPECT_TRUE(eventually([&] { return segment_files().empty(); }));
  put_secret(owner("a"), CacheKind::prefix, 3);
  flush();
  options_.keys.clear();
  open();
  EXPECT_FALSE(cache_->get(owner("a"), CacheKind::prefix, "3"));
  EXPECT_FALSE(cache_->set_key(TenantId("a"), "short"));
  EXPECT_THAT(troubles(), IsEmpty()) << "a changed key is no damage";
}

}  // namespace
}  // namespace plimsoll::storage
