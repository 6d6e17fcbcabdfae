#include "actors/directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <regex>
#include <set>
#include <thread>

#include "actors/records.h"
#include "actors/secrets.h"
#include "tests/storage/kinds.h"

namespace plimsoll {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr std::uint64_t now_s = 1'800'000'000;

// Waits for something to be seen through the watch.
class Changes {
 public:
  explicit Changes(Directory& directory) : directory_(directory) {
    directory.on_change([this] {
      const std::lock_guard lock(mutex_);
      changed_.notify_all();
    });
  }
  ~Changes() { directory_.on_change({}); }
  template <class Seen>
  bool wait(const Seen& seen) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(60), seen);
  }

 private:
  Directory& directory_;
  std::mutex mutex_;
  std::condition_variable changed_;
};

class DirectoryTest : public testing::TestWithParam<storage::Kind> {
 protected:
  void SetUp() override {
    auto opened = GetParam().open();
    if (!opened.store) GTEST_SKIP() << "no etcd on this machine: install Debian's etcd-server";
    needs_ = std::move(opened.needs);
    store_ = std::move(opened.store);
    one_ = open(store_, "router-1");
    two_ = open(store_, "router-2");
  }

  static std::unique_ptr<Directory> open(std::shared_ptr<storage::StateStore> store,
                                         const std::string& router) {
    auto directory = Directory::open(std::move(store), router);
    if (!directory) throw std::runtime_error(to_string(directory.error()));
    return std::move(*directory);
  }
  static cluster::Tenant named(const std::string& name) {
    cluster::Tenant tenant;
    tenant.name = name;
    return tenant;
  }
  static cluster::Tenant acme() { return named("acme"); }

  // As a configuration gives it, with a key.
  static cluster::Tenant declared(const std::string& key) {
    auto tenant = acme();
    tenant.quota.models = {"m"};
    tenant.keys = {{sha256_hex(key), 0, 0}};
    return tenant;
  }
  std::uint64_t revision_of(const std::string& key) {
    const auto entry = store_->get(key).value();
    return entry ? entry->revision : 0;
  }
  // As if the router had not kept it alive.
  void end_lease_of(const std::string& router) {
    const auto entry = store_->get("routers/" + router).value();
    ASSERT_TRUE(entry);
    ASSERT_TRUE(store_->revoke(decode_router(entry->value).value().lease));
  }

  std::shared_ptr<void> needs_;
  std::shared_ptr<storage::StateStore> store_;
  std::unique_ptr<Directory> one_;
  std::unique_ptr<Directory> two_;
};

INSTANTIATE_TEST_SUITE_P(All, DirectoryTest, testing::ValuesIn(storage::kinds_of_store()),
                         [](const auto& info) { return info.param.name; });

TEST_P(DirectoryTest, WhatOneRouterChangesTheOtherSees) {
  Changes changes(*two_);
  ASSERT_TRUE(one_->create_tenant(acme()));
  EXPECT_EQ(one_->tenant("acme"), acme()) << "one's own change is there at once";
  EXPECT_TRUE(changes.wait([&] { return two_->tenant("acme") == acme(); }));
  ASSERT_TRUE(two_->change_tenant("acme", [](cluster::Tenant& tenant) -> Result<void> {
    tenant.suspended = true;
    return {};
  }));
  EXPECT_TRUE(two_->tenant("acme")->suspended);
  Changes back(*one_);
  EXPECT_TRUE(back.wait([&] { return one_->tenant("acme")->suspended; }));
  ASSERT_TRUE(one_->remove_tenant("acme"));
  EXPECT_EQ(one_->tenant("acme"), std::nullopt);
  EXPECT_TRUE(changes.wait([&] { return two_->tenants().empty(); }));
}

TEST_P(DirectoryTest, ARouterThatComesLaterSeesAll) {
  ASSERT_TRUE(one_->create_tenant(acme()));
  ASSERT_TRUE(one_->place({"m", "/m.gguf", {"a"}}));
  const auto three = open(store_, "router-3");
  EXPECT_EQ(three->tenant("acme"), acme());
  EXPECT_THAT(three->placements(), ElementsAre(ModelPlacement{"m", "/m.gguf", {"a"}}));
}

