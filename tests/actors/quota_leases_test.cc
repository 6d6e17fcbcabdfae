// Tenants whose quota several routers share: what waits for a share, and how shares come and go.
#include "actors/quota_leases.h"

#include <gtest/gtest.h>

#include <condition_variable>
#include <stop_token>

#include "actors/router_call.h"
#include "tests/actors/house.h"

namespace plimsoll {
namespace {

using std::chrono::milliseconds;
using testing::House;
using testing::HouseOptions;

constexpr std::chrono::seconds patience{20};

cluster::Tenant tenant(const std::string& name, cluster::Quota quota = {}) {
  cluster::Tenant tenant;
  tenant.name = name;
  tenant.quota = std::move(quota);
  return tenant;
}

template <class Run>
void in_house(House& house, Run run) {
  const auto done = call_router(house.router, std::move(run));
  EXPECT_TRUE(done) << to_string(done.error());
}
void set_tenant(House& house, cluster::Tenant tenant) {
  in_house(house, [tenant](auto& core, auto now, auto&) { core.set_tenant(tenant, now); });
}
void give_share(House& house, const std::string& name) {
  in_house(house, [name](auto& core, auto now, auto&) {
    core.quotas().set_share(name, 1, cluster::Quotas::no_expiry, now);
  });
}
double share(House& house, const std::string& name) {
  auto part = std::make_shared<double>();
  in_house(house, [=](auto& core, auto now, auto&) {
    *part = core.quotas().has_share(name, now) ? core.quotas().in_use(name, now) : 0;
  });
  return *part;
}
// False if it does not become true in a generous time.
template <class Condition>
bool becomes(Condition condition) {
  const auto until = std::chrono::steady_clock::now() + patience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > until) return false;
    std::this_thread::sleep_for(milliseconds(5));
  }
  return true;
}

// ---- requests that wait in the router

// A router whose shares come from the test, and what it said to whom.
class HeldRequests : public ::testing::Test {
 protected:
  void build(milliseconds lease_patience = patience) {
    HouseOptions options;
    options.want_share = [this](const std::string& tenant) {
      const std::lock_guard lock(mutex_);
      wants_.push_back(tenant);
    };
    options.lease_patience = lease_patience;
    house_.emplace(options);
    sink_ = house_->system.spawn([this]() -> StreamSink::behavior_type {
      return {[](const RateLimits&) {},
              [this](const StreamEvents& message) {
                const std::lock_guard lock(mutex_);
                for (const auto& event : message.events) {
                  if (event.finish) ends_.emplace(event.id.get(), event);
                }
                ended_.notify_all();
              }};
    });
  }
  void TearDown() override {
    caf::anon_send_exit(sink_, caf::exit_reason::user_shutdown);
    sink_ = nullptr;
    house_.reset();
  }

  void submit(std::vector<std::uint64_t> ids, const std::string& tenant = "local",
              std::uint32_t deadline_ms = 20'000) {
    SubmitStream stream;
    stream.tenant = TenantId(tenant);
    stream.model = "m";
    stream.prompt = {static_cast<TokenId>(ids.front())};
    stream.max_new_tokens = 1;
    stream.deadline_ms = deadline_ms;
    for (const auto id : ids) {
      SequenceSpec spec;
      spec.id = RequestId(id);
      spec.credit = 10;
      stream.sequences.push_back(std::move(spec));
    }
    caf::anon_send(house_->router, std::move(stream), sink_);
    house_->settle();
  }
  // How a sequence ended, once it has.
  SequenceEvent end_of(std::uint64_t id) {
    std::unique_lock lock(mutex_);
    const bool ended = ended_.wait_for(lock, patience, [&] { return ends_.contains(id); });
    EXPECT_TRUE(ended) << id;
    return ended ? ends_.at(id) : SequenceEvent();
  }
  ErrorCode error_of(std::uint64_t id) {
    const auto end = end_of(id);
    return end.error ? end.error->code : ErrorCode::internal;
  }
  std::vector<std::string> wants() {
    const std::lock_guard lock(mutex_);
    return wants_;
  }
  std::vector<TokenId> started() const {  // the first token of each prompt
    std::vector<TokenId> out;
    for (const auto& request : house_->engines[0]->requests()) out.push_back(request.prompt[0]);
    return out;
  }

