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

class DirectoryTest : public testing::Test {
 protected:
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

  std::shared_ptr<storage::StateStore> store_ = storage::make_memory_store();
  std::unique_ptr<Directory> one_ = open(store_, "router-1");
  std::unique_ptr<Directory> two_ = open(store_, "router-2");
};

TEST_F(DirectoryTest, WhatOneRouterChangesTheOtherSees) {
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

TEST_F(DirectoryTest, ARouterThatComesLaterSeesAll) {
  ASSERT_TRUE(one_->create_tenant(acme()));
  ASSERT_TRUE(one_->place({"m", "/m.gguf", {"a"}}));
  const auto three = open(store_, "router-3");
  EXPECT_EQ(three->tenant("acme"), acme());
  EXPECT_THAT(three->placements(), ElementsAre(ModelPlacement{"m", "/m.gguf", {"a"}}));
}

TEST_F(DirectoryTest, RefusesWhatBreaksTheRules) {
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

TEST_F(DirectoryTest, ConflictingChangesAreBothApplied) {
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

TEST_F(DirectoryTest, ARotatedKeyStaysValidForItsGrace) {
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

TEST_F(DirectoryTest, KeysAreNowhereInTheStore) {
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

TEST_F(DirectoryTest, KeysCannotBeHeapedUp) {
  ASSERT_TRUE(one_->create_tenant(acme()));
  Result<std::string> last = std::string();
  for (int i = 0; last && i < 100; ++i) last = one_->rotate_key("acme", now_s, 60);
  ASSERT_FALSE(last);
  EXPECT_EQ(last.error().code, ErrorCode::resource_exhausted);
  EXPECT_TRUE(one_->rotate_key("acme", now_s + 60, 0));
}

TEST_F(DirectoryTest, AJoinTokenLetsOneNodeIn) {
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

TEST_F(DirectoryTest, ARevokedJoinTokenLetsNobodyIn) {
  const auto token = one_->create_join_token(now_s, 60).value();
  const auto id = one_->join_tokens().value()[0].id;
  EXPECT_EQ(one_->revoke_join_token("0").error().code, ErrorCode::not_found);
  ASSERT_TRUE(one_->revoke_join_token(id));
  EXPECT_EQ(one_->admit_node("n", token, now_s).error().code, ErrorCode::permission_denied);
  EXPECT_EQ(one_->create_join_token(now_s, 0).error().code, ErrorCode::invalid_argument);
}

TEST_F(DirectoryTest, UnderARaceAJoinTokenIsSpentOnce) {
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

TEST_F(DirectoryTest, UsageOfAllRoutersIsSummedAndGoesOn) {
  const cluster::Usage a{1, 10, 2, 20, 1.5, {{"tenant_rate", 1}}};
  const cluster::Usage b{2, 20, 0, 30, 2.5, {{"shed", 4}}};
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

TEST_F(DirectoryTest, UnchangedUsageIsNotWrittenAgain) {
  ASSERT_TRUE(one_->save_usage({{"acme", {1, 2, 0, 3, 0, {}}}}));
  const auto before = store_->get("usage/router-1").value()->revision;
  ASSERT_TRUE(one_->save_usage({{"acme", {1, 2, 0, 3, 0, {}}}}));
  EXPECT_EQ(store_->get("usage/router-1").value()->revision, before);
}

TEST_F(DirectoryTest, RoutersDivideAQuotaByTheirLeases) {
  std::uint64_t now_ms = now_s * 1000;
  double first = 0, second = 0;
  for (int i = 0; i < 20; ++i, now_ms += 1000) {
    first = cluster::granted(one_->renew_lease("acme", 1, first, now_ms).value(), "router-1").share;
    second =
        cluster::granted(two_->renew_lease("acme", 1, second, now_ms).value(), "router-2").share;
    EXPECT_LE(first + second, 1 + 1e-9);
  }
  EXPECT_GT(first, 0.3);
  EXPECT_GT(second, 0.3);
  EXPECT_EQ(one_->tenants().size(), 0u);
}

TEST_F(DirectoryTest, ABadRecordStopsNothingAndCanBeRemoved) {
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
  ASSERT_TRUE(store_->put("usage/router-1", "no record"));
  EXPECT_EQ(Directory::open(store_, "router-1").error().code, ErrorCode::malformed);
}

}  // namespace
}  // namespace plimsoll