TEST_P(DirectoryTest, RefusesWhatBreaksTheRules) {
  EXPECT_EQ(one_->create_tenant(named("Not A Name")).error().code, ErrorCode::invalid_argument);
  ASSERT_TRUE(one_->create_tenant(acme()));
  EXPECT_EQ(two_->create_tenant(acme()).error().code, ErrorCode::already_exists);
  const auto change = [&](const std::string& name, const auto& what) {
    return one_->change_tenant(name, what).error().code;
  };
  const auto nothing = [](cluster::Tenant&) -> Result<void> { return {}; };
  EXPECT_EQ(change("other", nothing), ErrorCode::not_found);
  EXPECT_EQ(change("acme",
                   [](cluster::Tenant& tenant) -> Result<void> {
                     tenant.quota.sequences = 0;
                     return {};
                   }),
            ErrorCode::invalid_argument);
  EXPECT_EQ(change("acme",
                   [](cluster::Tenant& tenant) -> Result<void> {
                     tenant.name = "other";
                     return {};
                   }),
            ErrorCode::invalid_argument);
  EXPECT_EQ(change("acme",
                   [](cluster::Tenant&) -> Result<void> {
                     return fail(ErrorCode::failed_precondition, "not now");
                   }),
            ErrorCode::failed_precondition);
  EXPECT_EQ(one_->tenant("acme"), acme());
  EXPECT_EQ(one_->remove_tenant("other").error().code, ErrorCode::not_found);
  EXPECT_EQ(one_->unplace("m").error().code, ErrorCode::not_found);
  EXPECT_EQ(Directory::open(store_, "no/name").error().code, ErrorCode::invalid_argument);
}

TEST_P(DirectoryTest, ConflictingChangesAreBothApplied) {
  ASSERT_TRUE(one_->create_tenant(acme()));
  const auto add = [](Directory& directory) {
    for (int i = 0; i < 50; ++i) {
      ASSERT_TRUE(directory.change_tenant("acme", [](cluster::Tenant& tenant) -> Result<void> {
        ++tenant.quota.sequences;
        return {};
      }));
    }
  };
  {
    std::jthread a([&] { add(*one_); }), b([&] { add(*two_); });
  }
  EXPECT_EQ(open(store_, "router-3")->tenant("acme")->quota.sequences, 64u + 100);
  Changes changes(*one_);
  EXPECT_TRUE(changes.wait([&] { return one_->tenant("acme")->quota.sequences == 164; }));
}

TEST_P(DirectoryTest, ARotatedKeyStaysValidForItsGrace) {
  ASSERT_TRUE(one_->create_tenant(acme()));
  const auto old = one_->rotate_key("acme", now_s, 0).value();
  EXPECT_TRUE(std::regex_match(old, std::regex("pl-[A-Za-z0-9_-]{43}"))) << old;
  EXPECT_EQ(one_->find_key(old, now_s)->name, "acme");
  const auto fresh = one_->rotate_key("acme", now_s, 60).value();
  EXPECT_NE(fresh, old);
  EXPECT_TRUE(one_->find_key(old, now_s + 59));
  EXPECT_FALSE(one_->find_key(old, now_s + 60));
  EXPECT_TRUE(one_->find_key(fresh, now_s + 1'000'000));
  // A second rotation does not lengthen the first one's grace, and sweeps up what is over.
  ASSERT_TRUE(one_->rotate_key("acme", now_s + 30, 1000));
  EXPECT_FALSE(one_->find_key(old, now_s + 60));
  ASSERT_TRUE(one_->rotate_key("acme", now_s + 2000, 0));
  EXPECT_EQ(one_->tenant("acme")->keys.size(), 1u);
  EXPECT_FALSE(one_->find_key(fresh, now_s + 2000));

  EXPECT_FALSE(one_->find_key("", now_s));
  EXPECT_FALSE(one_->find_key("pl-", now_s));
  EXPECT_EQ(one_->rotate_key("other", now_s, 0).error().code, ErrorCode::not_found);
  const auto last = one_->rotate_key("acme", now_s + 2000, 0).value();
  ASSERT_TRUE(one_->remove_tenant("acme"));
  EXPECT_FALSE(one_->find_key(last, now_s + 2000));
}

