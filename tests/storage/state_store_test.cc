// What every store promises, asked of each.
#include "storage/state_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "tests/storage/kinds.h"
#include "tests/storage/testing.h"

namespace plimsoll::storage {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;
using testing::IsEmpty;

class StoreTest : public testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    opened_ = GetParam().open();
    if (!opened_.store) GTEST_SKIP() << "no etcd on this machine: install Debian's etcd-server";
    store_ = opened_.store.get();
  }

  std::uint64_t put(const std::string& key, const std::string& value, LeaseId lease = 0) {
    const auto revision = store_->put(key, value, {}, lease);
    EXPECT_TRUE(revision) << (revision ? "" : to_string(revision.error()));
    return revision.value_or(0);
  }
  bool exists(const std::string& key) { return store_->get(key).value().has_value(); }
  std::vector<std::string> keys(const std::string& prefix) {
    std::vector<std::string> out;
    const auto entries = store_->list(prefix).value();
    for (const auto& entry : entries) out.push_back(entry.key);
    return out;
  }

  Opened opened_;
  StateStore* store_ = nullptr;
};

TEST_P(StoreTest, GivesBackWhatWasPut) {
  EXPECT_EQ(store_->get("tenants/acme").value(), std::nullopt);
  const std::string value("\0\xff\n\"=+/", 7);
  const auto revision = put("tenants/acme", value);
  const auto entry = store_->get("tenants/acme").value();
  ASSERT_TRUE(entry);
  EXPECT_EQ(entry->key, "tenants/acme");
  EXPECT_EQ(entry->value, value);
  EXPECT_EQ(entry->revision, revision);
  EXPECT_GT(put("tenants/acme", ""), revision);
  EXPECT_EQ(store_->get("tenants/acme").value()->value, "");
}

TEST_P(StoreTest, ListsByPrefixInOrderOfKeys) {
  for (const auto* key : {"b/2", "a/1", "b0", "b/10", "b", "c/1", "b/\xff\xff"}) put(key, key);
  EXPECT_THAT(keys("b/"), ElementsAre("b/10", "b/2", "b/\xff\xff"));
  EXPECT_THAT(keys("b/\xff"), ElementsAre("b/\xff\xff"));
  EXPECT_THAT(keys("x"), IsEmpty());
  EXPECT_EQ(keys("").size(), 7u);
}

TEST_P(StoreTest, SwapsOnlyWhatIsAsExpected) {
  const auto first = store_->put("k", "1", 0).value();
  const auto second = store_->put("k", "2", 0);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::failed_precondition);
  EXPECT_EQ(second.error().reason, "conflict");
  const auto third = store_->put("k", "3", first).value();
  EXPECT_GT(third, first);
  EXPECT_EQ(store_->put("k", "4", first).error().reason, "conflict");
  EXPECT_EQ(store_->remove("k", first).error().reason, "conflict");
  EXPECT_EQ(store_->get("k").value()->value, "3");
  EXPECT_TRUE(store_->remove("k", third));
  EXPECT_FALSE(exists("k"));
  EXPECT_EQ(store_->remove("k", third).error().reason, "conflict");
  EXPECT_EQ(store_->put("k", "5", third).error().reason, "conflict");
  EXPECT_TRUE(store_->remove("k"));
  EXPECT_GT(store_->put("k", "6", 0).value(), third);
}

