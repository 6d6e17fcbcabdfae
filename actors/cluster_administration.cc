#include "actors/cluster_administration.h"

#include <algorithm>
#include <future>
#include <thread>
#include <utility>

namespace plimsoll {
namespace {

constexpr std::chrono::seconds router_patience{5};
constexpr std::chrono::milliseconds look_again{50};
// After a drain's deadline, for what then moves.
constexpr std::chrono::seconds move_grace{2};

tl::unexpected<Error> configured(const std::string& what) {
  return fail(ErrorCode::unsupported,
              what + " come from the configuration file: change it, and start the router again");
}
tl::unexpected<Error> no_node(const std::string& name) {
  return fail(ErrorCode::not_found, "no node named '" + name + "' is in the cluster");
}

}  // namespace

ClusterAdministration::ClusterAdministration(RouterActor router, std::shared_ptr<Board> board,
                                             std::string name, std::vector<cluster::Tenant> tenants)
    : router_(std::move(router)),
      board_(std::move(board)),
      name_(std::move(name)),
      tenants_(std::move(tenants)) {}

Result<void> ClusterAdministration::in_router(
    std::function<void(cluster::Router&, cluster::Time, cluster::Actions&)> run) {
  // Shared: the caller may have given up when the router gets to it.
  auto call = std::make_shared<decltype(run)>(std::move(run));
  auto done = std::make_shared<std::promise<void>>();
  auto answer = done->get_future();
  const auto abandoned = std::make_shared<std::atomic<bool>>(false);
  caf::anon_send(router_, InRouter{[=](auto& router, auto now, auto& actions) {
                   if (!*abandoned) (*call)(router, now, actions);
                   done->set_value();
                 }});
  if (answer.wait_for(router_patience) == std::future_status::ready) return {};
  *abandoned = true;
  return fail(Error(ErrorCode::unavailable, "the router does not answer").retry_after(1000));
}

ClusterView ClusterAdministration::cluster() {
  ClusterView view;
  view.version = PLIMSOLL_VERSION;
  view.store = "memory";
  view.uptime_seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - started_).count();
  RouterView self;
  self.name = name_;
  self.self = true;
  auto counted = std::make_shared<std::pair<std::uint32_t, std::uint64_t>>();
  if (in_router([counted](auto& router, auto, auto&) {
        *counted = {static_cast<std::uint32_t>(router.streams()), router.membership().version()};
      })) {
    self.streams = counted->first;
    view.membership_version = counted->second;
  }
  for (const auto& status : board_->nodes()) {
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
    view.nodes.push_back(std::move(node));
  }
  view.routers.push_back(std::move(self));
  return view;
}

Result<void> ClusterAdministration::cordon(const std::string& node, bool on) {
  struct Answer {
    bool known = false, done = false;
  };
  auto answer = std::make_shared<Answer>();
  auto asked = in_router([=](auto& router, auto, auto&) {
    answer->known = router.nodes().contains(node);
    answer->done = router.cordon(node, on);
  });
  if (!asked) return asked;
  if (!answer->known) return no_node(node);
  if (!answer->done) {
    return fail(ErrorCode::failed_precondition,
                "node '" + node + "' is not " + (on ? "ready" : "cordoned"));
  }
  return {};
}

Result<Administration::Drained> ClusterAdministration::drain(const std::string& node,
                                                             std::chrono::milliseconds deadline) {
  struct Answer {
    bool known = false, done = false, empty = false;
    Drained drained;
  };
  auto answer = std::make_shared<Answer>();
  auto asked = in_router([=](auto& router, auto now, auto& actions) {
    answer->known = router.nodes().contains(node);
    answer->done = router.drain(node, now + deadline, now, actions);
  });
  if (!asked) return fail(std::move(asked.error()));
  if (!answer->known) return no_node(node);
  if (!answer->done) {
    return fail(ErrorCode::failed_precondition, "node '" + node + "' drains already");
  }
  const auto until = std::chrono::steady_clock::now() + deadline + move_grace;
  while (!answer->empty && !stopping_ && std::chrono::steady_clock::now() < until) {
    std::this_thread::sleep_for(look_again);
    auto look = std::make_shared<Answer>();
    asked = in_router([=](auto& router, auto, auto&) {
      const auto it = router.nodes().find(node);
      look->known = it != router.nodes().end();
      if (!look->known) return;
      look->empty = it->second.runs.empty();
      look->drained = {it->second.finished, it->second.moved, it->second.cut};
    });
    if (!asked) return fail(std::move(asked.error()));
    if (!look->known) break;  // it left
    answer = look;
  }
  return answer->drained;
}

