#include "actors/cluster_administration.h"

#include <algorithm>
#include <ctime>
#include <set>
#include <thread>
#include <utility>

#include "actors/router_call.h"
#include "actors/secrets.h"

namespace plimsoll {
namespace {

constexpr std::chrono::milliseconds look_again{50};
// After a drain's deadline, for what then moves.
constexpr std::chrono::seconds move_grace{2};
// For what a node answers from memory.
constexpr std::chrono::seconds look_patience{5};

std::uint64_t now_s() { return static_cast<std::uint64_t>(std::time(nullptr)); }

tl::unexpected<Error> no_node(const std::string& name) {
  return fail(ErrorCode::not_found, "no node named '" + name + "' is in the cluster");
}

}  // namespace

// ---------------------------------------------------------------- nodes

ClusterView ClusterAdministration::cluster() {
  ClusterView view;
  view.version = PLIMSOLL_VERSION;
  view.store = services_.store;
  view.uptime_seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - started_).count();
  RouterView self = services_.self;
  self.self = true;
  (void)call_router(services_.router, [&](auto& router, auto, auto&) {
    self.streams = static_cast<std::uint32_t>(router.streams());
    view.membership_version = router.membership().version();
  });
  std::set<std::string> known;
  for (const auto& status : services_.board.nodes()) {
    NodeView node;
    node.name = status.name;
    node.state = status.state;
    node.address = status.address;
    node.version = status.version;
    node.epoch = status.epoch;
    node.weight = status.weight;
    node.slow_factor = status.slow_factor;
    node.heartbeat_age_s = status.heartbeat_age_seconds;
    node.sequences = status.sequences;
    node.tokens_per_second = status.tokens_per_second;
    node.memory_used_bytes = status.memory_used_bytes;
    node.memory_limit_bytes = status.memory_limit_bytes;
    node.pressure = status.pressure;
    for (const auto& [model, stats] : status.models) node.models.push_back(model);
    self.tokens_per_second += node.tokens_per_second;
    known.insert(node.name);
    view.nodes.push_back(std::move(node));
  }
  for (const auto& record : services_.directory.nodes()) {
    if (known.contains(record.name)) continue;
    NodeView node;  // it has not come back since this router started
    node.name = record.name;
    node.state = "lost";
    view.nodes.push_back(std::move(node));
  }
  view.routers.push_back(std::move(self));
  if (!services_.shared) return view;
  if (const auto routers = services_.directory.routers()) {
    for (const auto& router : *routers) {
      if (router.name == services_.self.name) continue;
      view.routers.push_back(
          {router.name, router.address, false, router.streams, router.tokens_per_second});
    }
  }
  return view;
}

bool ClusterAdministration::is_recorded(const std::string& node) const {
  return std::ranges::count(services_.directory.nodes(), node, &NodeRecord::name) != 0;
}

Result<void> ClusterAdministration::cordon(const std::string& node, bool on) {
  bool known = false, allowed = false;
  auto asked = call_router(services_.router, [&](auto& router, auto, auto&) {
    const auto* member = router.membership().find(node);
    known = member != nullptr && member->state != cluster::NodeState::lost;
    using enum cluster::NodeState;
    allowed = known && (member->state == ready || member->state == cordoned);
    router.cordon(node, on);
  });
  if (!asked) return asked;
  const bool recorded = is_recorded(node);
  if (!known && !recorded) return no_node(node);
  if (known && !allowed) {
    return fail(ErrorCode::failed_precondition, "node '" + node + "' is draining");
  }
  return recorded ? services_.directory.set_cordoned(node, on) : Result<void>();
}

Result<Administration::Drained> ClusterAdministration::drain(const std::string& node,
                                                             std::chrono::milliseconds deadline) {
  bool known = false, done = false;
  auto asked = call_router(services_.router, [&](auto& router, auto now, auto& actions) {
    known = router.nodes().contains(node);
    done = router.drain(node, now + deadline, now, actions);
  });
  if (!asked) return fail(std::move(asked.error()));
  if (!known) return no_node(node);
  if (!done) {
    return fail(ErrorCode::failed_precondition, "node '" + node + "' drains already");
  }
  if (services_.shared && is_recorded(node)) {
    const auto until = std::chrono::system_clock::now().time_since_epoch() + deadline;
    const auto until_ms = std::chrono::duration_cast<std::chrono::milliseconds>(until).count();
    auto told = services_.directory.set_drain(node, static_cast<std::uint64_t>(until_ms));
    if (!told) return fail(std::move(told.error()));
  }
  Drained drained;
  bool empty = false;
  const auto until = std::chrono::steady_clock::now() + deadline + move_grace;
  while (!empty && !stopping_ && std::chrono::steady_clock::now() < until) {
    std::this_thread::sleep_for(look_again);
    asked = call_router(services_.router, [&](auto& router, auto, auto&) {
      const auto it = router.nodes().find(node);
      known = it != router.nodes().end();
      if (!known) return;
      // What other routers have there is in the node's own reports.
      empty = it->second.runs.empty() && (!services_.shared || it->second.reported_load == 0);
      drained = {it->second.finished, it->second.moved, it->second.cut};
    });
    if (!asked) return fail(std::move(asked.error()));
    if (!known) break;  // it left
  }
  return drained;
}

