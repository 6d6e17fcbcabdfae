#include "cli/documents.h"

#include "cli/quota_flags.h"

namespace plimsoll::cli {

using client::ClusterNode;
using client::ClusterView;
using client::TenantView;

Json to_json(const ClusterNode& n) {
  return {{"name", n.name},
          {"state", n.state},
          {"address", n.address},
          {"version", n.version},
          {"epoch", n.epoch},
          {"weight", n.weight},
          {"slow_factor", n.slow_factor},
          {"heartbeat_age_seconds", n.heartbeat_age_seconds},
          {"sequences", n.sequences},
          {"tokens_per_second", n.tokens_per_second},
          {"memory_used_bytes", n.memory_used_bytes},
          {"memory_limit_bytes", n.memory_limit_bytes},
          {"pressure", n.pressure},
          {"models", n.models}};
}

Json to_json(const std::vector<ClusterNode>& nodes) {
  Json json = Json::array();
  for (const auto& node : nodes) json.push_back(to_json(node));
  return json;
}

Json to_json(const ClusterView& view) {
  Json routers = Json::array();
  for (const auto& r : view.routers) {
    routers.push_back({{"name", r.name},
                       {"address", r.address},
                       {"self", r.self},
                       {"streams", r.streams},
                       {"tokens_per_second", r.tokens_per_second}});
  }
  return {{"version", view.version},
          {"store", view.store},
          {"membership_version", view.membership_version},
          {"uptime_seconds", view.uptime_seconds},
          {"routers", routers},
          {"nodes", to_json(view.nodes)}};
}

Json to_json(const TenantView& view) {
  Json keys = Json::array();
  for (const auto& key : view.tenant.keys) {
    keys.push_back({{"created", key.created}, {"expires", key.expires}});
  }
  const auto& tenant = view.tenant;
  const Json bytes = tenant.disk_cache_bytes ? Json(*tenant.disk_cache_bytes) : Json();
  Json ttls = Json::object();
  for (const auto& [kind, ttl] : tenant.disk_cache_ttl) ttls[kind] = ttl.count();
  return {{"name", view.tenant.name},
          {"tier", view.tenant.tier},
          {"suspended", view.tenant.suspended},
          {"operator", view.tenant.is_operator},
          {"cache", view.tenant.no_store ? "no-store" : "default"},
          {"disk_cache_bytes", bytes},
          {"disk_cache_ttl_ms", ttls},
          {"home", view.home},
          {"sequences", view.sequences},
          {"tokens_per_second", view.tokens_per_second},
          {"memory_bytes", view.memory_bytes},
          {"keys", keys},
          {"quota", to_json(view.tenant.quota)}};
}

Json to_json(const std::vector<TenantView>& tenants) {
  Json json = Json::array();
  for (const auto& tenant : tenants) json.push_back(to_json(tenant));
  return json;
}

}  // namespace plimsoll::cli