TEST_P(DirectoryTest, KeysAreNowhereInTheStore) {
  ASSERT_TRUE(one_->create_tenant(acme()));
  const std::set<std::string> secrets{one_->rotate_key("acme", now_s, 0).value(),
                                      one_->create_join_token(now_s, 60).value()};
  const auto entries = store_->list("").value();
  for (const auto& entry : entries) {
    for (const auto& secret : secrets) {
      EXPECT_EQ((entry.key + entry.value).find(secret.substr(4)), std::string::npos);
    }
  }
}

TEST_P(DirectoryTest, KeysCannotBeHeapedUp) {
  ASSERT_TRUE(one_->create_tenant(acme()));
  Result<std::string> last = std::string();
  for (int i = 0; last && i < 100; ++i) last = one_->rotate_key("acme", now_s, 60);
  ASSERT_FALSE(last);
  EXPECT_EQ(last.error().code, ErrorCode::resource_exhausted);
  EXPECT_TRUE(one_->rotate_key("acme", now_s + 60, 0));
}

TEST_P(DirectoryTest, ADeclarationIsAppliedOnceAndWhenItChanges) {
  auto tenant = declared("first");
  tenant.keys[0].created_s = 7;  // whatever is said: it is the configuration's
  ASSERT_TRUE(one_->declare_tenant(tenant));
  tenant.keys[0].created_s = 0;
  EXPECT_EQ(one_->find_key("first", now_s)->quota, tenant.quota);
  const auto digest = one_->tenant("acme")->declared;
  EXPECT_EQ(digest.size(), 64u);

  // What changes at run time holds, over a restart with the same configuration too.
  ASSERT_TRUE(one_->change_tenant("acme", [](cluster::Tenant& t) -> Result<void> {
    t.suspended = true;
    t.quota.sequences = 3;
    return {};
  }));
  const auto fresh = one_->rotate_key("acme", now_s, 60).value();
  EXPECT_EQ(one_->tenant("acme")->declared, digest);
  EXPECT_EQ(one_->tenant("acme")->keys[0], (cluster::ApiKey{sha256_hex("first"), 0, now_s + 60}));
  const auto before = revision_of("config/tenants/acme");
  ASSERT_TRUE(two_->declare_tenant(tenant));
  EXPECT_EQ(revision_of("config/tenants/acme"), before) << "nothing new: nothing written";
  EXPECT_EQ(two_->tenant("acme")->quota.sequences, 3u) << "and it is known at once";

  auto changed = declared("second");
  changed.tier = cluster::Tier::guaranteed;
  changed.is_operator = true;
  changed.quota.sequences = 5;
  ASSERT_TRUE(one_->declare_tenant(changed));
  const auto now = one_->tenant("acme").value();
  EXPECT_EQ(now.tier, cluster::Tier::guaranteed);
  EXPECT_TRUE(now.is_operator);
  EXPECT_FALSE(now.suspended);
  EXPECT_EQ(now.quota, changed.quota);
  EXPECT_NE(now.declared, digest);
  EXPECT_EQ(now.keys, (std::vector<cluster::ApiKey>{{sha256_hex("second"), 0, 0},
                                                    {sha256_hex(fresh), now_s, 0}}));
  EXPECT_FALSE(one_->find_key("first", now_s));
  EXPECT_TRUE(one_->find_key("second", now_s));
  EXPECT_TRUE(one_->find_key(fresh, now_s)) << "it was made at run time";

  EXPECT_EQ(one_->declare_tenant(named("Not A Name")).error().code, ErrorCode::invalid_argument);
}

TEST_P(DirectoryTest, RoutersMayDeclareTheSameAtTheSameMoment) {
  for (int round = 0; round < 10; ++round) {
    auto tenant = declared("key");
    tenant.quota.sequences = 10 + static_cast<std::uint32_t>(round);
    std::atomic<int> good = 0;
    const auto declare = [&](Directory& directory) {
      if (directory.declare_tenant(tenant)) ++good;
    };
    {
      std::jthread a([&] { declare(*one_); }), b([&] { declare(*two_); });
    }
    EXPECT_EQ(good, 2);
    EXPECT_EQ(one_->tenant("acme"), two_->tenant("acme"));
    EXPECT_EQ(one_->tenant("acme")->quota, tenant.quota);
    EXPECT_EQ(one_->tenant("acme")->keys, tenant.keys);
  }
}