Result<void> ClusterAdministration::remove(const std::string& node, bool force) {
  const bool recorded = is_recorded(node);
  bool known = false, alive = false;
  auto asked = call_router(services_.router, [&](auto& router, auto, auto&) {
    known = router.membership().find(node) != nullptr;
    alive = router.nodes().contains(node);
  });
  if (!asked) return asked;
  if (!known && !recorded) return no_node(node);
  if (alive && !force) {
    return fail(ErrorCode::failed_precondition,
                "node '" + node + "' is alive: drain it and stop it, or use force");
  }
  if (recorded) {
    if (auto removed = services_.directory.remove_node(node); !removed) return removed;
  }
  return call_router(services_.router, [&](auto& router, auto now, auto& actions) {
    router.forget(node, now, actions);
  });
}

Result<std::vector<Move>> ClusterAdministration::rebalance(bool dry_run) {
  std::vector<Move> moves;
  auto asked = call_router(services_.router, [&](auto& router, auto now, auto& actions) {
    for (auto& move : router.rebalance(dry_run, now, actions)) {
      moves.push_back({move.tenant, move.from, move.to, move.sequences});
    }
  });
  if (!asked) return fail(std::move(asked.error()));
  return moves;
}

Result<std::string> ClusterAdministration::create_join_token(std::chrono::seconds ttl) {
  return services_.directory.create_join_token(now_s(), static_cast<std::uint64_t>(ttl.count()));
}

Result<std::vector<JoinTokenView>> ClusterAdministration::join_tokens() {
  const auto tokens = services_.directory.join_tokens();
  if (!tokens) return fail(tokens.error());
  std::vector<JoinTokenView> views;
  for (const auto& token : *tokens) views.push_back({token.id, token.expires_s});
  return views;
}

Result<void> ClusterAdministration::revoke_join_token(const std::string& id) {
  return services_.directory.revoke_join_token(id);
}

// ---------------------------------------------------------------- tenants

Result<std::vector<TenantView>> ClusterAdministration::views(
    const std::vector<cluster::Tenant>& tenants) {
  std::map<std::string, std::int64_t> bytes;
  for (const auto& row : services_.ledger.snapshot()) bytes[row.tenant] += row.bytes;
  const auto rates = services_.keeper.token_rates();
  std::vector<TenantView> views;
  auto asked = call_router(services_.router, [&](auto& router, auto, auto&) {
    for (const auto& tenant : tenants) {
      TenantView view;
      view.tenant = tenant;
      view.home = router.home(tenant.name);
      view.sequences = router.quotas().sequences(tenant.name);
      views.push_back(std::move(view));
    }
  });
  if (!asked) return fail(std::move(asked.error()));
  for (auto& view : views) {
    const auto& name = view.tenant.name;
    if (const auto it = rates.find(name); it != rates.end()) view.tokens_per_second = it->second;
    if (const auto it = bytes.find(name); it != bytes.end() && it->second > 0) {
      view.memory_bytes = static_cast<std::uint64_t>(it->second);
    }
  }
  return views;
}

Result<std::vector<TenantView>> ClusterAdministration::tenants() {
  return views(services_.directory.tenants());
}

Result<TenantView> ClusterAdministration::tenant(const std::string& name) {
  const auto found = services_.directory.tenant(name);
  if (!found) return fail(ErrorCode::not_found, "no tenant named '" + name + "'");
  auto made = views({*found});
  if (!made) return fail(std::move(made.error()));
  return std::move(made->front());
}