  std::mutex mutex_;
  std::condition_variable ended_;
  std::vector<std::string> wants_;
  std::map<std::uint64_t, SequenceEvent> ends_;
  std::optional<House> house_;
  StreamSink sink_;
};

TEST_F(HeldRequests, StartInTheOrderTheyCameOnceThereIsAShare) {
  build();
  for (std::uint64_t id = 1; id <= 5; ++id) submit({id});
  EXPECT_TRUE(started().empty());
  EXPECT_EQ(wants(), std::vector<std::string>{"local"}) << "once while requests wait";
  give_share(*house_, "local");
  for (std::uint64_t id = 1; id <= 5; ++id) EXPECT_EQ(end_of(id).finish, FinishReason::length);
  EXPECT_EQ(started(), (std::vector<TokenId>{1, 2, 3, 4, 5}));
  submit({6});
  EXPECT_EQ(end_of(6).finish, FinishReason::length);
  EXPECT_EQ(wants().size(), 1U);
}

TEST_F(HeldRequests, OfOneTenantHoldUpNoOther) {
  build();
  set_tenant(*house_, tenant("other"));
  submit({1});
  submit({2}, "other");
  EXPECT_EQ(wants(), (std::vector<std::string>{"local", "other"}));
  give_share(*house_, "other");
  EXPECT_EQ(end_of(2).finish, FinishReason::length);
  EXPECT_EQ(started(), std::vector<TokenId>{2});
}

TEST_F(HeldRequests, CanBeCancelledOneSequenceAtATime) {
  build();
  submit({1, 2});
  submit({3});
  caf::anon_send(house_->router, CancelSequences{{RequestId(1), RequestId(3)}});
  EXPECT_EQ(end_of(1).finish, FinishReason::cancelled);
  EXPECT_EQ(end_of(3).finish, FinishReason::cancelled);
  give_share(*house_, "local");
  EXPECT_EQ(end_of(2).finish, FinishReason::length);
  EXPECT_EQ(started(), std::vector<TokenId>{1}) << "one sequence of the first prompt";
}

TEST_F(HeldRequests, KeepTheirDeadlines) {
  build();
  submit({1}, "local", 30);
  submit({2});
  EXPECT_EQ(error_of(1), ErrorCode::deadline_exceeded);
  give_share(*house_, "local");
  EXPECT_EQ(end_of(2).finish, FinishReason::length);
}

TEST_F(HeldRequests, AreRefusedWhenTheirPatienceEnds) {
  build(milliseconds(30));
  submit({1});
  const auto end = end_of(1);
  ASSERT_TRUE(end.error);
  EXPECT_EQ(end.error->code, ErrorCode::resource_exhausted);
  EXPECT_EQ(end.error->reason, "tenant_lease");
  EXPECT_GT(end.error->retry_after_ms, 0U);
  submit({2});
  EXPECT_EQ(wants().size(), 2U) << "who waits anew asks anew";
}

TEST_F(HeldRequests, EndWhenTheRouterStops) {
  build();
  submit({1});
  caf::anon_send(house_->router, EndAllAtom::value);
  EXPECT_EQ(error_of(1), ErrorCode::unavailable);
  submit({2});
  caf::anon_send(house_->router, Drain{1000});
  EXPECT_EQ(error_of(2), ErrorCode::unavailable);
  submit({3});
  EXPECT_EQ(error_of(3), ErrorCode::unavailable);
}

TEST_F(HeldRequests, AreOnlyThoseThatAShareCouldHelp) {
  build();
  auto suspended = tenant("suspended");
  suspended.suspended = true;
  set_tenant(*house_, suspended);
  submit({1}, "suspended");
  submit({2}, "nobody");
  EXPECT_EQ(error_of(1), ErrorCode::permission_denied);
  EXPECT_EQ(error_of(2), ErrorCode::permission_denied);
  EXPECT_TRUE(wants().empty());
}

