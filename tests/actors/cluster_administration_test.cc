// What an operator's calls do to a running cluster.
#include "actors/cluster_administration.h"

#include <gtest/gtest.h>

#include <future>
#include <thread>

#include "actors/registry.h"
#include "actors/secrets.h"
#include "tests/actors/fake_disk_cache.h"
#include "tests/actors/house.h"

namespace plimsoll {
namespace {

using testing::House;

struct Operator {
  explicit Operator(House& house) : house_(house) {
    for (const auto& tenant : House::tenants({})) EXPECT_TRUE(directory.declare_tenant(tenant));
    RecordKeeperConfig keeping;
    keeping.router = house.router;
    keeper.emplace(directory, std::move(keeping));
    RouterView self;
    self.name = "router-0";
    calls.emplace(AdministrationServices{directory, *keeper, models, *house.board, house.ledger,
                                         house.router, self, "memory", false});
    keeper->apply();
  }
  ~Operator() {
    models.stop();
    keeper->stop();
    caf::anon_send_exit(registry, caf::exit_reason::user_shutdown);
  }

  House& house_;
  ServerConfig config;
  ModelSource source = model_files();
  ModelLoader loader{config, source, house_.ledger, std::make_shared<NodeInbox>()};
  RegistryActor registry = spawn_registry(house_.system, house_.board);
  Directory& directory = *house_.directory;
  PlacedModels models{config, loader, *house_.frontend, registry, house_.router};
  std::optional<RecordKeeper> keeper;
  std::optional<ClusterAdministration> calls;
};

std::string state_of(ClusterAdministration& calls, const std::string& name) {
  for (const auto& node : calls.cluster().nodes) {
    if (node.name == name) return node.state;
  }
  return "unknown";
}

TEST(ClusterAdministration, ACordonedNodeTakesNothingNewUntilItIsUncordoned) {
  House house;
  Operator op(house);
  ASSERT_TRUE(op.calls->cordon("node-0", true));
  EXPECT_EQ(state_of(*op.calls, "node-0"), "cordoned");
  const auto refused = house.generate("abc", 3);
  ASSERT_TRUE(refused->wait());
  ASSERT_TRUE(refused->error);
  EXPECT_EQ(refused->error->code, ErrorCode::unavailable);
  EXPECT_TRUE(op.calls->cordon("node-0", true)) << "it is what was wanted";
  ASSERT_TRUE(op.calls->cordon("node-0", false));
  const auto served = house.generate("abc", 3);
  ASSERT_TRUE(served->wait());
  EXPECT_FALSE(served->error);
  EXPECT_EQ(op.calls->cordon("node-9", true).error().code, ErrorCode::not_found);
}

TEST(ClusterAdministration, ADrainedNodesStreamsGoOnElsewhere) {
  House house({.nodes = 2, .step = std::chrono::microseconds(1000)});
  Operator op(house);
  const auto answer = house.generate("abc", 300);
  ASSERT_TRUE(answer->wait_for_tokens(5));
  const std::string busy = house.engines[0]->idle() ? "node-1" : "node-0";
  const auto drained = op.calls->drain(busy, std::chrono::milliseconds(0));
  ASSERT_TRUE(drained) << to_string(drained.error());
  EXPECT_EQ(drained->moved, 1U);
  EXPECT_EQ(drained->cut, 0U);
  EXPECT_EQ(state_of(*op.calls, busy), "draining");
  ASSERT_TRUE(answer->wait());
  EXPECT_FALSE(answer->error);
  std::string expected;
  while (expected.size() < 300) expected += "abc";
  EXPECT_EQ(answer->text.at(0), expected);
  EXPECT_EQ(op.calls->drain(busy, std::chrono::milliseconds(0)).error().code,
            ErrorCode::failed_precondition);
}

TEST(ClusterAdministration, UsageOnlyGrowsAndRefusalsAreCounted) {
  House house;
  Operator op(house);
  house.caller.tenant = TenantId("slow");
  ASSERT_TRUE(house.generate("abcd", 6)->wait());
  ASSERT_TRUE(house.generate("abcd", 6)->wait());
  auto usage = op.calls->usage();
  ASSERT_TRUE(usage);
  EXPECT_EQ(usage->at("slow").requests, 1U);
  EXPECT_EQ(usage->at("slow").prompt_tokens, 4U);
  EXPECT_EQ(usage->at("slow").generated_tokens, 6U);
  EXPECT_EQ(usage->at("slow").rejections.at("tenant_requests_rate"), 1U);
  usage = op.calls->usage();
  ASSERT_TRUE(usage);
  EXPECT_EQ(usage->at("slow").requests, 1U) << "asking does not reset it";
}

TEST(ClusterAdministration, TenantsAndModelsAreShown) {
  House house({.nodes = 2});
  Operator op(house);
  const auto tenants = op.calls->tenants();
  ASSERT_TRUE(tenants);
  ASSERT_EQ(tenants->size(), 2U);
  EXPECT_EQ(tenants->at(0).tenant.name, "local");
  EXPECT_FALSE(tenants->at(0).home.empty());
  EXPECT_EQ(op.calls->tenant("nobody").error().code, ErrorCode::not_found);
}

TEST(ClusterAdministration, ATenantIsServedWithItsKeyAsSoonAsItIsMade) {
  House house;
  Operator op(house);
  cluster::Tenant acme;
  acme.name = "acme";
  acme.quota.sequences = 1;
  const auto key = op.calls->create_tenant(acme);
  ASSERT_TRUE(key) << to_string(key.error());
  const auto caller = house.frontend->authenticate(*key);
  ASSERT_TRUE(caller);
  EXPECT_EQ(caller->tenant.get(), "acme");
  EXPECT_FALSE(caller->is_operator);
  house.caller = *caller;
  const auto served = house.generate("abc", 3);
  ASSERT_TRUE(served->wait());
  EXPECT_FALSE(served->error) << to_string(*served->error);
  EXPECT_EQ(op.calls->create_tenant(acme).error().code, ErrorCode::already_exists);
  for (const char* bad : {"", "UPPER", "shared", "other"}) {
    acme.name = bad;
    EXPECT_EQ(op.calls->create_tenant(acme).error().code, ErrorCode::invalid_argument) << bad;
  }
}

TEST(ClusterAdministration, ChangesOfATenantCountAtOnce) {
  House house;
  Operator op(house);
  const auto refusal = [&]() -> std::string {
    const auto answer = house.generate("abcd", 3);
    EXPECT_TRUE(answer->wait());
    return answer->error ? answer->error->reason : "";
  };
  EXPECT_EQ(refusal(), "");
  cluster::Quota quota;
  quota.prompt_tokens = 3;
  ASSERT_TRUE(op.calls->set_quota("local", quota));
  EXPECT_EQ(refusal(), "tenant_prompt_length");
  ASSERT_TRUE(op.calls->set_quota("local", {}));
  ASSERT_TRUE(op.calls->suspend("local", true));
  EXPECT_EQ(refusal(), "tenant_suspended");
  ASSERT_TRUE(op.calls->suspend("local", false));
  ASSERT_TRUE(op.calls->set_tier("local", cluster::Tier::guaranteed));
  EXPECT_EQ(refusal(), "");
  EXPECT_EQ(op.calls->tenant("local")->tenant.tier, cluster::Tier::guaranteed);
  EXPECT_EQ(op.calls->set_tier("nobody", cluster::Tier::guaranteed).error().code,
            ErrorCode::not_found);
  quota.burst_seconds = -1;
  EXPECT_EQ(op.calls->set_quota("local", quota).error().code, ErrorCode::invalid_argument);
}

struct CachingHouse {
  using OnLoad = decltype(testing::HouseOptions::on_load);
  explicit CachingHouse(OnLoad on_load = {}) : house(options(caches, std::move(on_load))) {}