TEST_P(DirectoryTest, AJoinTokenLetsOneNodeIn) {
  const auto token = one_->create_join_token(now_s, 60).value();
  EXPECT_TRUE(std::regex_match(token, std::regex("plj-[A-Za-z0-9_-]{43}"))) << token;
  EXPECT_EQ(two_->join_tokens().value().size(), 1u);
  EXPECT_EQ(two_->join_tokens().value()[0].expires_s, now_s + 60);
  EXPECT_EQ(two_->admit_node("n", "plj-wrong", now_s).error().code, ErrorCode::permission_denied);
  EXPECT_EQ(two_->admit_node("n/", token, now_s).error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(two_->admit_node("n", token, now_s + 60).error().code, ErrorCode::permission_denied);
  const auto secret = two_->admit_node("n", token, now_s).value();
  EXPECT_TRUE(two_->check_node("n", secret));
  EXPECT_FALSE(two_->check_node("n", token));
  EXPECT_FALSE(two_->check_node("m", secret));
  EXPECT_EQ(two_->admit_node("m", token, now_s).error().code, ErrorCode::permission_denied);
  EXPECT_THAT(two_->join_tokens().value(), IsEmpty());

  const auto second = one_->create_join_token(now_s, 60).value();
  EXPECT_EQ(two_->admit_node("n", second, now_s).error().code, ErrorCode::already_exists);
  EXPECT_TRUE(two_->admit_node("m", second, now_s)) << "a refusal spends no token";

  ASSERT_TRUE(two_->set_cordoned("n", true));
  EXPECT_TRUE(two_->nodes().back().cordoned);
  EXPECT_TRUE(two_->check_node("n", secret));
  ASSERT_TRUE(two_->remove_node("n"));
  EXPECT_FALSE(two_->check_node("n", secret));
  EXPECT_EQ(two_->nodes().size(), 1u);
  EXPECT_EQ(two_->set_cordoned("n", true).error().code, ErrorCode::not_found);
}

TEST_P(DirectoryTest, ANodeIsWelcomeAgainAndKeepsItsRecord) {
  EXPECT_EQ(one_->welcome_node("n/", now_s).error().code, ErrorCode::invalid_argument);
  const auto first = one_->welcome_node("n", now_s).value();
  EXPECT_TRUE(one_->check_node("n", first));
  ASSERT_TRUE(one_->set_cordoned("n", true));
  ASSERT_TRUE(one_->set_drain("n", 1000 * now_s));
  const auto second = one_->welcome_node("n", now_s + 5).value();
  EXPECT_FALSE(one_->check_node("n", first));
  EXPECT_TRUE(one_->check_node("n", second));
  EXPECT_THAT(one_->nodes(),
              ElementsAre(NodeRecord{"n", sha256_hex(second), true, now_s, 1000 * now_s}));
  ASSERT_TRUE(one_->set_drain("n", 0));
  EXPECT_EQ(one_->nodes()[0].drain_until_ms, 0u);
  EXPECT_TRUE(one_->nodes()[0].cordoned);
  EXPECT_EQ(one_->set_drain("m", 1).error().code, ErrorCode::not_found);
}

TEST_P(DirectoryTest, ARevokedJoinTokenLetsNobodyIn) {
  const auto token = one_->create_join_token(now_s, 60).value();
  const auto id = one_->join_tokens().value()[0].id;
  EXPECT_EQ(one_->revoke_join_token("0").error().code, ErrorCode::not_found);
  ASSERT_TRUE(one_->revoke_join_token(id));
  EXPECT_EQ(one_->admit_node("n", token, now_s).error().code, ErrorCode::permission_denied);
  EXPECT_EQ(one_->create_join_token(now_s, 0).error().code, ErrorCode::invalid_argument);
}

TEST_P(DirectoryTest, UnderARaceAJoinTokenIsSpentOnce) {
  for (int round = 0; round < 20; ++round) {
    const auto token = one_->create_join_token(now_s, 60).value();
    std::atomic<int> admitted = 0, refused = 0;
    const auto join = [&](Directory& directory, const std::string& name) {
      const auto secret = directory.admit_node(name + std::to_string(round), token, now_s);
      if (secret) ++admitted;
      if (!secret && secret.error().code == ErrorCode::permission_denied) ++refused;
    };
    {
      std::jthread a([&] { join(*one_, "a"); }), b([&] { join(*two_, "b"); });
    }
    EXPECT_EQ(admitted, 1);
    EXPECT_EQ(refused, 1);
  }
  EXPECT_EQ(open(store_, "router-3")->nodes().size(), 20u);
}

TEST_P(DirectoryTest, RoutersThatAreAliveAreSeen) {
  RouterRecord first{"router-1", "10.0.0.1:7000", "plimsoll 1", 2, 3.5};
  const RouterRecord second{"router-2", "10.0.0.2:7000", "plimsoll 1", 0, 0};
  EXPECT_EQ(one_->announce_router(second).error().code, ErrorCode::invalid_argument);
  ASSERT_TRUE(one_->announce_router(first));
  ASSERT_TRUE(two_->announce_router(second));
  EXPECT_THAT(one_->routers().value(), ElementsAre(first, second));
  const auto written = revision_of("routers/router-1");
  ASSERT_TRUE(one_->announce_router(first));
  EXPECT_EQ(revision_of("routers/router-1"), written) << "nothing new: nothing written";
  first.streams = 9;
  ASSERT_TRUE(one_->announce_router(first));
  EXPECT_THAT(two_->routers().value(), ElementsAre(first, second));
  two_->retire_router();
  two_->retire_router();
  EXPECT_THAT(one_->routers().value(), ElementsAre(first));
  ASSERT_TRUE(two_->announce_router(second));
  EXPECT_EQ(one_->routers().value().size(), 2u);
}

TEST_P(DirectoryTest, ARoutersNameIsItsOwnWhileItLives) {
  const RouterRecord own{"router-1", "10.0.0.1:7000", "plimsoll 1", 0, 0};
  auto others = own;
  others.address = "10.0.0.9:7000";
  auto namesake = open(store_, "router-1");
  ASSERT_TRUE(one_->announce_router(own));
  for (const auto& announced : {others, own}) {  // a namesake that looks the same is another too
    const auto refused = namesake->announce_router(announced);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::already_exists);
    EXPECT_GT(refused.error().retry_after_ms, 0u);
  }
  namesake->retire_router();  // what is not its own
  EXPECT_THAT(two_->routers().value(), ElementsAre(own));
  // Lost and still free: taken again, though the record is the same.
  end_lease_of("router-1");
  EXPECT_THAT(two_->routers().value(), IsEmpty());
  ASSERT_TRUE(one_->announce_router(own));
  EXPECT_THAT(two_->routers().value(), ElementsAre(own));
  // Lost to another.
  end_lease_of("router-1");
  ASSERT_TRUE(namesake->announce_router(others));
  EXPECT_EQ(one_->announce_router(own).error().code, ErrorCode::already_exists);
  one_->retire_router();
  EXPECT_THAT(two_->routers().value(), ElementsAre(others));
}

