#include "actors/gateway/operator_messages.h"

#include <cmath>

#include "actors/cache_messages.h"
#include "actors/cache_policy.h"
#include "actors/gateway/rpc_text.h"
#include "actors/memory_messages.h"

namespace plimsoll {

namespace {

void write(const std::string& model, const EngineStats& stats, schema::Engine::Builder out) {
  out.setModel(text_of(model));
  out.setWaiting(stats.waiting);
  out.setRunning(stats.running);
  out.setPaused(stats.paused);
  out.setKvBlocksTotal(stats.kv_blocks_total);
  out.setKvBlocksUsed(stats.kv_blocks_used);
  out.setKvBlocksCached(stats.kv_blocks_cached);
  out.setStepsTotal(stats.steps_total);
  out.setPromptTokensTotal(stats.prompt_tokens_total);
  out.setCachedPromptTokensTotal(stats.cached_prompt_tokens_total);
  out.setGeneratedTokensTotal(stats.generated_tokens_total);
  out.setPreemptionsTotal(stats.preemptions_total);
  out.setFinishedTotal(stats.finished_total);
  out.setRefusedTotal(stats.refused_total);
  out.setCancelledTotal(stats.cancelled_total);
  out.setStepSecondsTotal(stats.step_seconds_total);
}

void write(const std::vector<std::string>& texts, capnp::List<capnp::Text>::Builder out) {
  for (unsigned i = 0; i < texts.size(); ++i) out.set(i, text_of(texts[i]));
}

void write(const NodeView& node, schema::ClusterNode::Builder out) {
  out.setName(text_of(node.name));
  out.setState(text_of(node.state));
  out.setAddress(text_of(node.address));
  out.setVersion(text_of(node.version));
  out.setEpoch(node.epoch);
  out.setWeight(node.weight);
  out.setSlowFactor(node.slow_factor);
  out.setHeartbeatAgeSeconds(node.heartbeat_age_s);
  out.setSequences(node.sequences);
  out.setTokensPerSecond(node.tokens_per_second);
  out.setMemoryUsedBytes(node.memory_used_bytes);
  out.setMemoryLimitBytes(node.memory_limit_bytes);
  out.setPressure(static_cast<schema::Pressure>(node.pressure));
  write(node.models, out.initModels(node.models.size()));
}

void write(const RouterView& router, schema::Router::Builder out) {
  out.setName(text_of(router.name));
  out.setAddress(text_of(router.address));
  out.setSelf(router.self);
  out.setStreams(router.streams);
  out.setTokensPerSecond(router.tokens_per_second);
}

void write(const cluster::Quota& quota, schema::Quota::Builder out) {
  out.setRequestsPerSecond(quota.requests_per_second);
  out.setPromptTokensPerSecond(quota.prompt_tokens_per_second);
  out.setGeneratedTokensPerSecond(quota.generated_tokens_per_second);
  out.setBurstSeconds(quota.burst_seconds);
  out.setSequences(quota.sequences);
  out.setKvBytes(quota.kv_bytes);
  out.setGuaranteedBytes(quota.guaranteed_bytes);
  out.setBurstBytes(quota.burst_bytes);
  out.setCacheBytes(quota.cache_bytes);
  out.setPromptTokens(quota.prompt_tokens);
  out.setGeneratedTokens(quota.generated_tokens);
  out.setRequestTokens(quota.request_tokens);
  out.setDeadlineMs(quota.deadline_ms);
  write(quota.models, out.initModels(quota.models.size()));
}

void write(const cluster::Tenant& tenant, schema::Tenant::Builder out) {
  out.setName(text_of(tenant.name));
  out.setTier(static_cast<schema::Tier>(tenant.tier));
  write(tenant.quota, out.initQuota());
  out.setSuspended(tenant.suspended);
  out.setIsOperator(tenant.is_operator);
  out.setNoStore(tenant.cache.no_store);
  write_cache_policy(tenant.cache, out);
  auto keys = out.initKeys(tenant.keys.size());
  for (unsigned i = 0; i < tenant.keys.size(); ++i) {
    keys[i].setCreated(tenant.keys[i].created_s);
    keys[i].setExpires(tenant.keys[i].expires_s);
  }
}
static_assert(static_cast<int>(cluster::Tier::best_effort) ==
              static_cast<int>(schema::Tier::BEST_EFFORT));
static_assert(static_cast<int>(PressureLevel::red) == static_cast<int>(schema::Pressure::RED));

}  // namespace

void write(const ClusterStatus& status, schema::Status::Builder out) {
  out.setVersion(text_of(status.version));
  out.setUptimeSeconds(status.uptime_seconds);
  out.setPressure(static_cast<schema::Pressure>(status.pressure));
  auto nodes = out.initNodes(status.nodes.size());
  for (unsigned i = 0; i < status.nodes.size(); ++i) {
    const auto& node = status.nodes[i];
    nodes[i].setName(text_of(node.name));
    nodes[i].setState(text_of(node.state));
    auto engines = nodes[i].initEngines(node.models.size());
    for (unsigned j = 0; j < node.models.size(); ++j) {
      write(node.models[j].first, node.models[j].second, engines[j]);
    }
  }
}

void write(const NodeMemory& memory, schema::NodeMemory::Builder out) {
  out.setNode(text_of(memory.node));
  out.setAgeSeconds(memory.age_s);
  write(*memory.report, out.initReport());
}

void write(const ClusterView& view, schema::ClusterView::Builder out) {
  out.setVersion(text_of(view.version));
  out.setStore(text_of(view.store));
  out.setMembershipVersion(view.membership_version);
  out.setUptimeSeconds(view.uptime_seconds);
  auto routers = out.initRouters(view.routers.size());
  for (unsigned i = 0; i < view.routers.size(); ++i) write(view.routers[i], routers[i]);
  auto nodes = out.initNodes(view.nodes.size());
  for (unsigned i = 0; i < view.nodes.size(); ++i) write(view.nodes[i], nodes[i]);
}

void write(const TenantView& view, schema::TenantView::Builder out) {
  write(view.tenant, out.initTenant());
  write(view.home, out.initHome(view.home.size()));
  out.setSequences(view.sequences);
  out.setTokensPerSecond(view.tokens_per_second);
  out.setMemoryBytes(view.memory_bytes);
}

void write(const NodeCacheAnswer& answer, schema::NodeCacheAnswer::Builder out) {
  out.setNode(text_of(answer.node));
  write(answer.answer, out.initAnswer());
}

void write(const Move& move, schema::Move::Builder out) {
  out.setTenant(text_of(move.tenant));
  out.setFrom(text_of(move.from));
  out.setTo(text_of(move.to));
  out.setSequences(move.sequences);
}

void write(const JoinTokenView& token, schema::JoinToken::Builder out) {
  out.setId(text_of(token.id));
  out.setExpires(token.expires_s);
}

void write(const ModelView& model, schema::PlacedModel::Builder out) {
  out.setName(text_of(model.name));
  out.setVersion(text_of(model.version));
  out.setSource(text_of(model.source));
  auto replicas = out.initReplicas(model.replicas.size());
  for (unsigned i = 0; i < model.replicas.size(); ++i) {
    replicas[i].setNode(text_of(model.replicas[i].node));
    replicas[i].setState(text_of(model.replicas[i].state));
    replicas[i].setReason(text_of(model.replicas[i].reason));
  }
}

void write(const std::string& tenant, const cluster::Usage& usage,
           schema::TenantUsage::Builder out) {
  out.setTenant(text_of(tenant));
  out.setRequests(usage.requests);
  out.setPromptTokens(usage.prompt_tokens);
  out.setCachedTokens(usage.cached_tokens);
  out.setGeneratedTokens(usage.generated_tokens);
  out.setKvByteSeconds(usage.kv_byte_seconds);
  out.setCacheByteSeconds(usage.cache_byte_seconds);
  out.setWeightsByteSeconds(usage.weights_byte_seconds);
  auto rejections = out.initRejections(usage.rejections.size());
  unsigned i = 0;
  for (const auto& [reason, count] : usage.rejections) {
    rejections[i].setReason(text_of(reason));
    rejections[i++].setCount(count);
  }
}

void write(const cluster::Event& event, schema::Event::Builder out) {
  out.setId(event.id);
  out.setUnixSeconds(event.unix_seconds);
  out.setNode(text_of(event.node));
  out.setKind(text_of(to_string(event.kind)));
  out.setLevel(static_cast<schema::Pressure>(event.level));
  out.setTenant(text_of(event.tenant));
  out.setModel(text_of(event.model));
  out.setCause(text_of(event.cause));
  out.setBytes(event.bytes);
  out.setCount(event.count);
  out.setUsedBytes(event.used_bytes);
  out.setLimitBytes(event.limit_bytes);
}

Result<cluster::EventLog::Query> read(schema::EventQuery::Reader in) {
  cluster::EventLog::Query out;
  out.after = in.getAfter();
  out.node = string_of(in.getNode());
  out.tenant = string_of(in.getTenant());
  out.limit = in.getLimit();
  const auto kind = string_of(in.getKind());
  if (kind.empty()) return out;
  out.kind = cluster::event_kind(kind);
  if (!out.kind) {
    return fail(Error(ErrorCode::invalid_argument, "no kind of event is named '" + kind + "'")
                    .with_param("kind"));
  }
  return out;
}

Result<cluster::Tier> read(schema::Tier tier) {
  if (tier > schema::Tier::BEST_EFFORT) {
    return fail(Error(ErrorCode::invalid_argument, "a tier that this server does not know")
                    .with_param("tier"));
  }
  return static_cast<cluster::Tier>(tier);
}

Result<cluster::Quota> read(schema::Quota::Reader in) {
  cluster::Quota out;
  const auto rate = [](double value) { return std::isfinite(value) && value >= 0; };
  for (const auto& [value, name] : {std::pair(in.getRequestsPerSecond(), "requestsPerSecond"),
                                    {in.getPromptTokensPerSecond(), "promptTokensPerSecond"},
                                    {in.getGeneratedTokensPerSecond(), "generatedTokensPerSecond"},
                                    {in.getBurstSeconds(), "burstSeconds"}}) {
    if (!rate(value)) {
      return fail(Error(ErrorCode::invalid_argument,
                        std::string("quota: ") + name + " must be a number, 0 or more")
                      .with_param(name));
    }
  }
  out.requests_per_second = in.getRequestsPerSecond();
  out.prompt_tokens_per_second = in.getPromptTokensPerSecond();
  out.generated_tokens_per_second = in.getGeneratedTokensPerSecond();
  out.burst_seconds = in.getBurstSeconds();
  out.sequences = in.getSequences();
  out.kv_bytes = in.getKvBytes();
  out.guaranteed_bytes = in.getGuaranteedBytes();
  out.burst_bytes = in.getBurstBytes();
  out.cache_bytes = in.getCacheBytes();
  out.prompt_tokens = in.getPromptTokens();
  out.generated_tokens = in.getGeneratedTokens();
  out.request_tokens = in.getRequestTokens();
  out.deadline_ms = in.getDeadlineMs();
  out.models = read(in.getModels());
  return out;
}

Result<cluster::Tenant> read(schema::Tenant::Reader in) {
  const auto tier = read(in.getTier());
  if (!tier) return fail(tier.error());
  auto quota = read(in.getQuota());
  if (!quota) return fail(quota.error());
  cluster::Tenant out;
  out.name = string_of(in.getName());
  out.tier = *tier;
  out.quota = std::move(*quota);
  out.suspended = in.getSuspended();
  out.is_operator = in.getIsOperator();
  out.cache.no_store = in.getNoStore();
  return out;
}

std::vector<std::string> read(capnp::List<capnp::Text>::Reader in) {
  std::vector<std::string> out;
  for (const auto text : in) out.push_back(string_of(text));
  return out;
}

}  // namespace plimsoll