  static testing::HouseOptions options(std::vector<std::shared_ptr<testing::FakeDiskCache>>& caches,
                                       OnLoad on_load) {
    testing::HouseOptions options;
    options.on_load = std::move(on_load);
    options.nodes = 2;
    options.make_cache = [&caches] {
      caches.push_back(std::make_shared<testing::FakeDiskCache>());
      return std::make_shared<NodeCache>(caches.back(), CacheSettings{});
    };
    return options;
  }
  std::vector<std::shared_ptr<testing::FakeDiskCache>> caches;
  House house;
};

TEST(ClusterAdministration, TheCachesOfAllNodesOrOfOneAreAsked) {
  CachingHouse caching;
  Operator op(caching.house);
  const auto all = op.calls->ask_caches(LookAtCache(), "");
  ASSERT_TRUE(all) << to_string(all.error());
  ASSERT_EQ(all->size(), 2U);
  EXPECT_EQ(all->at(1).node, "node-1");
  EXPECT_EQ(all->at(1).answer.report.bytes, 100U);
  const auto one = op.calls->ask_caches(LookAtCache(), "node-1");
  ASSERT_TRUE(one);
  ASSERT_EQ(one->size(), 1U);
  EXPECT_EQ(one->at(0).node, "node-1");
  EXPECT_EQ(op.calls->ask_caches(LookAtCache(), "node-9").error().code, ErrorCode::not_found);
  const auto purged = op.calls->ask_caches(storage::CachePurge{TenantId("local")}, "node-0");
  ASSERT_TRUE(purged);
  EXPECT_EQ(purged->at(0).answer.purged_entries, 7U);
  EXPECT_EQ(caching.caches[0]->asked(), std::vector<std::string>{"purge local 0"});
  EXPECT_TRUE(caching.caches[1]->asked().empty());
  EXPECT_TRUE(op.calls->ask_caches(storage::CachePurge{TenantId("gone")}, ""))
      << "nobody knows the tenant, and it had entries";
  EXPECT_EQ(op.calls->ask_caches(storage::CachePurge{TenantId("nobody")}, "").error().code,
            ErrorCode::not_found);
}

TEST(ClusterAdministration, APurgeOfPrefixesWaitsUntilEnginesHaveForgotten) {
  CachingHouse caching;
  Operator op(caching.house);
  auto& engine = *caching.house.engines[0];
  engine.forgets = false;
  const auto purge = [&](const storage::CachePurge& what) {
    const auto answers = op.calls->ask_caches(what, "node-0");
    return answers ? answers->at(0).answer.purged_entries : 0;
  };
  const TenantId local("local");
  auto purged = std::async(std::launch::async, [&] { return purge({local, {}, {}}); });
  while (engine.forgotten().empty()) std::this_thread::yield();
  EXPECT_TRUE(caching.caches[0]->asked().empty());
  engine.have_forgotten();
  EXPECT_EQ(purged.get(), 7U);
  EXPECT_EQ(caching.caches[0]->asked().size(), 1U);
  EXPECT_EQ(engine.forgotten(), std::vector<std::string>{"local"});
  // These are of the disk alone.
  EXPECT_EQ(purge({local, storage::CacheKind::tokens, {}}), 7U);
  EXPECT_EQ(purge({local, {}, std::chrono::hours(1)}), 7U);
  EXPECT_EQ(engine.forgotten().size(), 1U);
  engine.forgets = true;
  EXPECT_EQ(purge({{}, storage::CacheKind::prefix, {}}), 7U);
  EXPECT_EQ(engine.forgotten().back(), "(all)");
}

TEST(ClusterAdministration, APurgeWaitsForTheEndOfAModelThatIsBeingUnloaded) {
  std::promise<void> gate;
  CachingHouse caching([open = gate.get_future().share()](const auto&, const auto&) {
    open.wait();
    return std::optional<Error>();
  });
  Operator op(caching.house);
  caf::anon_send(caching.house.nodes[0], LoadModel{"slow", "", ""});  // goes before the unloading
  caf::anon_send(caching.house.nodes[0], UnloadModel{"m"});
  auto purged = std::async(std::launch::async, [&] {
    return op.calls->ask_caches(storage::CachePurge{TenantId("local")}, "node-0");
  });
  EXPECT_EQ(purged.wait_for(std::chrono::milliseconds(50)), std::future_status::timeout);
  EXPECT_TRUE(caching.caches[0]->asked().empty());
  gate.set_value();
  EXPECT_EQ(purged.get()->at(0).answer.purged_entries, 7U);
}

TEST(ClusterAdministration, WhereThereIsNoCacheItSaysSo) {
  House house;
  Operator op(house);
  for (const std::string node : {"", "node-0"}) {
    const auto asked = op.calls->ask_caches(LookAtCache(), node);
    ASSERT_FALSE(asked);
    EXPECT_EQ(asked.error().code, ErrorCode::failed_precondition);
    EXPECT_NE(asked.error().message.find("cache.directory"), std::string::npos);
  }
}

TEST(ClusterAdministration, QuotasAndTtlsOfATenantAreItsRecordsAndReachTheNodes) {
  CachingHouse caching;
  Operator op(caching.house);
  ASSERT_TRUE(op.calls->set_cache_quota("local", 5));
  ASSERT_TRUE(op.calls->set_cache_ttl("local", storage::CacheKind::tokens, std::chrono::hours(1)));
  const cluster::CachePolicy expected{false, 5, {{{}, {}, 3'600'000}}};
  EXPECT_EQ(caching.house.directory->tenant("local")->cache, expected);
  ASSERT_TRUE(op.calls->ask_caches(LookAtCache(), ""));  // behind what was sent before
  for (const auto& cache : caching.caches) {
    EXPECT_EQ(cache->asked(), (std::vector<std::string>{"quota local 5", "quota local 5",
                                                        "ttl tokens local 3600000"}));
  }
  ASSERT_TRUE(op.calls->set_cache_quota("local", std::nullopt));
  ASSERT_TRUE(op.calls->set_cache_ttl("local", storage::CacheKind::tokens, std::nullopt));
  EXPECT_EQ(caching.house.directory->tenant("local")->cache, cluster::CachePolicy{});
  ASSERT_TRUE(op.calls->ask_caches(LookAtCache(), ""));
  EXPECT_EQ(caching.caches[0]->asked().back(), "ttl tokens local default");

  EXPECT_EQ(op.calls->set_cache_quota("nobody", 5).error().code, ErrorCode::not_found);
  const auto long_ttl = std::chrono::hours(24 * 31);
  EXPECT_EQ(op.calls->set_cache_ttl("local", storage::CacheKind::prefix, long_ttl).error().code,
            ErrorCode::invalid_argument);
  ASSERT_TRUE(op.calls->set_no_store("local", true));
  EXPECT_TRUE(caching.house.directory->tenant("local")->cache.no_store);
}

TEST(ClusterAdministration, TheFileSaysWhatOfATenantIsCachedUntilItsRecordIsChanged) {
  CachingHouse caching;
  Operator op(caching.house);
  cluster::Tenant acme{.name = "acme", .cache = {false, 9, {{60'000, {}, {}}}}};
  const auto restart = [&] {  // of a router that has this in its configuration
    ASSERT_TRUE(op.directory.declare_tenant(acme));
    op.keeper->apply();
  };
  const auto last_asked = [&] {
    EXPECT_TRUE(op.calls->ask_caches(LookAtCache(), ""));  // behind what was sent before
    return caching.caches[0]->asked().back();
  };
  restart();
  EXPECT_TRUE(op.calls->ask_caches(LookAtCache(), ""));
  EXPECT_EQ(caching.caches[0]->asked(),
            (std::vector<std::string>{"quota acme 9", "ttl prefix acme 60000"}));
  ASSERT_TRUE(op.calls->set_cache_quota("acme", 5));
  restart();
  EXPECT_EQ(op.directory.tenant("acme")->cache.bytes, 5U) << "the entry is what it was";
  acme.cache.ttl_ms[0] = 30'000;
  restart();
  EXPECT_EQ(op.directory.tenant("acme")->cache, acme.cache) << "it is another one";
  EXPECT_EQ(last_asked(), "ttl prefix acme 30000");
}

TEST(ClusterAdministration, ARotatedKeyTakesTheOldOnesPlace) {
  House house({.tenants = {{.name = "acme", .keys = {{sha256_hex("old")}}}}});
  Operator op(house);
  const auto fresh = op.calls->rotate_key("acme", std::chrono::seconds(0));
  ASSERT_TRUE(fresh);
  EXPECT_TRUE(house.frontend->authenticate(*fresh));
  EXPECT_FALSE(house.frontend->authenticate("old"));
}

TEST(ClusterAdministration, ChangesThatOthersMadeReachTheRouter) {
  House house;
  Operator op(house);
  // As if another router had written it: this one learns of it by the watch alone.
  ASSERT_TRUE(op.directory.change_tenant("local", [](cluster::Tenant& tenant) -> Result<void> {
    tenant.suspended = true;
    return {};
  }));
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  bool refused = false;
  while (!refused && std::chrono::steady_clock::now() < until) {
    const auto answer = house.generate("abc", 1);
    ASSERT_TRUE(answer->wait());
    refused = answer->error && answer->error->reason == "tenant_suspended";
  }
  EXPECT_TRUE(refused);
}

TEST(ClusterAdministration, OnlyALostNodeIsRemovedWithoutForce) {
  House house({.nodes = 2});
  Operator op(house);
  EXPECT_EQ(op.calls->remove("node-0", false).error().code, ErrorCode::failed_precondition);
  EXPECT_EQ(op.calls->remove("node-9", true).error().code, ErrorCode::not_found);
  ASSERT_TRUE(op.calls->remove("node-0", true));
  EXPECT_EQ(state_of(*op.calls, "node-0"), "unknown");
  const auto served = house.generate("abc", 3);
  ASSERT_TRUE(served->wait());
  EXPECT_FALSE(served->error);
}

TEST(ClusterAdministration, ANodeThatWasAdmittedButIsNotThereIsShownAndRemoved) {
  House house;
  Operator op(house);
  ASSERT_TRUE(op.directory.welcome_node("away", 1));
  EXPECT_EQ(state_of(*op.calls, "away"), "lost");
  EXPECT_TRUE(op.calls->cordon("away", true)) << "it is cordoned when it comes";
  EXPECT_TRUE(op.directory.nodes().at(0).cordoned);
  ASSERT_TRUE(op.calls->remove("away", false));
  EXPECT_EQ(state_of(*op.calls, "away"), "unknown");
  EXPECT_TRUE(op.directory.nodes().empty());
}

TEST(ClusterAdministration, JoinTokensAreMadeListedAndRevoked) {
  House house;
  Operator op(house);
  const auto token = op.calls->create_join_token(std::chrono::minutes(5));
  ASSERT_TRUE(token);
  const auto listed = op.calls->join_tokens();
  ASSERT_TRUE(listed);
  ASSERT_EQ(listed->size(), 1U);
  ASSERT_TRUE(op.calls->revoke_join_token(listed->at(0).id));
  EXPECT_EQ(op.directory.admit_node("n", *token, 1).error().code, ErrorCode::permission_denied);
  EXPECT_EQ(op.calls->create_join_token(std::chrono::seconds(0)).error().code,
            ErrorCode::invalid_argument);
}

TEST(ClusterAdministration, ModelsThatCannotBeHadAreRefusedBeforeAnythingChanges) {
  House house;
  Operator op(house);
  op.config.models = {{"m", "m", {}}};
  op.config.find_model = [](const std::string& source) -> Result<ModelConfig> {
    return fail(ErrorCode::not_found, "no file " + source);
  };
  EXPECT_EQ(op.calls->load_model("x", "x.gguf", {}).error().message, "no file x.gguf");
  EXPECT_EQ(op.calls->load_model("x", "x.gguf", {"node-9"}).error().code, ErrorCode::not_found);
  EXPECT_EQ(op.calls->load_model("m", "m.gguf", {}).error().code, ErrorCode::already_exists);
  EXPECT_EQ(op.calls->unload_model("m").error().code, ErrorCode::failed_precondition);
  EXPECT_EQ(op.calls->unload_model("x").error().code, ErrorCode::not_found);
  EXPECT_EQ(op.calls->place_model("x", {"node-0"}).error().code, ErrorCode::not_found);
  EXPECT_TRUE(op.directory.placements().empty());
}

}  // namespace
}  // namespace plimsoll