Result<std::string> ClusterAdministration::create_tenant(const cluster::Tenant& tenant) {
  if (tenant.name == shared_tenant.get() || tenant.name == "other") {
    return fail(
        Error(ErrorCode::invalid_argument, "'" + tenant.name + "' is reserved").with_param("name"));
  }
  auto key = make_secret("pl-");
  if (!key) return key;
  auto made = tenant;
  made.keys = {{sha256_hex(*key), now_s(), 0}};
  made.declared.clear();
  auto created = services_.directory.create_tenant(std::move(made));
  if (!created) return fail(std::move(created.error()));
  services_.keeper.apply();
  return key;
}

Result<void> ClusterAdministration::change_tenant(
    const std::string& name, const std::function<void(cluster::Tenant&)>& change) {
  const auto changed =
      services_.directory.change_tenant(name, [&](cluster::Tenant& tenant) -> Result<void> {
        change(tenant);
        return {};
      });
  if (!changed) return fail(changed.error());
  services_.keeper.apply();
  return {};
}

Result<void> ClusterAdministration::set_quota(const std::string& tenant,
                                              const cluster::Quota& quota) {
  return change_tenant(tenant, [&](cluster::Tenant& record) { record.quota = quota; });
}
Result<void> ClusterAdministration::set_tier(const std::string& tenant, cluster::Tier tier) {
  return change_tenant(tenant, [&](cluster::Tenant& record) { record.tier = tier; });
}
Result<void> ClusterAdministration::set_no_store(const std::string& tenant, bool on) {
  return change_tenant(tenant, [&](cluster::Tenant& record) { record.cache.no_store = on; });
}
Result<void> ClusterAdministration::suspend(const std::string& tenant, bool on) {
  return change_tenant(tenant, [&](cluster::Tenant& record) { record.suspended = on; });
}

Result<std::string> ClusterAdministration::rotate_key(const std::string& tenant,
                                                      std::chrono::seconds grace) {
  auto key =
      services_.directory.rotate_key(tenant, now_s(), static_cast<std::uint64_t>(grace.count()));
  if (key) services_.keeper.apply();
  return key;
}

Result<std::map<std::string, cluster::Usage>> ClusterAdministration::usage() {
  return services_.keeper.usage();
}

// ---------------------------------------------------------------- caches on disk

Result<void> ClusterAdministration::set_cache_quota(const std::string& tenant,
                                                    std::optional<std::uint64_t> bytes) {
  return change_tenant(tenant, [&](cluster::Tenant& record) { record.cache.bytes = bytes; });
}

Result<void> ClusterAdministration::set_cache_ttl(const std::string& tenant,
                                                  storage::CacheKind kind,
                                                  std::optional<std::chrono::milliseconds> ttl) {
  if (ttl && *ttl > storage::longest_cache_ttl) {
    return fail(Error(ErrorCode::invalid_argument, "a TTL of the cache on disk is 30 days at most")
                    .with_param("ttl"));
  }
  return change_tenant(tenant, [&](cluster::Tenant& record) {
    auto& ttl_ms = record.cache.ttl_ms[static_cast<std::size_t>(kind)];
    ttl_ms.reset();
    if (ttl) ttl_ms = static_cast<std::uint32_t>(ttl->count());
  });
}

// All at once: the slowest is what it takes.
std::vector<NodeCacheAnswer> ClusterAdministration::ask_each(
    const CacheCall& call, const std::vector<std::string>& nodes) const {
  caf::scoped_actor self(services_.router.home_system());
  const bool purges = std::holds_alternative<storage::CachePurge>(call);
  const std::chrono::seconds patience = purges ? cache_call_patience : look_patience;
  const auto ask = [&](const std::string& node) {
    return self->request(services_.router, patience, AskNodeCache{node, call});
  };
  std::vector<decltype(ask({}))> asked;
  for (const auto& node : nodes) asked.push_back(ask(node));
  std::vector<NodeCacheAnswer> answers;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    NodeCacheAnswer answer{nodes[i], {}};
    asked[i].receive([&](CacheAnswer& said) { answer.answer = std::move(said); },
                     [&](const caf::error&) {
                       answer.answer.error =
                           Error(ErrorCode::unavailable,
                                 "node '" + nodes[i] +
                                     "' has not answered in time; what it was asked for it may "
                                     "still do, unless it is too old to know of it")
                               .retry_after(1000);
                     });
    answers.push_back(std::move(answer));
  }
  return answers;
}