TEST_F(HeldRequests, EndWithTheirTenant) {
  build();
  submit({1});
  in_house(*house_, [](auto& core, auto, auto&) { core.remove_tenant("local"); });
  EXPECT_EQ(error_of(1), ErrorCode::permission_denied);
}

TEST_F(HeldRequests, MayBeEmbeddings) {
  build();
  auto answer = std::async(std::launch::async, [&] {
    EmbedRequest request;
    request.model = "e";
    request.inputs = {std::string("abc")};
    return house_->embed(std::move(request));
  });
  ASSERT_TRUE(becomes([&] { return !wants().empty(); }));
  give_share(*house_, "local");
  const auto embedded = answer.get();
  ASSERT_TRUE(embedded) << to_string(embedded.error());
  EXPECT_EQ(embedded->embeddings.size(), 1U);
}

TEST(OneRouter, HasAllOfTheQuotaOfATenantThatComesLater) {
  House house;
  set_tenant(house, tenant("late", {.requests_per_second = 0.01, .burst_seconds = 100}));
  EXPECT_EQ(share(house, "late"), 1);
  house.caller.tenant = TenantId("late");
  const auto answer = house.generate("abc", 3);
  ASSERT_TRUE(answer->wait());
  EXPECT_FALSE(answer->error) << to_string(*answer->error);
}

// ---- shares from the store

// A store that can be out of reach.
class ShakyStore final : public storage::StateStore {
 public:
  Result<std::optional<storage::StateEntry>> get(const std::string& key) override {
    ++calls;
    if (down) return lost();
    return store_->get(key);
  }
  Result<std::vector<storage::StateEntry>> list(const std::string& prefix) override {
    if (down) return lost();
    return store_->list(prefix);
  }
  Result<std::uint64_t> put(const std::string& key, const std::string& value,
                            std::optional<std::uint64_t> expected,
                            storage::LeaseId lease) override {
    if (on_put) on_put();
    if (down) return lost();
    return store_->put(key, value, expected, lease);
  }
  Result<void> remove(const std::string& key, std::optional<std::uint64_t> expected) override {
    return store_->remove(key, expected);
  }
  Result<storage::LeaseId> grant(milliseconds ttl) override { return store_->grant(ttl); }
  Result<void> keep_alive(storage::LeaseId lease) override { return store_->keep_alive(lease); }
  Result<void> revoke(storage::LeaseId lease) override { return store_->revoke(lease); }
  std::unique_ptr<Watch> watch(const std::string& prefix, WatchCallback callback) override {
    return store_->watch(prefix, std::move(callback));
  }

  std::atomic<bool> down{false};
  std::atomic<int> calls{0};
  std::function<void()> on_put;  // set before the store is in use

 private:
  static tl::unexpected<Error> lost() { return fail(ErrorCode::unavailable, "no store"); }
  std::unique_ptr<storage::StateStore> store_ = storage::make_memory_store();
};

// A router of several. Its shares are renewed when the test says so, or by a thread.
class Site {
 public:
  Site(const std::shared_ptr<storage::StateStore>& store, const std::string& name,
       QuotaLeasesConfig config = {}, milliseconds lease_patience = patience)
      : directory_(*Directory::open(store, name)),
        leases_(
            *directory_, [this] { wake(); }, std::move(config)) {
    HouseOptions options;
    options.want_share = [this](const std::string& tenant) { leases_.want(tenant); };
    options.lease_patience = lease_patience;
    house_.emplace(options);
    house_->caller.tenant = TenantId("t");
  }
  ~Site() { thread_ = {}; }

