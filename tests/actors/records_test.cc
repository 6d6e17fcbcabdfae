#include "actors/records.h"

#include <capnp/message.h>
#include <capnp/serialize-packed.h>
#include <gtest/gtest.h>
#include <kj/io.h>

#include <cmath>

#include "schema/records.capnp.h"

namespace plimsoll {
namespace {

const std::string hash(64, 'a');

cluster::Tenant tenant() {
  cluster::Tenant out{"acme", cluster::Tier::best_effort, {}, true, true, {}, hash};
  out.quota = {1.5, 2.5, 3.5, 4.5, 5, 6ULL << 40, 11, 12, 7, 8, 9, 13, 10, {"qwen/7b", "bert"}};
  out.keys = {{hash, 11, 12}, {std::string(64, 'b'), 0, 0}};
  out.cache = {true, 6ULL << 40, {{1, {}, 30U * 86'400'000}}};
  return out;
}

TEST(Records, ComeBackAsTheyWere) {
  EXPECT_EQ(decode_tenant(encode(tenant())).value(), tenant());
  cluster::Tenant plain;
  plain.name = "plain";
  EXPECT_EQ(decode_tenant(encode(plain)).value(), plain);
  const NodeRecord node{"node-1", hash, true, 99, 1ULL << 41};
  EXPECT_EQ(decode_node(encode(node)).value(), node);
  const ModelPlacement placement{"m", "/models/m.gguf", {"a", "b"}};
  EXPECT_EQ(decode_placement(encode(placement)).value(), placement);
  const JoinToken token{1, 2};
  EXPECT_EQ(decode_join_token(encode(token)).value(), token);
  const RouterEntry router{{"r1", "10.0.0.1:7000", "plimsoll 1", 3, 4.5}, 1ULL << 63};
  EXPECT_EQ(decode_router(encode(router)).value(), router);
  const UsageByTenant usage{{"a", {1, 2, 3, 4, 5.5, 6.5, 7.5, {{"shed", 6}, {"tenant_rate", 7}}}},
                            {"b", {}}};
  EXPECT_EQ(decode_usage(encode(usage)).value(), usage);
  const cluster::QuotaLease lease{{{"r1", 0.25, 2, 1000}, {"r2", 0.75, 0, 2000}}};
  EXPECT_EQ(decode_quota_lease(encode(lease)).value(), lease);
}

// Packed messages as earlier builds wrote them.
std::string of_hex(std::string_view hex) {
  std::string out;
  for (std::size_t i = 0; i < hex.size(); i += 2) {
    out.push_back(static_cast<char>(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16)));
  }
  return out;
}

TEST(Records, ARecordOfAnEarlierBuildMeansWhatItMeant) {
  // Nothing but the name, as a build would write that knew no other field.
  capnp::MallocMessageBuilder message;
  message.initRoot<schema::TenantRecord>().setName("plain");
  kj::VectorOutputStream out;
  capnp::writePackedMessage(out, message);
  const auto bytes = out.getArray().asChars();
  const auto read = decode_tenant({bytes.begin(), bytes.size()}).value();
  EXPECT_EQ(read.name, "plain");
  EXPECT_EQ(read.quota, cluster::Quota{});
  EXPECT_EQ(read.cache, cluster::CachePolicy{});
  // Before `declared` and `drainUntilMs`.
  cluster::Tenant tenant;
  tenant.name = "acme";
  tenant.keys = {{hash, 11, 0}};
  EXPECT_EQ(
      decode_tenant(of_hex("101c500103010111092a11091f513808010f61636d6551040201010b000031010a02ff6"
                           "16161616161616107616161616161616161616161616161616161616161616161616161"
                           "61616161616161616161616161616161616161616161616161616161610008110106"))
          .value(),
      tenant);
  EXPECT_EQ(decode_node(of_hex("100f5002020101016311053a31050a023f6e6f64652d31ff6161616161616161076"
                               "1616161616161616161616161616161616161616161616161616161616161616161"
                               "616161616161616161616161616161616161616161610000"))
                .value(),
            (NodeRecord{"node-1", hash, true, 99, 0}));
}

TEST(Records, OfADeclarationEveryFieldCounts) {
  auto plain = tenant();
  plain.declared.clear();
  const auto bytes = canonical(plain);
  EXPECT_EQ(canonical(plain), bytes);
  const auto counts = [&](const auto& change) {
    auto other = plain;
    change(other);
    return canonical(other) != bytes;
  };
  using cluster::Tenant;
  EXPECT_TRUE(counts([](Tenant& t) { t.tier = cluster::Tier::standard; }));
  EXPECT_TRUE(counts([](Tenant& t) { t.suspended = false; }));
  EXPECT_TRUE(counts([](Tenant& t) { t.quota.deadline_ms = 0; }));
  EXPECT_TRUE(counts([](Tenant& t) { t.quota.models.pop_back(); }));
  EXPECT_TRUE(counts([](Tenant& t) { t.keys.pop_back(); }));
  EXPECT_TRUE(counts([](Tenant& t) { t.cache.no_store = false; }));
  EXPECT_TRUE(counts([](Tenant& t) { t.cache.bytes.reset(); }));
  EXPECT_TRUE(counts([](Tenant& t) { t.cache.bytes = 0; }));
  for (std::size_t kind = 0; kind < 3; ++kind) {
    EXPECT_TRUE(counts([&](Tenant& t) { t.cache.ttl_ms[kind] = 0; })) << kind;
  }
}

TEST(Records, TornBytesGiveATypedError) {
  const auto bytes = encode(tenant());
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    const auto read = decode_tenant(std::string_view(bytes).substr(0, size));
    ASSERT_FALSE(read) << size;
    EXPECT_EQ(read.error().code, ErrorCode::malformed);
  }
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    auto flipped = bytes;
    flipped[i] = static_cast<char>(flipped[i] ^ 0x11);
    const auto read = decode_tenant(flipped);
    EXPECT_TRUE(read || read.error().code == ErrorCode::malformed ||
                read.error().code == ErrorCode::unsupported);
  }
  // A small message that says it is large.
  const std::string bomb("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 11);
  EXPECT_EQ(decode_usage(bomb).error().code, ErrorCode::malformed);
}