TEST_P(StoreTest, RefusesWhatIsTooLarge) {
  EXPECT_EQ(store_->put("", "v").error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(store_->put(std::string(2000, 'k'), "v").error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(store_->put("k", std::string((1 << 20) + 1, 'v')).error().code,
            ErrorCode::resource_exhausted);
  EXPECT_TRUE(store_->put("k", std::string(1 << 20, 'v')));
  EXPECT_EQ(store_->get("k").value()->value.size(), std::size_t{1} << 20);
}

TEST_P(StoreTest, ConcurrentIncrementsLoseNothing) {
  constexpr int threads = 4, increments = 25;
  std::vector<std::jthread> running;
  std::atomic<int> done = 0;
  for (int t = 0; t < threads; ++t) {
    running.emplace_back([&] {
      for (int i = 0; i < increments;) {
        const auto entry = store_->get("counter").value();
        const int count = entry ? std::stoi(entry->value) : 0;
        const auto put =
            store_->put("counter", std::to_string(count + 1), entry ? entry->revision : 0);
        if (put) {
          ++i;
          ++done;
        } else if (put.error().reason != "conflict") {
          return;
        }
      }
    });
  }
  running.clear();
  EXPECT_EQ(done, threads * increments);
  EXPECT_EQ(store_->get("counter").value()->value, std::to_string(threads * increments));
}

TEST_P(StoreTest, ALeaseTakesItsKeysAlongWhenItExpires) {
  WatchLog log;
  const auto watch = store_->watch("", log.callback());
  const auto lease = store_->grant(GetParam().short_lease).value();
  ASSERT_NE(lease, 0u);
  put("leased/1", "", lease);
  put("leased/2", "", lease);
  put("leased/taken-over", "", lease);
  put("leased/taken-over", "");
  put("kept", "");
  EXPECT_TRUE(log.wait_for_view({{"kept", ""}, {"leased/taken-over", ""}}));
  EXPECT_THAT(keys(""), ElementsAre("kept", "leased/taken-over"));
  EXPECT_EQ(store_->keep_alive(lease).error().code, ErrorCode::not_found);
  EXPECT_EQ(store_->revoke(lease).error().code, ErrorCode::not_found);
  EXPECT_EQ(store_->put("late", "", {}, lease).error().code, ErrorCode::not_found);
}

TEST_P(StoreTest, ALeaseKeptAliveGoesOn) {
  // A machine that stalls for a lease's whole time proves nothing: then again, with more time.
  for (auto ttl = GetParam().short_lease; ttl < 1min; ttl *= 4) {
    const auto lease = store_->grant(ttl).value();
    put("leased", "", lease);
    const auto start = std::chrono::steady_clock::now();
    auto before = start;
    bool stalled = false, kept = true;
    while (before - start < ttl * 2) {
      std::this_thread::sleep_for(ttl / 8);
      kept = kept && store_->keep_alive(lease) && exists("leased");
      const auto now = std::chrono::steady_clock::now();
      stalled = stalled || now - before > ttl / 2;
      before = now;
    }
    if (stalled) continue;
    EXPECT_TRUE(kept);
    return;
  }
  GTEST_SKIP() << "the machine stalls too often to tell";
}

TEST_P(StoreTest, ARevokedLeaseTakesItsKeysAlongAtOnce) {
  const auto lease = store_->grant(1h).value();
  const auto other = store_->grant(1h).value();
  put("a", "", lease);
  put("b", "", other);
  EXPECT_TRUE(store_->revoke(lease));
  EXPECT_THAT(keys(""), ElementsAre("b"));
  EXPECT_EQ(store_->keep_alive(lease).error().code, ErrorCode::not_found);
  EXPECT_TRUE(store_->keep_alive(other));
}

TEST_P(StoreTest, AWatchSaysWhatIsThereAndThenEachChangeInOrder) {
  put("w/a", "1");
  put("w/b", "1");
  put("x/a", "1");
  WatchLog log, empty;
  const auto watch = store_->watch("w/", log.callback());
  const auto other = store_->watch("nothing/", empty.callback());
  ASSERT_TRUE(log.wait_for_calls(1));
  ASSERT_TRUE(empty.wait_for_calls(1)) << "the first call comes also where nothing is";
  EXPECT_TRUE(log.wait_for_view({{"w/a", "1"}, {"w/b", "1"}}));
  std::vector<std::uint64_t> revisions;
  for (int i = 0; i < 50; ++i) {
    revisions.push_back(put("w/a", std::to_string(i)));
    put("x/a", "2");
  }
  ASSERT_TRUE(store_->remove("w/b"));
  ASSERT_TRUE(log.wait_for_view({{"w/a", "49"}}));
  const auto changes = log.changes();
  ASSERT_EQ(changes.size(), 2 + revisions.size() + 1);
  for (std::size_t i = 0; i < revisions.size(); ++i) {
    EXPECT_EQ(changes[2 + i].entry.key, "w/a");
    EXPECT_EQ(changes[2 + i].entry.value, std::to_string(i));
    EXPECT_EQ(changes[2 + i].entry.revision, revisions[i]);
  }
  EXPECT_TRUE(changes.back().removed);
  EXPECT_GT(changes.back().entry.revision, revisions.back());
  EXPECT_THAT(empty.changes(), IsEmpty());
}

TEST_P(StoreTest, AWatchStartedWhileOthersWriteMissesNothing) {
  std::jthread writer([&] {
    for (int i = 1; i <= 100; ++i) put("n", std::to_string(i));
  });
  for (int round = 0; round < 5; ++round) {
    WatchLog log;
    const auto watch = store_->watch("n", log.callback());
    ASSERT_TRUE(log.wait_for_value("n", "100"));
    int before = 0;
    for (const auto& change : log.changes()) {
      const int now = std::stoi(change.entry.value);
      EXPECT_TRUE(before == 0 || now == before + 1) << now << " after " << before;
      before = now;
    }
  }
}

TEST_P(StoreTest, AnEndedWatchIsSilent) {
  WatchLog log;
  auto watch = store_->watch("", log.callback());
  ASSERT_TRUE(log.wait_for_calls(1));
  watch.reset();
  put("k", "v");
  WatchLog later;
  const auto second = store_->watch("", later.callback());
  ASSERT_TRUE(later.wait_for_view({{"k", "v"}}));
  EXPECT_THAT(log.changes(), IsEmpty());
}

INSTANTIATE_TEST_SUITE_P(All, StoreTest, testing::ValuesIn(kinds_of_store()),
                         [](const auto& info) { return info.param.name; });

// A watcher slower than the writers is not sent every change, but it is brought up to date.
TEST(LocalStore, AWatcherFarBehindIsToldTheDifference) {
  const auto store = make_memory_store();
  WatchLog log;
  std::mutex gate;
  std::unique_lock closed(gate);
  const auto watch = store->watch("", [&, say = log.callback()](const auto& changes) {
    const std::lock_guard wait(gate);
    say(changes);
  });
  ASSERT_TRUE(store->put("gone", "0"));
  for (int i = 0; i < 10'000; ++i) ASSERT_TRUE(store->put("k", std::to_string(i)));
  ASSERT_TRUE(store->remove("gone"));
  closed.unlock();
  EXPECT_TRUE(log.wait_for_view({{"k", "9999"}}));
  EXPECT_LT(log.changes().size(), 9000u);
}

}  // namespace
}  // namespace plimsoll::storage