  House& house() { return *house_; }
  QuotaLeases& leases() { return leases_; }
  void renew() { leases_.renew(house_->router); }
  void keep_renewing() {
    thread_ = std::jthread([this](const std::stop_token& stop) {
      while (!stop.stop_requested()) {
        renew();
        std::unique_lock lock(mutex_);
        woken_.wait_for(lock, stop, milliseconds(20), [this] { return wanted_; });
        wanted_ = false;
      }
    });
  }
  bool wait_for_want() {
    std::unique_lock lock(mutex_);
    return woken_.wait_for(lock, patience, [this] { return std::exchange(wanted_, false); });
  }
  // What a request of one token ends with.
  std::string ask() {
    const auto answer = house_->generate("x", 1);
    if (!answer->wait()) return "no end";
    return answer->error ? answer->error->reason : "served";
  }

 private:
  void wake() {
    const std::lock_guard lock(mutex_);
    wanted_ = true;
    woken_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable_any woken_;
  bool wanted_ = false;
  std::unique_ptr<Directory> directory_;
  QuotaLeases leases_;
  std::optional<House> house_;
  std::jthread thread_;
};

TEST(QuotaLeases, TheFirstRequestOnAnotherRouterWaitsAndIsServed) {
  const auto store = std::make_shared<ShakyStore>();
  Site one(store, "router-1"), two(store, "router-2");
  for (Site* site : {&one, &two}) {
    set_tenant(site->house(), tenant("t", {.requests_per_second = 1, .burst_seconds = 10}));
    const auto answer = site->house().generate("abc", 3);
    ASSERT_TRUE(site->wait_for_want());
    site->house().settle();
    EXPECT_TRUE(site->house().engines[0]->requests().empty());
    site->renew();
    ASSERT_TRUE(answer->wait());
    EXPECT_FALSE(answer->error) << to_string(*answer->error);
  }
  const double first = share(one.house(), "t"), second = share(two.house(), "t");
  EXPECT_GT(first, 0.5);
  EXPECT_GT(second, 0);
  EXPECT_LE(first + second, 1 + 1e-9);
}

TEST(QuotaLeases, RoutersTogetherGiveNoMoreThanTheQuota) {
  const auto store = std::make_shared<ShakyStore>();
  const QuotaLeasesConfig config{{.duration_ms = 600, .clock_skew_ms = 50}};
  Site one(store, "router-1", config), two(store, "router-2", config);
  const double rate = 100, burst = 10;
  const auto began = std::chrono::steady_clock::now();
  std::atomic<int> served{0};
  std::map<std::string, int> ends[2];
  std::vector<std::jthread> clients;
  for (int i = 0; i < 2; ++i) {
    Site& site = i == 0 ? one : two;
    set_tenant(site.house(),
               tenant("t", {.requests_per_second = rate, .burst_seconds = burst / rate}));
    site.keep_renewing();
    clients.emplace_back([&, i] {
      while (std::chrono::steady_clock::now() < began + std::chrono::seconds(1)) {
        const auto end = site.ask();
        ++ends[i][end];
        if (end == "served") ++served;
      }
    });
  }
  clients.clear();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
  EXPECT_LE(served, burst + rate * took.count() + 2) << "one request a router may be too large";
  for (const auto& each : ends) {
    EXPECT_GT(each.at("served"), 0);
    for (const auto& [end, count] : each) {
      EXPECT_TRUE(end == "served" || end == "tenant_requests_rate") << end;
    }
  }
}

TEST(QuotaLeases, SharesRunOutWithTheStoreAndComeBackWithIt) {
  const auto store = std::make_shared<ShakyStore>();
  const QuotaLeasesConfig config{{.duration_ms = 200, .clock_skew_ms = 50}};
  Site site(store, "router-1", config, milliseconds(100));
  set_tenant(site.house(), tenant("t"));
  site.keep_renewing();
  EXPECT_TRUE(becomes([&] { return site.ask() == "served"; }));
  store->down = true;
  EXPECT_TRUE(becomes([&] { return site.ask() == "tenant_lease"; }));
  EXPECT_EQ(site.ask(), "tenant_lease");
  EXPECT_GT(site.leases().failures(), 0U);
  store->down = false;
  EXPECT_TRUE(becomes([&] { return site.ask() == "served"; }));
}

TEST(QuotaLeases, AnIdleTenantsShareGoesToTheOtherRouter) {
  const auto store = std::make_shared<ShakyStore>();
  QuotaLeasesConfig config{{.duration_ms = 300, .clock_skew_ms = 20}};
  config.idle = milliseconds(50);
  Site idle(store, "router-1", config);
  config.idle = patience;
  Site busy(store, "router-2", config);
  for (Site* site : {&idle, &busy}) {
    set_tenant(site->house(), tenant("t"));
    site->keep_renewing();
    EXPECT_EQ(site->ask(), "served");
  }
  EXPECT_TRUE(becomes([&] { return share(busy.house(), "t") > 0.9; }));
  EXPECT_EQ(share(idle.house(), "t"), 0);
  const auto renewals = idle.leases().renewals();
  idle.renew();
  EXPECT_EQ(idle.leases().renewals(), renewals);
  EXPECT_EQ(idle.ask(), "served") << "it asks again when it is asked again";
}

TEST(QuotaLeases, AStreamThatRunsKeepsItsPart) {
  const auto store = std::make_shared<ShakyStore>();
  QuotaLeasesConfig config{{.duration_ms = 100}};
  config.idle = milliseconds(0);
  Site site(store, "router-1", config);
  set_tenant(site.house(), tenant("t"));
  site.house().engines[0]->hold = true;
  const auto answer = site.house().generate("abc", 3);
  ASSERT_TRUE(site.wait_for_want());
  site.renew();
  const auto renewals = site.leases().renewals();
  EXPECT_EQ(renewals, 1U);
  EXPECT_TRUE(becomes([&] {
    site.renew();
    return site.leases().renewals() > renewals + 2;
  }));
  site.house().engines[0]->hold = false;
  ASSERT_TRUE(answer->wait());
  EXPECT_FALSE(answer->error);
}

TEST(QuotaLeases, AClockThatJumpsExtendsNoShare) {
  const auto store = std::make_shared<ShakyStore>();
  std::atomic<std::uint64_t> unix_ms{1'800'000'000'000};
  store->on_put = [&] { unix_ms -= 3'600'000; };
  QuotaLeasesConfig config{{.duration_ms = 200}};
  config.unix_ms = [&] { return unix_ms.load(); };
  Site site(store, "router-1", config);
  set_tenant(site.house(), tenant("t"));
  const auto answer = site.house().generate("abc", 3);
  ASSERT_TRUE(site.wait_for_want());
  site.renew();
  ASSERT_TRUE(answer->wait());
  EXPECT_FALSE(answer->error);
  EXPECT_TRUE(becomes([&] { return share(site.house(), "t") == 0; }));
}

TEST(QuotaLeases, ABadRecordStopsItsTenantOnly) {
  const auto store = std::make_shared<ShakyStore>();
  ASSERT_TRUE(store->put("quota_leases/bad", "no record", {}, 0));
  Site site(store, "router-1");
  set_tenant(site.house(), tenant("bad"));
  set_tenant(site.house(), tenant("t"));
  site.leases().want("bad");
  site.leases().want("t");
  site.renew();
  EXPECT_EQ(share(site.house(), "bad"), 0);
  EXPECT_GT(share(site.house(), "t"), 0.9);
}

TEST(QuotaLeases, AStoreOutOfReachEndsTheRound) {
  const auto store = std::make_shared<ShakyStore>();
  Site site(store, "router-1");
  for (int i = 0; i < 10; ++i) {
    set_tenant(site.house(), tenant("t" + std::to_string(i)));
    site.leases().want("t" + std::to_string(i));
  }
  store->down = true;
  site.renew();
  EXPECT_EQ(site.leases().failures(), 1U) << "each may take seconds to time out";
  store->down = false;
  site.renew();
  EXPECT_EQ(site.leases().renewals(), 10U);
}

}  // namespace
}  // namespace plimsoll