TEST(Records, RulesHoldBothWays) {
  const auto refused = [](const auto& change) {
    auto record = tenant();
    change(record);
    const auto checked = check(record);
    return !checked && checked.error().code == ErrorCode::invalid_argument &&
           !checked.error().param.empty() &&
           decode_tenant(encode(record)).error().code == ErrorCode::malformed;
  };
  using cluster::Tenant;
  for (const std::string name : {"", "-a", ".", "A", "a/b", "a b", "\xc3\xa4"}) {
    EXPECT_TRUE(refused([&](Tenant& t) { t.name = name; })) << name;
  }
  EXPECT_TRUE(refused([](Tenant& t) { t.name = std::string(64, 'a'); }));
  EXPECT_TRUE(refused([](Tenant& t) { t.quota.sequences = 0; }));
  EXPECT_TRUE(refused([](Tenant& t) { t.quota.requests_per_second = -1; }));
  EXPECT_TRUE(refused([](Tenant& t) { t.quota.prompt_tokens_per_second = NAN; }));
  EXPECT_TRUE(refused([](Tenant& t) { t.quota.generated_tokens_per_second = INFINITY; }));
  EXPECT_TRUE(refused([](Tenant& t) { t.quota.burst_seconds = 0; }));
  EXPECT_TRUE(refused([](Tenant& t) { t.quota.models = {""}; }));
  EXPECT_TRUE(refused([](Tenant& t) { ++*t.cache.ttl_ms[2]; })) << "30 days at most";
  EXPECT_TRUE(refused([](Tenant& t) { t.keys[0].sha256 = "ABC"; }));
  EXPECT_TRUE(refused([](Tenant& t) { t.declared = "ABC"; }));
  EXPECT_FALSE(check(RouterRecord{"a/b", "", "", 0, 0}));
  EXPECT_FALSE(check(RouterRecord{"a", std::string(1025, 'a'), "", 0, 0}));
  EXPECT_FALSE(check(RouterRecord{"a", "", std::string(257, 'a'), 0, 0}));
  EXPECT_FALSE(check(RouterRecord{"a", "", "", 0, NAN}));
  EXPECT_FALSE(check(NodeRecord{"a/b", hash}));
  EXPECT_FALSE(check(NodeRecord{"a", "secret"}));
  EXPECT_FALSE(check(ModelPlacement{"m", "", {}}));
  EXPECT_FALSE(check(ModelPlacement{"m", "s", {"a/b"}}));
}

}  // namespace
}  // namespace plimsoll