Result<void> ClusterAdministration::remove(const std::string& node, bool) {
  if (std::ranges::count(board_->nodes(), node, &NodeStatus::name) == 0) return no_node(node);
  return fail(ErrorCode::unsupported, "nodes are admitted by their certificates: drain '" + node +
                                          "' and stop its process");
}

Result<std::vector<Move>> ClusterAdministration::rebalance(bool dry_run) {
  auto moves = std::make_shared<std::vector<Move>>();
  auto asked = in_router([=](auto& router, auto now, auto& actions) {
    for (auto& move : router.rebalance(dry_run, now, actions)) {
      moves->push_back({move.tenant, move.from, move.to, move.sequences});
    }
  });
  if (!asked) return fail(std::move(asked.error()));
  return std::move(*moves);
}

Result<std::string> ClusterAdministration::create_join_token(std::chrono::seconds) {
  return fail(ErrorCode::unsupported,
              "nodes are admitted by their certificates: `plimsoll ca issue`");
}
Result<std::vector<JoinTokenView>> ClusterAdministration::join_tokens() {
  return std::vector<JoinTokenView>();
}
Result<void> ClusterAdministration::revoke_join_token(const std::string& id) {
  return fail(ErrorCode::not_found, "no join token '" + id + "'");
}

Result<std::vector<TenantView>> ClusterAdministration::tenants() {
  auto views = std::make_shared<std::vector<TenantView>>();
  auto asked = in_router([views, tenants = tenants_](auto& router, auto, auto&) {
    for (const auto& tenant : tenants) {
      TenantView view;
      view.tenant = tenant;
      view.home = router.home(tenant.name);
      view.sequences = router.quotas().sequences(tenant.name);
      views->push_back(std::move(view));
    }
  });
  if (!asked) return fail(std::move(asked.error()));
  return std::move(*views);
}

Result<TenantView> ClusterAdministration::tenant(const std::string& name) {
  auto all = tenants();
  if (!all) return fail(std::move(all.error()));
  for (auto& view : *all) {
    if (view.tenant.name == name) return std::move(view);
  }
  return fail(ErrorCode::not_found, "no tenant named '" + name + "'");
}

Result<std::string> ClusterAdministration::create_tenant(const cluster::Tenant&) {
  return configured("tenants");
}
Result<void> ClusterAdministration::set_quota(const std::string&, const cluster::Quota&) {
  return configured("quotas");
}
Result<void> ClusterAdministration::set_tier(const std::string&, cluster::Tier) {
  return configured("tiers");
}
Result<void> ClusterAdministration::suspend(const std::string&, bool) {
  return configured("tenants");
}
Result<std::string> ClusterAdministration::rotate_key(const std::string&, std::chrono::seconds) {
  return configured("keys");
}

Result<std::map<std::string, cluster::Usage>> ClusterAdministration::usage() {
  const std::lock_guard lock(usage_mutex_);
  auto taken = std::make_shared<std::map<std::string, cluster::Usage>>();
  auto asked = in_router([taken](auto& router, auto, auto&) { *taken = router.take_usage(); });
  if (!asked) return fail(std::move(asked.error()));
  for (const auto& [tenant, usage] : *taken) usage_[tenant] += usage;
  return usage_;
}

Result<std::vector<ModelView>> ClusterAdministration::models() {
  std::vector<ModelView> views;
  const auto nodes = board_->nodes();
  for (const auto& card : board_->models()) {
    ModelView view;
    view.name = card.name;
    view.version = card.version;
    for (const auto& node : nodes) {
      const bool has = std::ranges::any_of(
          node.models, [&](const auto& model) { return model.first == card.name; });
      if (has) view.replicas.push_back({node.name, "ready", {}});
    }
    views.push_back(std::move(view));
  }
  return views;
}
Result<void> ClusterAdministration::load_model(const std::string&, const std::string&,
                                               const std::vector<std::string>&) {
  return configured("models");
}
Result<void> ClusterAdministration::unload_model(const std::string&) {
  return configured("models");
}
Result<void> ClusterAdministration::place_model(const std::string&,
                                                const std::vector<std::string>&) {
  return configured("models");
}

}  // namespace plimsoll
