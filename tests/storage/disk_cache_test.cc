// What the cache on disk does when all is well: it finds what was put, and keeps its bounds.
#include <gmock/gmock.h>

#include <algorithm>

#include "tests/storage/disk_cache_testing.h"

namespace plimsoll::storage {
namespace {

using testing::IsEmpty;
using testing::Optional;

TEST_F(DiskCacheTest, FindsWhatWasPutInTheBufferOnDiskAndAfterARestart) {
  options_.flush_after = 1h;
  open();
  put(owner("a"), CacheKind::prefix, "k", "value");
  EXPECT_EQ(cache_->stats().segments, 0u);
  EXPECT_THAT(cache_->get(owner("a"), CacheKind::prefix, "k"), Optional(std::string("value")));
  flush();
  EXPECT_EQ(cache_->stats().segments, 1u);
  EXPECT_THAT(cache_->get(owner("a"), CacheKind::prefix, "k"), Optional(std::string("value")));
  const auto bytes = cache_->stats().bytes;
  put(owner("a"), CacheKind::tokens, "late", "written on closing");
  open();
  EXPECT_GT(cache_->stats().bytes, bytes);
  EXPECT_EQ(counts("a").bytes, bytes) << "the same account as before";
  EXPECT_THAT(cache_->get(owner("a"), CacheKind::prefix, "k"), Optional(std::string("value")));
  EXPECT_THAT(cache_->get(owner("a"), CacheKind::tokens, "late"),
              Optional(std::string("written on closing")));
  EXPECT_THAT(troubles(), IsEmpty());
}

TEST_F(DiskCacheTest, AnEntryIsFoundOnlyWithItsSaltKindAndKey) {
  open();
  put(owner("a"), CacheKind::prefix, "k", "of a");
  flush();
  EXPECT_FALSE(cache_->get(owner("b"), CacheKind::prefix, "k"));
  EXPECT_FALSE(cache_->get({TenantId("a"), "tenant:b"}, CacheKind::prefix, "k"));
  EXPECT_FALSE(cache_->get(owner("a"), CacheKind::tokens, "k"));
  EXPECT_FALSE(cache_->get(owner("a"), CacheKind::prefix, "K"));
  // Others' entries of the same key are others.
  EXPECT_EQ(cache_->put(owner("b"), CacheKind::prefix, "k", "of b"), CachePut::accepted);
  EXPECT_THAT(cache_->get(owner("a"), CacheKind::prefix, "k"), Optional(std::string("of a")));
  EXPECT_THAT(cache_->get(owner("b"), CacheKind::prefix, "k"), Optional(std::string("of b")));
}

TEST_F(DiskCacheTest, AGroupSharesAndTheWriterPays) {
  open();
  const CacheOwner a{TenantId("a"), "group:g"}, b{TenantId("b"), "group:g"};
  put(a, CacheKind::embedding, "k", "shared");
  flush();
  EXPECT_THAT(cache_->get(b, CacheKind::embedding, "k"), Optional(std::string("shared")));
  EXPECT_EQ(cache_->put(b, CacheKind::embedding, "k", "shared"), CachePut::known);
  EXPECT_GT(counts("a", CacheKind::embedding).bytes, 0u);
  EXPECT_EQ(counts("b", CacheKind::embedding).bytes, 0u);
  EXPECT_EQ(counts("b", CacheKind::embedding).hits_total, 1u);
}

TEST_F(DiskCacheTest, AChainEndsWhereItFirstBreaks) {
  open();
  std::vector<std::string> keys;
  for (int i = 0; i < 10; ++i) {
    keys.push_back("block " + std::to_string(i));
    if (i == 4) flush();  // one chain in two segments
    if (i != 7) put(owner("a"), CacheKind::prefix, keys.back(), random_bytes(i, 1000));
  }
  flush();
  EXPECT_EQ(cache_->chain_length(owner("a"), CacheKind::prefix, keys), 7u);
  EXPECT_EQ(cache_->chain_length(owner("b"), CacheKind::prefix, keys), 0u);
  std::vector<std::string> values;
  const auto take = [&](std::size_t i, std::string&& value) {
    EXPECT_EQ(i, values.size());
    values.push_back(std::move(value));
    return true;
  };
  EXPECT_EQ(cache_->get_chain(owner("a"), CacheKind::prefix, keys, take), 7u);
  ASSERT_EQ(values.size(), 7u);
  for (int i = 0; i < 7; ++i) EXPECT_EQ(values[i], random_bytes(i, 1000));
  EXPECT_EQ(cache_->get_chain(owner("a"), CacheKind::prefix, keys,
                              [](std::size_t i, std::string&&) { return i < 2; }),
            2u);
}

// --- Bounds ---

TEST_F(DiskCacheTest, TenTimesTheBoundNeverLiesOnDisk) {
  open();
  std::atomic<bool> done{false};
  std::uint64_t peak = 0;
  std::thread watcher([&] {
    while (!done) {
      peak = std::max(peak, bytes_on_disk());
      std::this_thread::sleep_for(1ms);
    }
  });
  std::mt19937_64 random(1);
  std::uint64_t written = 0, newest = 0;
  for (std::uint64_t i = 0; written < 10 * options_.bytes; ++i) {
    const auto bytes = 500 + random() % 100'000;
    const auto kind = static_cast<CacheKind>(random() % cache_kind_count);
    put(owner("t" + std::to_string(random() % 4)), kind, std::to_string(i), random_bytes(i, bytes));
    written += bytes;
    newest = i;
  }
  flush();
  done = true;
  watcher.join();
  EXPECT_LE(peak, options_.bytes) << "not even the 5 % that would be excused";
  EXPECT_GE(cache_->stats().bytes, options_.bytes * 8 / 10) << "and the bound is put to use";
  std::uint64_t evicted = 0, accepted = 0, on_disk = 0;
  for (const auto& [tenant, kinds] : cache_->stats().tenants) {
    for (const auto& kind : kinds) {
      evicted += kind.evicted_total;
      accepted += kind.accepted_bytes_total;
      on_disk += kind.written_bytes_total;
    }
  }
  EXPECT_GT(evicted, newest / 2);
  // A byte is written once, and what describes it is small.
  EXPECT_LE(static_cast<double>(on_disk), 1.25 * static_cast<double>(accepted));
  EXPECT_LE(cache_->stats().table_bytes, options_.table_bytes + 1_MiB);
  EXPECT_THAT(troubles(), IsEmpty());
}

TEST_F(DiskCacheTest, AWholeFileSizeIsForeseen) {
  // Few large entries, and many that are next to nothing: what a segment comes to is never more
  // than was made room for, or the bound would not hold.
  options_.tenant_bytes = 2_MiB;
  open();
  std::uint64_t peak = 0;
  for (int i = 0; i < 60'000; ++i) {
    put(owner("small"), CacheKind::tokens, std::to_string(i), "x");
    if (i % 1000 != 0) continue;
    put(owner("large"), CacheKind::prefix, std::to_string(i), random_bytes(i, 900'000));
    peak = std::max({peak, counts("small", CacheKind::tokens).bytes, counts("large").bytes});
  }
  flush();
  EXPECT_LE(peak, options_.tenant_bytes);
  EXPECT_GT(counts("small", CacheKind::tokens).evicted_total, 0u);
  EXPECT_GT(counts("large").evicted_total, 0u);
}

TEST_F(DiskCacheTest, AnEntryOverACapIsRefused) {
  options_.entry_bytes = 1_MiB;
  open();
  cache_->set_quota(TenantId("small"), 500'000);
  EXPECT_EQ(cache_->put(owner("a"), CacheKind::prefix, "k", std::string(1_MiB + 1, 'x')),
            CachePut::refused);
  EXPECT_EQ(cache_->put(owner("small"), CacheKind::prefix, "k", std::string(500'000, 'x')),
            CachePut::refused);
  EXPECT_EQ(cache_->put(owner("a"), CacheKind::prefix, "k", std::string(500'000, 'x')),
            CachePut::accepted);
  EXPECT_EQ(counts("a").refused_total, 1u);
  EXPECT_EQ(counts("small").refused_total, 1u);
}

TEST_F(DiskCacheTest, AFloodEvictsItsOwn) {
  open();
  cache_->set_quota(TenantId("quota"), 4_MiB);
  for (int i = 0; i < 20; ++i) {
    put(owner("quiet"), CacheKind::prefix, std::to_string(i), random_bytes(i, 100'000));
  }
  flush();
  // One over its quota, one over its part of the whole.
  for (int i = 0; i < 300; ++i) {
    put(owner("quota"), CacheKind::prefix, std::to_string(i), random_bytes(i, 100'000));
    put(owner("flood"), CacheKind::prefix, std::to_string(i), random_bytes(i, 100'000));
  }
  flush();
  EXPECT_EQ(counts("quiet").evicted_total, 0u);
  EXPECT_EQ(counts("quiet").entries, 20u);
  EXPECT_LE(counts("quota").bytes, 4_MiB);
  EXPECT_GE(counts("quota").bytes, 3_MiB);
  EXPECT_GT(counts("quota").evicted_total, 200u);
  EXPECT_GT(counts("flood").evicted_total, 150u);
  // The oldest went.
  EXPECT_FALSE(cache_->get(owner("quota"), CacheKind::prefix, "0"));
  EXPECT_TRUE(cache_->get(owner("quota"), CacheKind::prefix, "299"));
}

TEST_F(DiskCacheTest, AFloodOfOneKindLeavesTheOthersOfItsTenant) {
  open();
  cache_->set_quota(TenantId("a"), 4_MiB);
  for (int i = 0; i < 100; ++i) {
    put(owner("a"), CacheKind::embedding, std::to_string(i), random_bytes(i, 1500));
  }
  for (int i = 0; i < 100; ++i) {
    put(owner("a"), CacheKind::prefix, std::to_string(i), random_bytes(i, 100'000));
  }
  flush();
  EXPECT_EQ(counts("a", CacheKind::embedding).evicted_total, 0u);
  EXPECT_GT(counts("a").evicted_total, 50u);
}

TEST_F(DiskCacheTest, TheIndexHasABoundOfItsOwn) {
  options_.index_bytes = 200'000;
  open();
  put(owner("quiet"), CacheKind::prefix, "k", random_bytes(0, 1'000'000));
  flush();
  for (int i = 0; i < 20'000; ++i) put(owner("a"), CacheKind::tokens, std::to_string(i), "x");
  flush();
  EXPECT_LE(cache_->stats().index_bytes, options_.index_bytes);
  EXPECT_GT(counts("a", CacheKind::tokens).evicted_total, 10'000u);
  EXPECT_EQ(counts("quiet").evicted_total, 0u) << "not its entries take the memory";
}

TEST_F(DiskCacheTest, TheBufferIsBoundedChargedAndSharedFairly) {
  options_.buffer_bytes = 1_MiB;
  options_.flush_after = 1h;
  options_.bytes =
      4_GiB;  // segments of 8 MiB: nothing is written before half of the buffer is full
  open();
  // Faster than any disk: whatever the writer does meanwhile, the bound holds.
  int dropped = 0;
  for (int i = 0; i < 1000; ++i) {
    const auto put = cache_->put(owner("flood"), CacheKind::prefix, std::to_string(i),
                                 std::string(100'000, 'x'));
    dropped += put == CachePut::dropped;
    EXPECT_LE(cache_->stats().buffered_bytes, options_.buffer_bytes);
    // There is always room for another who has nothing in it.
    if (i == 500) {
      EXPECT_EQ(cache_->put(owner("quiet"), CacheKind::prefix, "k", std::string(100'000, 'x')),
                CachePut::accepted);
    }
  }
  EXPECT_GT(dropped, 0);
  EXPECT_EQ(counts("flood").dropped_total, static_cast<std::uint64_t>(dropped));
  Account& account = ledger_.account(Component::storage, "", TenantId("flood"));
  EXPECT_LE(account.peak_bytes(), static_cast<std::int64_t>(options_.buffer_bytes));
  EXPECT_GT(account.peak_bytes(), 0);
  flush();
  EXPECT_EQ(account.bytes(), 0);
  Account& shared = ledger_.account(Component::storage, "", shared_tenant);
  const auto stats = cache_->stats();
  EXPECT_GE(shared.bytes(), static_cast<std::int64_t>(stats.index_bytes + stats.table_bytes));
  cache_.reset();
  EXPECT_EQ(shared.bytes(), 0);
}

TEST_F(DiskCacheTest, AWrittenValueLeavesItsBufferToTheNext) {
  options_.flush_after = 1h;
  open();
  auto value = cache_->buffer(100'000);
  const auto* place = value.data();
  value.assign(100'000, 'x');
  EXPECT_EQ(cache_->put(owner("a"), CacheKind::prefix, "k", std::move(value)), CachePut::accepted);
  flush();
  EXPECT_EQ(cache_->buffer(100'000).data(), place);
  EXPECT_EQ(cache_->get(owner("a"), CacheKind::prefix, "k"), std::string(100'000, 'x'));
}

TEST_F(DiskCacheTest, SpareBuffersTakeNoRoomFromEntries) {
  options_.buffer_bytes = 1_MiB;
  options_.flush_after = 1h;
  options_.bytes = 4_GiB;
  open();
  const auto fill = [&](const std::string& name, std::size_t bytes) {
    int taken = 0;
    for (; taken < 5; ++taken) {
      if (cache_->put(owner(name), CacheKind::prefix, std::to_string(taken),
                      std::string(bytes, 'x')) != CachePut::accepted) {
        break;
      }
    }
    return taken;
  };
  Account& shared = ledger_.account(Component::storage, "", shared_tenant);
  const auto bytes_before = shared.bytes();
  EXPECT_EQ(fill("a", 100'000), 5);
  flush();
  EXPECT_GE(shared.bytes(), bytes_before + 500'000) << "what is spare is charged";
  EXPECT_EQ(fill("b", 90'000), 5);
  EXPECT_EQ(fill("c", 80'000), 5);
}

TEST_F(DiskCacheTest, BoundsChangeAtRunTime) {
  open();
  for (int i = 0; i < 100; ++i) {
    put(owner("a"), CacheKind::prefix, std::to_string(i), random_bytes(i, 100'000));
    put(owner("b"), CacheKind::prefix, std::to_string(i), random_bytes(i, 40'000));
  }
  flush();
  const auto b = counts("b");
  cache_->set_quota(TenantId("a"), 2_MiB);
  EXPECT_TRUE(eventually([&] { return counts("a").bytes <= 2_MiB; }));
  EXPECT_GT(counts("a").bytes, 1_MiB);
  EXPECT_EQ(counts("b").bytes, b.bytes);
  cache_->set_quota(TenantId("a"), 0);
  EXPECT_TRUE(eventually([&] { return counts("a").bytes == 0; }));
  EXPECT_EQ(cache_->put(owner("a"), CacheKind::prefix, "k", "x"), CachePut::refused) << "no-store";
  cache_->set_quota(TenantId("a"), std::nullopt);
  EXPECT_EQ(cache_->put(owner("a"), CacheKind::prefix, "k", "x"), CachePut::accepted);
  cache_->set_bytes(0);  // as little as there can be
  EXPECT_TRUE(eventually([&] { return bytes_on_disk() <= 8_MiB; }));
}

// --- Time ---

TEST_F(DiskCacheTest, AValueThatIsNotTakenIsLeftAsItWas) {
  open();
  cache_->set_quota(TenantId("none"), 0);
  std::string value(1000, 'x');
  EXPECT_EQ(cache_->put(owner("none"), CacheKind::prefix, "k", std::move(value)),
            CachePut::refused);
  EXPECT_EQ(value, std::string(1000, 'x'));
  EXPECT_EQ(cache_->put(owner("a"), CacheKind::prefix, "k", value), CachePut::accepted);
  EXPECT_EQ(cache_->get(owner("a"), CacheKind::prefix, "k"), value);
}

TEST_F(DiskCacheTest, WhatHasExpiredIsNotServedAndItsSpaceComesBack) {
  options_.ttl[static_cast<std::size_t>(CacheKind::embedding)] = 10min;
  options_.reclaim_within = 400ms;  // of the steady clock for the sweeps, of the cache's for ages
  open();
  const auto value = random_bytes(1, 100'000);
  put(owner("a"), CacheKind::prefix, "k", value);
  put(owner("a"), CacheKind::embedding, "k", random_bytes(2, 100'000));
  flush();
  pass(10min - 1ms);
  EXPECT_TRUE(cache_->get(owner("a"), CacheKind::embedding, "k"));
  pass(1ms);
  EXPECT_FALSE(cache_->get(owner("a"), CacheKind::embedding, "k"));
  EXPECT_TRUE(eventually([&] { return counts("a", CacheKind::embedding).bytes == 0; }, 5s));
  EXPECT_EQ(counts("a", CacheKind::embedding).expired_total, 1u);
  // The file goes after its account.
  const auto expired = random_bytes(2, 100'000).substr(0, 64);
  EXPECT_TRUE(eventually([&] { return !any_file_has(directory_.path(), expired); }, 5s));
  EXPECT_TRUE(any_file_has(directory_.path(), value.substr(0, 64))) << "or the scan finds nothing";
  EXPECT_TRUE(cache_->get(owner("a"), CacheKind::prefix, "k"));
}

TEST_F(DiskCacheTest, ASegmentWithExpiredEntriesIsThinned) {
  options_.flush_after = 1h;
  options_.reclaim_within = 400ms;
  options_.ttl[0] = 10min;
  open();
  const auto early = random_bytes(1, 50'000), late = random_bytes(2, 50'000);
  put(owner("a"), CacheKind::prefix, "early", early);
  pass(5min);
  put(owner("a"), CacheKind::prefix, "late", late);
  flush();
  ASSERT_EQ(cache_->stats().segments, 1u);
  pass(5min);
  EXPECT_FALSE(cache_->get(owner("a"), CacheKind::prefix, "early"));
  pass(1s);  // overdue
  EXPECT_TRUE(eventually([&] { return counts("a").entries == 1; }, 5s));
  EXPECT_FALSE(any_file_has(directory_.path(), early.substr(0, 64)));
  EXPECT_THAT(cache_->get(owner("a"), CacheKind::prefix, "late"), Optional(late));
  EXPECT_EQ(counts("a").expired_total, 1u);
}

TEST_F(DiskCacheTest, AShorterTtlHoldsForWhatIsThereALongerDoesNot) {
  options_.reclaim_within = 400ms;
  open();
  ASSERT_TRUE(cache_->set_ttl(CacheKind::prefix, TenantId("b"), 1h));
  put(owner("a"), CacheKind::prefix, "k", "x");
  put(owner("b"), CacheKind::prefix, "k", "x");
  flush();
  ASSERT_TRUE(cache_->set_ttl(CacheKind::prefix, TenantId("b"), std::nullopt));
  ASSERT_TRUE(cache_->set_ttl(CacheKind::prefix, 3h));
  pass(2h);
  EXPECT_FALSE(cache_->get(owner("b"), CacheKind::prefix, "k"));
  EXPECT_TRUE(cache_->get(owner("a"), CacheKind::prefix, "k"));
  ASSERT_TRUE(cache_->set_ttl(CacheKind::prefix, 1h));
  EXPECT_FALSE(cache_->get(owner("a"), CacheKind::prefix, "k"));
  EXPECT_TRUE(eventually([&] { return cache_->stats().bytes == 0; }, 5s));
  ASSERT_TRUE(cache_->set_ttl(CacheKind::prefix, 0ms));
  EXPECT_EQ(cache_->put(owner("a"), CacheKind::prefix, "k", "x"), CachePut::refused);
  EXPECT_FALSE(cache_->set_ttl(CacheKind::prefix, -1ms));
  EXPECT_FALSE(cache_->set_ttl(CacheKind::prefix, 31 * 24h));
}

TEST_F(DiskCacheTest, WhatIsLongerReplacesWhatWasStoredInPart) {
  open();
  const std::string part(1000, 'p'), whole(6000, 'w');
  put(owner("a"), CacheKind::prefix, "k", part);
  flush();
  EXPECT_EQ(cache_->put(owner("a"), CacheKind::prefix, "k", whole), CachePut::accepted);
  EXPECT_EQ(cache_->get(owner("a"), CacheKind::prefix, "k")->size(), whole.size());
  flush();
  EXPECT_EQ(cache_->get(owner("a"), CacheKind::prefix, "k")->size(), whole.size());
  EXPECT_EQ(cache_->put(owner("a"), CacheKind::prefix, "k", part), CachePut::known);
  EXPECT_EQ(cache_->put(owner("a"), CacheKind::prefix, "k", whole), CachePut::known);
  open();
  EXPECT_EQ(cache_->get(owner("a"), CacheKind::prefix, "k")->size(), whole.size());
}

TEST_F(DiskCacheTest, AnEntryIsRefreshedInTheSecondHalfOfItsLife) {
  open();
  put(owner("a"), CacheKind::prefix, "k", "x");
  flush();
  pass(11h);
  EXPECT_EQ(cache_->put(owner("a"), CacheKind::prefix, "k", "x"), CachePut::known);
  pass(2h);
  EXPECT_EQ(cache_->put(owner("a"), CacheKind::prefix, "k", "x"), CachePut::accepted);
  flush();
  pass(12h);
  EXPECT_TRUE(cache_->get(owner("a"), CacheKind::prefix, "k"));
}

TEST_F(DiskCacheTest, AClockThatWasWrongKeepsNothingForever) {
  options_.reclaim_within = 400ms;
  open();
  put(owner("a"), CacheKind::prefix, "k", "x");
  flush();
  pass(-24h * 365);
  EXPECT_FALSE(cache_->get(owner("a"), CacheKind::prefix, "k"));
  EXPECT_TRUE(eventually([&] { return cache_->stats().bytes == 0; }, 5s));
}

TEST_F(DiskCacheTest, ManySmallSegmentsBecomeFewAndLoseNothing) {
  options_.reclaim_within = 80ms;
  open();
  for (int i = 0; i < 300; ++i) {
    put(owner("a"), CacheKind::embedding, std::to_string(i), random_bytes(i, 700));
    flush();
  }
  EXPECT_TRUE(eventually([&] { return cache_->stats().segments <= 64; }));
  EXPECT_EQ(counts("a", CacheKind::embedding).entries, 300u);
  open();
  for (int i = 0; i < 300; ++i) {
    EXPECT_THAT(cache_->get(owner("a"), CacheKind::embedding, std::to_string(i)),
                Optional(random_bytes(i, 700)));
  }
  EXPECT_THAT(troubles(), IsEmpty());
}

// --- Options ---

TEST_F(DiskCacheTest, OptionsThatCannotHoldAreRefused) {
  const auto refused = [&](auto change) {
    auto options = options_;
    change(options);
    auto opened = open_disk_cache(options, ledger_);
    return !opened && opened.error().code == ErrorCode::invalid_argument;
  };
  EXPECT_TRUE(refused([](auto& o) { o.bytes = 1_MiB; }));
  EXPECT_TRUE(refused([](auto& o) { o.entry_bytes = 4_GiB; }));
  EXPECT_TRUE(refused([](auto& o) { o.ttl[1] = 365 * 24h; }));
  EXPECT_TRUE(refused([](auto& o) { o.keys[TenantId("a")] = "short"; }));
  open();
  auto second = open_disk_cache(options_, ledger_);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::unavailable);
  cache_.reset();
  options_.directory = "/proc/self/cache";
  EXPECT_EQ(open_disk_cache(options_, ledger_).error().code, ErrorCode::internal);
}

// What two threads do at once; for the thread sanitizer too.
TEST_F(DiskCacheTest, ManyThreadsPutGetPurgeAndAsk) {
  options_.bytes = 8_MiB;
  options_.reclaim_within = 80ms;
  open();
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937_64 random(t);
      const auto own = owner("t" + std::to_string(t % 2));
      for (int i = 0; i < 1500; ++i) {
        const auto n = random() % 400;
        const auto value = random_bytes(n, 200 + 100 * n);
        cache_->put(own, CacheKind::prefix, std::to_string(n), value);
        const auto m = random() % 400;
        const auto got = cache_->get(own, CacheKind::prefix, std::to_string(m));
        if (got && *got != random_bytes(m, 200 + 100 * m)) ++wrong;
        if (i % 300 == 0) {
          EXPECT_TRUE(cache_->purge({own.tenant, {}, 0ms}, test_deadline));
          cache_->stats();
        }
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_THAT(troubles(), IsEmpty());
}

}  // namespace
}  // namespace plimsoll::storage