Result<std::vector<NodeCacheAnswer>> ClusterAdministration::ask_caches(const CacheCall& call,
                                                                       const std::string& node) {
  std::vector<std::string> nodes;
  for (const auto& status : services_.board.nodes()) {
    const bool wanted = node.empty() ? status.state != "lost" : status.name == node;
    if (wanted) nodes.push_back(status.name);
  }
  if (!node.empty() && nodes.empty()) return no_node(node);
  auto answers = ask_each(call, nodes);
  if (!node.empty()) {
    if (auto& error = answers.front().answer.error) return fail(std::move(*error));
  } else {
    std::erase_if(answers, [](const NodeCacheAnswer& each) {
      const auto& error = each.answer.error;
      return error && error->code == ErrorCode::failed_precondition;
    });
    if (answers.empty()) {
      return fail(ErrorCode::failed_precondition,
                  "no node has a cache on disk: their configurations name no cache.directory");
    }
  }
  const auto* purge = std::get_if<storage::CachePurge>(&call);
  if (purge == nullptr || !purge->tenant || services_.directory.tenant(purge->tenant->get())) {
    return answers;
  }
  // It may have been removed, and its entries not.
  const bool unknown = std::ranges::all_of(answers, [](const NodeCacheAnswer& each) {
    return !each.answer.error && each.answer.purged_entries == 0;
  });
  if (unknown) {
    return fail(ErrorCode::not_found, "no tenant named '" + purge->tenant->get() + "'");
  }
  return answers;
}

// ---------------------------------------------------------------- models

Result<std::vector<ModelView>> ClusterAdministration::models() {
  std::map<std::string, ModelView> views;
  for (const auto& card : services_.board.models()) {
    views[card.name].name = card.name;
    views[card.name].version = card.version;
  }
  for (const auto& placement : services_.directory.placements()) {
    auto& view = views[placement.model];
    view.name = placement.model;
    view.source = placement.source;
  }
  for (const auto& [model, reason] : services_.models.missing()) {
    const auto it = views.find(model);
    if (it == views.end()) continue;
    it->second.replicas.push_back(
        {services_.self.name, reason.empty() ? "loading" : "failed", reason});
  }
  for (const auto& node : services_.board.nodes()) {
    for (const auto& replica : node.replicas) {
      const auto it = views.find(replica.model);
      if (it == views.end()) continue;
      it->second.replicas.push_back({node.name, replica.state, replica.reason});
    }
  }
  std::vector<ModelView> out;
  for (auto& [name, view] : views) out.push_back(std::move(view));
  return out;
}

Result<void> ClusterAdministration::check_nodes(const std::vector<std::string>& nodes) const {
  const auto known = services_.board.nodes();
  for (const auto& node : nodes) {
    if (std::ranges::count(known, node, &NodeStatus::name) == 0 && !is_recorded(node)) {
      return no_node(node);
    }
  }
  return {};
}

Result<ModelPlacement> ClusterAdministration::placement(const std::string& model) const {
  for (auto& placement : services_.directory.placements()) {
    if (placement.model == model) return std::move(placement);
  }
  if (services_.models.is_configured(model)) {
    return fail(ErrorCode::failed_precondition,
                "model '" + model + "' comes from the configuration of routers and nodes");
  }
  return fail(ErrorCode::not_found, "no model named '" + model + "' was loaded at run time");
}

Result<void> ClusterAdministration::load_model(const std::string& name, const std::string& source,
                                               const std::vector<std::string>& nodes) {
  const ModelPlacement wanted{name, source, nodes};
  if (const auto there = placement(name)) {
    return fail(ErrorCode::already_exists, "model '" + name + "' is loaded already, from '" +
                                               there->source + "'; unload it, or place it");
  }
  if (auto known = check_nodes(nodes); !known) return known;
  if (auto good = services_.models.check(wanted); !good) return good;
  if (auto placed = services_.directory.place(wanted); !placed) return placed;
  services_.keeper.apply();
  return {};
}

Result<void> ClusterAdministration::unload_model(const std::string& name) {
  if (auto there = placement(name); !there) return fail(std::move(there.error()));
  if (auto gone = services_.directory.unplace(name); !gone) return gone;
  services_.keeper.apply();
  return {};
}

Result<void> ClusterAdministration::place_model(const std::string& name,
                                                const std::vector<std::string>& nodes) {
  auto wanted = placement(name);
  if (!wanted) return fail(std::move(wanted.error()));
  if (auto known = check_nodes(nodes); !known) return known;
  wanted->nodes = nodes;
  if (auto placed = services_.directory.place(*wanted); !placed) return placed;
  services_.keeper.apply();
  return {};
}

}  // namespace plimsoll