TEST_P(DirectoryTest, OfRoutersOfOneNameOneIsAnnounced) {
  auto namesake = open(store_, "router-1");
  for (int round = 0; round < 10; ++round) {
    std::atomic<int> good = 0, refused = 0;
    const auto announce = [&](Directory& directory, const std::string& address) {
      const auto done = directory.announce_router({"router-1", address, "", 0, 0});
      if (done) ++good;
      if (!done && done.error().code == ErrorCode::already_exists) ++refused;
    };
    {
      std::jthread a([&] { announce(*one_, "a"); }), b([&] { announce(*namesake, "b"); });
    }
    EXPECT_EQ(good, 1);
    EXPECT_EQ(refused, 1);
    one_->retire_router();
    namesake->retire_router();
    EXPECT_THAT(two_->routers().value(), IsEmpty());
  }
}

TEST_P(DirectoryTest, UsageOfAllRoutersIsSummedAndGoesOn) {
  const cluster::Usage a{1, 10, 2, 20, 1.5, 3, 0.5, {{"tenant_rate", 1}}};
  const cluster::Usage b{2, 20, 0, 30, 2.5, 0, 7, {{"shed", 4}}};
  ASSERT_TRUE(one_->save_usage({{"acme", a}}));
  ASSERT_TRUE(two_->save_usage({{"acme", b}, {"other", a}}));
  cluster::Usage sum = a;
  sum += b;
  const std::map<std::string, cluster::Usage> all{{"acme", sum}, {"other", a}};
  EXPECT_EQ(one_->usage().value(), all);

  one_ = open(store_, "router-1");
  EXPECT_EQ(one_->own_usage(), (std::map<std::string, cluster::Usage>{{"acme", a}}));
  auto more = one_->own_usage();
  more["acme"] += a;
  ASSERT_TRUE(one_->save_usage(more));
  two_.reset();  // a router that is gone still counts
  sum += a;
  EXPECT_EQ(one_->usage().value().at("acme"), sum);
}

