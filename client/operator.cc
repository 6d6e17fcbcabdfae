#include "client/operator.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "client/cache.h"
#include "client/session.h"

namespace plimsoll::client {

namespace {

using client::read;  // of a node's cache

constexpr const char* pressure_names[] = {"green", "yellow", "orange", "red"};
constexpr const char* tier_names[] = {"guaranteed", "standard", "best-effort"};

schema::Tier tier_of(const std::string& name) {
  const auto* found = std::ranges::find(tier_names, name);
  if (found == std::end(tier_names)) {
    throw Error("invalid_argument",
                "no tier '" + name + "'; there are guaranteed, standard and best-effort");
  }
  return static_cast<schema::Tier>(found - tier_names);
}

// A time in the units of a 32-bit field; longer ones are cut, negative ones are 0.
std::uint32_t clamped(std::int64_t count) {
  return static_cast<std::uint32_t>(
      std::clamp<std::int64_t>(count, 0, std::numeric_limits<std::uint32_t>::max()));
}

std::vector<std::string> strings(capnp::List<capnp::Text>::Reader in) {
  std::vector<std::string> out;
  for (const auto text : in) out.push_back(string_of(text));
  return out;
}
void write(const std::vector<std::string>& in, capnp::List<capnp::Text>::Builder out) {
  for (unsigned i = 0; i < in.size(); ++i) out.set(i, text_of(in[i]));
}

ClusterNode read(schema::ClusterNode::Reader in) {
  ClusterNode out;
  out.name = string_of(in.getName());
  out.state = string_of(in.getState());
  out.address = string_of(in.getAddress());
  out.version = string_of(in.getVersion());
  out.epoch = in.getEpoch();
  out.weight = in.getWeight();
  out.slow_factor = in.getSlowFactor();
  out.heartbeat_age_seconds = in.getHeartbeatAgeSeconds();
  out.sequences = in.getSequences();
  out.tokens_per_second = in.getTokensPerSecond();
  out.memory_used_bytes = in.getMemoryUsedBytes();
  out.memory_limit_bytes = in.getMemoryLimitBytes();
  out.pressure = pressure_names[std::min(static_cast<unsigned>(in.getPressure()), 3U)];
  out.models = strings(in.getModels());
  return out;
}

ClusterView read(schema::ClusterView::Reader in) {
  ClusterView out;
  out.version = string_of(in.getVersion());
  out.store = string_of(in.getStore());
  out.membership_version = in.getMembershipVersion();
  out.uptime_seconds = in.getUptimeSeconds();
  for (const auto router : in.getRouters()) {
    out.routers.push_back({string_of(router.getName()), string_of(router.getAddress()),
                           router.getSelf(), router.getStreams(), router.getTokensPerSecond()});
  }
  for (const auto node : in.getNodes()) out.nodes.push_back(read(node));
  return out;
}

Quota read(schema::Quota::Reader in) {
  return {in.getRequestsPerSecond(),
          in.getPromptTokensPerSecond(),
          in.getGeneratedTokensPerSecond(),
          in.getBurstSeconds(),
          in.getSequences(),
          in.getKvBytes(),
          in.getGuaranteedBytes(),
          in.getBurstBytes(),
          in.getCacheBytes(),
          in.getPromptTokens(),
          in.getGeneratedTokens(),
          in.getRequestTokens(),
          in.getDeadlineMs(),
          strings(in.getModels())};
}
void write(const Quota& in, schema::Quota::Builder out) {
  out.setRequestsPerSecond(in.requests_per_second);
  out.setPromptTokensPerSecond(in.prompt_tokens_per_second);
  out.setGeneratedTokensPerSecond(in.generated_tokens_per_second);
  out.setBurstSeconds(in.burst_seconds);
  out.setSequences(in.sequences);
  out.setKvBytes(in.kv_bytes);
  out.setGuaranteedBytes(in.guaranteed_bytes);
  out.setBurstBytes(in.burst_bytes);
  out.setCacheBytes(in.cache_bytes);
  out.setPromptTokens(in.prompt_tokens);
  out.setGeneratedTokens(in.generated_tokens);
  out.setRequestTokens(in.request_tokens);
  out.setDeadlineMs(in.deadline_ms);
  write(in.models, out.initModels(in.models.size()));
}

TenantView read(schema::TenantView::Reader in) {
  TenantView out;
  const auto tenant = in.getTenant();
  out.tenant.name = string_of(tenant.getName());
  out.tenant.tier = tier_names[std::min(static_cast<unsigned>(tenant.getTier()), 2U)];
  out.tenant.quota = read(tenant.getQuota());
  out.tenant.suspended = tenant.getSuspended();
  out.tenant.is_operator = tenant.getIsOperator();
  out.tenant.no_store = tenant.getNoStore();
  if (const auto bytes = tenant.getDiskCacheBytes(); bytes != ~std::uint64_t{0}) {
    out.tenant.disk_cache_bytes = bytes;
  }
  for (const auto& [kind, ttl] : {std::pair("prefix", tenant.getPrefixTtlMs()),
                                  {"embedding", tenant.getEmbeddingTtlMs()},
                                  {"tokens", tenant.getTokensTtlMs()}}) {
    if (ttl != ~std::uint32_t{0}) out.tenant.disk_cache_ttl[kind] = std::chrono::milliseconds(ttl);
  }
  for (const auto key : tenant.getKeys()) {
    out.tenant.keys.push_back({key.getCreated(), key.getExpires()});
  }
  out.home = strings(in.getHome());
  out.sequences = in.getSequences();
  out.tokens_per_second = in.getTokensPerSecond();
  out.memory_bytes = in.getMemoryBytes();
  return out;
}

TenantUsage read(schema::TenantUsage::Reader in) {
  TenantUsage out;
  out.tenant = string_of(in.getTenant());
  out.requests = in.getRequests();
  out.prompt_tokens = in.getPromptTokens();
  out.cached_tokens = in.getCachedTokens();
  out.generated_tokens = in.getGeneratedTokens();
  out.kv_byte_seconds = in.getKvByteSeconds();
  out.cache_byte_seconds = in.getCacheByteSeconds();
  out.weights_byte_seconds = in.getWeightsByteSeconds();
  for (const auto rejection : in.getRejections()) {
    out.rejections[string_of(rejection.getReason())] = rejection.getCount();
  }
  return out;
}

Event read(schema::Event::Reader in) {
  Event out;
  out.id = in.getId();
  out.unix_seconds = in.getUnixSeconds();
  out.node = string_of(in.getNode());
  out.kind = string_of(in.getKind());
  out.level = pressure_names[std::min(static_cast<unsigned>(in.getLevel()), 3U)];
  out.tenant = string_of(in.getTenant());
  out.model = string_of(in.getModel());
  out.cause = string_of(in.getCause());
  out.bytes = in.getBytes();
  out.count = in.getCount();
  out.used_bytes = in.getUsedBytes();
  out.limit_bytes = in.getLimitBytes();
  return out;
}

PlacedModel read(schema::PlacedModel::Reader in) {
  PlacedModel out;
  out.name = string_of(in.getName());
  out.version = string_of(in.getVersion());
  out.source = string_of(in.getSource());
  for (const auto replica : in.getReplicas()) {
    out.replicas.push_back({string_of(replica.getNode()), string_of(replica.getState()),
                            string_of(replica.getReason())});
  }
  return out;
}

Move read(schema::Move::Reader in) {
  return {string_of(in.getTenant()), string_of(in.getFrom()), string_of(in.getTo()),
          in.getSequences()};
}
JoinToken read(schema::JoinToken::Reader in) { return {string_of(in.getId()), in.getExpires()}; }

// Makes a request, sends it, and takes what `take` makes of the results.
template <class Make, class Take>
void run(Session& session, Session::Repeat repeat, Make make, Take take) {
  const auto call = [&](schema::Operator::Client op, Session::Outcome& outcome) {
    return make(op).send().then([&](auto response) {
      if (outcome.good(response)) take(response);
    });
  };
  session.run_as_operator(call, repeat);
}
// A call that may be lost with its connection, and then is heard by another server.
template <class Make, class Take>
void look(Session& session, Make make, Take take) {
  run(session, Session::Repeat::yes, std::move(make), std::move(take));
}
template <class Make, class Take>
void change(Session& session, Make make, Take take) {
  run(session, Session::Repeat::no, std::move(make), std::move(take));
}
constexpr auto nothing = [](auto&) {};

// For results that are lists.
template <class T, class List>
void read_each(std::vector<T>& out, List in) {
  for (const auto item : in) out.push_back(read(item));
}

}  // namespace

ClusterView Operator::view() {
  ClusterView out;
  look(
      client_.session(), [](auto& op) { return op.clusterRequest(); },
      [&](auto& response) { out = read(response.getView()); });
  return out;
}

void Operator::cordon(const std::string& node, bool on) {
  const auto make = [&](auto& op) {
    auto request = op.cordonRequest();
    request.setNode(text_of(node));
    request.setOn(on);
    return request;
  };
  change(client_.session(), make, nothing);
}

Drained Operator::drain(const std::string& node, std::chrono::milliseconds deadline) {
  Drained out;
  const auto make = [&](auto& op) {
    auto request = op.drainRequest();
    request.setNode(text_of(node));
    request.setDeadlineMs(clamped(deadline.count()));
    return request;
  };
  change(client_.session(), make, [&](auto& response) {
    out = {response.getFinished(), response.getMoved(), response.getCut()};
  });
  return out;
}

void Operator::remove(const std::string& node, bool force) {
  const auto make = [&](auto& op) {
    auto request = op.removeRequest();
    request.setNode(text_of(node));
    request.setForce(force);
    return request;
  };
  change(client_.session(), make, nothing);
}

std::vector<Move> Operator::rebalance(bool dry_run) {
  std::vector<Move> out;
  const auto make = [&](auto& op) {
    auto request = op.rebalanceRequest();
    request.setDryRun(dry_run);
    return request;
  };
  change(client_.session(), make, [&](auto& response) { read_each(out, response.getMoves()); });
  return out;
}

std::string Operator::create_join_token(std::chrono::seconds ttl) {
  std::string out;
  const auto make = [&](auto& op) {
    auto request = op.createJoinTokenRequest();
    request.setTtlSeconds(clamped(ttl.count()));
    return request;
  };
  change(client_.session(), make, [&](auto& response) { out = string_of(response.getToken()); });
  return out;
}

std::vector<JoinToken> Operator::join_tokens() {
  std::vector<JoinToken> out;
  look(
      client_.session(), [](auto& op) { return op.listJoinTokensRequest(); },
      [&](auto& response) { read_each(out, response.getTokens()); });
  return out;
}

void Operator::revoke_join_token(const std::string& id) {
  const auto make = [&](auto& op) {
    auto request = op.revokeJoinTokenRequest();
    request.setId(text_of(id));
    return request;
  };
  change(client_.session(), make, nothing);
}

std::vector<TenantView> Operator::tenants() {
  std::vector<TenantView> out;
  look(
      client_.session(), [](auto& op) { return op.listTenantsRequest(); },
      [&](auto& response) { read_each(out, response.getTenants()); });
  return out;
}

TenantView Operator::tenant(const std::string& name) {
  TenantView out;
  const auto make = [&](auto& op) {
    auto request = op.showTenantRequest();
    request.setName(text_of(name));
    return request;
  };
  look(client_.session(), make, [&](auto& response) { out = read(response.getTenant()); });
  return out;
}

std::string Operator::create_tenant(const Tenant& tenant) {
  std::string out;
  const auto tier = tier_of(tenant.tier);
  const auto make = [&](auto& op) {
    auto request = op.createTenantRequest();
    auto in = request.initTenant();
    in.setName(text_of(tenant.name));
    in.setTier(tier);
    write(tenant.quota, in.initQuota());
    in.setSuspended(tenant.suspended);
    in.setIsOperator(tenant.is_operator);
    in.setNoStore(tenant.no_store);
    return request;
  };
  change(client_.session(), make, [&](auto& response) { out = string_of(response.getApiKey()); });
  return out;
}

void Operator::set_quota(const std::string& tenant, const Quota& quota) {
  const auto make = [&](auto& op) {
    auto request = op.setQuotaRequest();
    request.setTenant(text_of(tenant));
    write(quota, request.initQuota());
    return request;
  };
  change(client_.session(), make, nothing);
}

void Operator::set_tier(const std::string& tenant, const std::string& tier) {
  const auto value = tier_of(tier);
  const auto make = [&](auto& op) {
    auto request = op.setTierRequest();
    request.setTenant(text_of(tenant));
    request.setTier(value);
    return request;
  };
  change(client_.session(), make, nothing);
}

void Operator::set_no_store(const std::string& tenant, bool on) {
  const auto make = [&](auto& op) {
    auto request = op.setNoStoreRequest();
    request.setTenant(text_of(tenant));
    request.setOn(on);
    return request;
  };
  change(client_.session(), make, nothing);
}

void Operator::suspend(const std::string& tenant, bool on) {
  const auto make = [&](auto& op) {
    auto request = op.suspendRequest();
    request.setTenant(text_of(tenant));
    request.setOn(on);
    return request;
  };
  change(client_.session(), make, nothing);
}

std::string Operator::rotate_key(const std::string& tenant, std::chrono::seconds grace) {
  std::string out;
  const auto make = [&](auto& op) {
    auto request = op.rotateKeyRequest();
    request.setTenant(text_of(tenant));
    request.setGraceSeconds(clamped(grace.count()));
    return request;
  };
  change(client_.session(), make, [&](auto& response) { out = string_of(response.getApiKey()); });
  return out;
}

std::vector<TenantUsage> Operator::usage() {
  std::vector<TenantUsage> out;
  look(
      client_.session(), [](auto& op) { return op.usageRequest(); },
      [&](auto& response) { read_each(out, response.getUsage()); });
  return out;
}

std::vector<NodeCache> Operator::caches(const std::string& node) {
  std::vector<NodeCache> out;
  const auto make = [&](auto& op) {
    auto request = op.lookAtCacheRequest();
    request.setNode(text_of(node));
    return request;
  };
  look(client_.session(), make, [&](auto& response) { read_each(out, response.getNodes()); });
  return out;
}

std::vector<NodeCache> Operator::purge_caches(const CachePurge& what, const std::string& node) {
  std::vector<NodeCache> out;
  const auto make = [&](auto& op) {
    auto request = op.purgeCacheRequest();
    write(what, request.initWhat());
    request.setNode(text_of(node));
    return request;
  };
  change(client_.session(), make, [&](auto& response) { read_each(out, response.getNodes()); });
  return out;
}

void Operator::set_cache_quota(const std::string& tenant, std::optional<std::uint64_t> bytes) {
  const auto make = [&](auto& op) {
    auto request = op.setCacheQuotaRequest();
    request.setTenant(text_of(tenant));
    if (bytes) request.setBytes(*bytes);
    return request;
  };
  change(client_.session(), make, nothing);
}

void Operator::set_cache_ttl(const std::string& tenant, const std::string& kind,
                             std::optional<std::chrono::milliseconds> ttl) {
  if (tenant.empty()) throw Error("invalid_argument", "whose TTL shall it be? No tenant is named");
  const auto make = [&](auto& op) {
    auto request = op.setCacheTtlRequest();
    request.setTenant(text_of(tenant));
    write(kind, ttl, request.initTtl());
    return request;
  };
  change(client_.session(), make, nothing);
}

std::vector<NodeCache> Operator::set_default_cache_ttl(const std::string& kind,
                                                       std::optional<std::chrono::milliseconds> ttl,
                                                       const std::string& node) {
  std::vector<NodeCache> out;
  const auto make = [&](auto& op) {
    auto request = op.setCacheTtlRequest();
    write(kind, ttl, request.initTtl());
    request.setNode(text_of(node));
    return request;
  };
  change(client_.session(), make, [&](auto& response) { read_each(out, response.getNodes()); });
  return out;
}

std::vector<PlacedModel> Operator::models() {
  std::vector<PlacedModel> out;
  look(
      client_.session(), [](auto& op) { return op.listModelsRequest(); },
      [&](auto& response) { read_each(out, response.getModels()); });
  return out;
}

void Operator::load_model(const std::string& name, const std::string& source,
                          const std::vector<std::string>& nodes) {
  const auto make = [&](auto& op) {
    auto request = op.loadModelRequest();
    request.setName(text_of(name));
    request.setSource(text_of(source));
    write(nodes, request.initNodes(nodes.size()));
    return request;
  };
  change(client_.session(), make, nothing);
}

void Operator::unload_model(const std::string& name) {
  const auto make = [&](auto& op) {
    auto request = op.unloadModelRequest();
    request.setName(text_of(name));
    return request;
  };
  change(client_.session(), make, nothing);
}

void Operator::place_model(const std::string& name, const std::vector<std::string>& nodes) {
  const auto make = [&](auto& op) {
    auto request = op.placeModelRequest();
    request.setName(text_of(name));
    write(nodes, request.initNodes(nodes.size()));
    return request;
  };
  change(client_.session(), make, nothing);
}

std::vector<Event> Operator::events(const EventQuery& query) {
  std::vector<Event> out;
  const auto make = [&](auto& op) {
    auto request = op.eventsRequest();
    auto in = request.initQuery();
    in.setAfter(query.after);
    in.setNode(text_of(query.node));
    in.setTenant(text_of(query.tenant));
    in.setKind(text_of(query.kind));
    in.setLimit(query.limit);
    return request;
  };
  look(client_.session(), make, [&](auto& response) { read_each(out, response.getEvents()); });
  return out;
}

}  // namespace plimsoll::client