TEST_P(DirectoryTest, UsageOfManyTenantsIsWrittenWhereItChanged) {
  // More than one record has room for.
  std::map<std::string, cluster::Usage> all;
  for (int i = 0; i < 20'000; ++i) {
    all["tenant-" + std::to_string(i)] = {1ULL << 40,    1ULL << 50, 3, 4,
                                          1.0 / (i + 3), 0,          0, {{"shed", 9}}};
  }
  ASSERT_TRUE(one_->save_usage(all));
  const auto revisions = [&] {
    std::map<std::string, std::uint64_t> out;
    const auto entries = store_->list("usage/router-1/").value();
    for (const auto& entry : entries) {
      out[entry.key] = entry.revision;
      EXPECT_LT(entry.value.size(), 64u << 10);
    }
    return out;
  };
  const auto before = revisions();
  EXPECT_EQ(before.size(), 64u);
  EXPECT_EQ(one_->usage().value(), all);
  ASSERT_TRUE(one_->save_usage(all));
  EXPECT_EQ(revisions(), before);
  ++all["tenant-7"].requests;
  ASSERT_TRUE(one_->save_usage(all));
  const auto after = revisions();
  int written = 0;
  for (const auto& [key, revision] : after) written += revision != before.at(key);
  EXPECT_EQ(written, 1);
  EXPECT_EQ(open(store_, "router-1")->own_usage(), all);
  EXPECT_THAT(open(store_, "router")->own_usage(), IsEmpty());
}

TEST_P(DirectoryTest, RoutersDivideAQuotaByTheirLeases) {
  std::uint64_t now_ms = now_s * 1000;
  double first = 0, second = 0;
  for (int i = 0; i < 20; ++i, now_ms += 1000) {
    first = one_->renew_lease("acme", 1, first, now_ms).value().share;
    second = two_->renew_lease("acme", 1, second, now_ms).value().share;
    EXPECT_LE(first + second, 1 + 1e-9);
  }
  EXPECT_GT(first, 0.3);
  EXPECT_GT(second, 0.3);
  EXPECT_EQ(one_->tenants().size(), 0u);
}

TEST_P(DirectoryTest, ABadRecordStopsNothingAndCanBeRemoved) {
  ASSERT_TRUE(one_->create_tenant(acme()));
  ASSERT_TRUE(store_->put("config/tenants/bad", "no record"));
  ASSERT_TRUE(store_->put("config/later/kind", "of a newer build"));
  const auto three = open(store_, "router-3");
  EXPECT_EQ(three->tenants().size(), 1u);
  EXPECT_EQ(three->change_tenant("bad", [](auto&) { return Result<void>(); }).error().code,
            ErrorCode::malformed);
  EXPECT_EQ(three->create_tenant(named("bad")).error().code, ErrorCode::already_exists);
  ASSERT_TRUE(three->remove_tenant("bad"));
  EXPECT_TRUE(three->create_tenant(named("bad")));
  ASSERT_TRUE(store_->put("usage/router-1/5", "no record"));
  EXPECT_EQ(Directory::open(store_, "router-1").error().code, ErrorCode::malformed);
}

}  // namespace
}  // namespace plimsoll
