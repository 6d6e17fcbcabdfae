#include "tests/cluster/simulation/scenario.h"

#include <algorithm>
#include <cmath>

namespace plimsoll::simulation {
namespace {

constexpr double skew_s = 0.5;  // clocks of routers differ by no more
constexpr double end_s = 300;   // within which everything must have ended: before deadlines
constexpr const char* models[] = {"chat", "code"};

}  // namespace

Options Options::small(std::uint64_t seed) {
  World chance(seed ^ 0x5eed, false);
  Options options;
  options.seed = seed;
  options.routers = static_cast<std::uint32_t>(1 + chance.below(4));
  options.nodes = static_cast<std::uint32_t>(1 + chance.below(12));
  options.tenants = static_cast<std::uint32_t>(1 + chance.below(30));
  options.seconds = 20;
  options.requests = std::round(chance.between(1, 20));
  options.faults = std::round(chance.between(0, 20)) / 10;
  return options;
}

std::string Options::arguments() const {
  return fmt::format(
      "--seed {} --routers {} --nodes {} --tenants {} --seconds {} --requests {} --faults {}{}",
      seed, routers, nodes, tenants, seconds, requests, faults, flood ? " --flood" : "");
}

Scenario::Scenario(const Options& options)
    : options_(options),
      world_(options.seed, options.trace),
      network_(world_, options.routers, options.nodes),
      store_(options.routers),
      quotas_(world_, options.routers),
      clients_(world_, routers_) {
  std::vector<Peer*> peers;
  const Cluster cluster{world_, network_, store_, records_, quotas_, clients_, nodes_};
  for (std::uint32_t r = 0; r < options.routers; ++r) {
    const double skew = world_.between(0, skew_s);
    routers_.push_back(std::make_unique<RouterProcess>(cluster, r, skew, options.nodes <= 32));
    peers.push_back(routers_.back().get());
  }
  for (std::uint32_t n = 0; n < options.nodes; ++n) {
    NodeConfig config;
    config.index = n;
    config.name = fmt::format("node-{}", n);
    config.models = {models[0]};
    config.most_runs = 256 + config.places;
    if (!options.flood) {
      config.weight = world_.chance(0.3) ? 2 : 1;
      config.step_s = 0.03 / config.weight;
      if (world_.chance(0.5)) config.models.emplace_back(models[1]);
      config.places = 8 + static_cast<std::uint32_t>(world_.below(16));
      config.blocks = 64 + static_cast<std::uint32_t>(world_.below(512));
      config.most_runs = 2 * config.places;
    }
    nodes_.push_back(std::make_unique<Node>(world_, network_, peers, config));
    for (std::uint32_t r = 0; r < options.routers; ++r) {
      const bool slow = world_.chance(0.05) && !options.flood;
      network_.link(r, n).delay = slow ? 0.15 : world_.between(0.0002, 0.005);
    }
  }
  for (std::uint32_t t = 0; t < options.tenants; ++t) {
    const auto tenant = make_tenant(t);
    records_.tenants[tenant.name] = tenant;
    quotas_.set_tenant(tenant);
  }
  for (auto& router : routers_) router->boot();
  for (auto& node : nodes_) {
    world_.in(world_.between(0, 0.5), [&node = *node] { node.boot(); });
  }
}

cluster::Tenant Scenario::make_tenant(std::uint32_t number) {
  cluster::Tenant tenant;
  tenant.name = fmt::format("tenant-{}", number);
  if (options_.flood) {
    tenant.quota.sequences = 4096;
    return tenant;
  }
  tenant.tier = static_cast<cluster::Tier>(world_.below(3));
  tenant.quota.sequences = static_cast<std::uint32_t>(2 + world_.below(63));
  if (world_.chance(0.4)) tenant.quota.requests_per_second = world_.between(0.5, 10);
  if (world_.chance(0.3)) tenant.quota.prompt_tokens_per_second = world_.between(100, 3000);
  if (world_.chance(0.3)) tenant.quota.generated_tokens_per_second = world_.between(50, 1000);
  tenant.quota.burst_seconds = world_.between(1, 8);
  return tenant;
}

Figures Scenario::run() {
  if (options_.flood) {
    run_flood();
  } else {
    world_.in(1, [this] { arrive(); });
    if (options_.faults > 0) world_.in(2, [this] { fault(); });
    world_.run(options_.seconds);
  }
  over_ = true;
  heal();
  const double limit = world_.now() + end_s;
  while (clients_.open() > 0 && world_.now() < limit) world_.run(world_.now() + 1);
  world_.require(clients_.open() == 0, "{} streams are forgotten; the oldest: {}", clients_.open(),
                 clients_.oldest());
  world_.run(world_.now() + 5);
  check_end();
  Figures figures{world_.events(), clients_.counts(), faults_, store_.conflicts, 0};
  return figures;
}

// ---- load

void Scenario::arrive() {
  if (over_) return;
  world_.in(world_.exponential(1 / options_.requests), [this] { arrive(); });
  // Few tenants ask for most.
  const double popular = world_.uniform() * world_.uniform();
  Clients::Wish wish;
  wish.tenant = fmt::format(
      "tenant-{}", static_cast<std::uint32_t>(popular * static_cast<double>(options_.tenants)));
  wish.model = models[world_.chance(0.2) ? 1 : 0];
  wish.router = some_router();
  wish.sequences = world_.chance(0.1) ? 1 + static_cast<std::uint32_t>(world_.below(4)) : 1;
  wish.prompt_tokens = 1 + static_cast<std::uint32_t>(world_.exponential(80));
  wish.prompt_tokens = std::min(wish.prompt_tokens, 400U);
  wish.length = 1 + static_cast<std::uint32_t>(world_.exponential(world_.chance(0.1) ? 200 : 40));
  wish.length = std::min(wish.length, 400U);
  if (world_.chance(0.05)) wish.deadline_s = world_.between(1, 20);
  wish.slow = world_.chance(0.1);
  if (world_.chance(0.05)) wish.cancel_after = world_.exponential(2);
  wish.retries = world_.chance(0.5);
  std::vector<std::int32_t> prompt(wish.prompt_tokens);
  const auto kind = static_cast<std::int32_t>(world_.below(5));  // of a few conversations
  for (std::size_t i = 0; i < prompt.size(); ++i) prompt[i] = kind + static_cast<std::int32_t>(i);
  wish.prefix = cluster::prefix_hashes(wish.tenant, wish.model, prompt);
  clients_.ask(wish);
}

// Two tenants of the same tier: one always has six times as many requests open as the other, at
// another router.
void Scenario::run_flood() {
  std::function<void(Clients::Wish)> loop = [&](const Clients::Wish& wish) {
    if (over_) return;
    clients_.ask(wish, [&, wish] { world_.in(0.01, [&, wish] { loop(wish); }); });
  };
  for (const std::uint32_t t : {0U, 1U}) {
    Clients::Wish wish;
    wish.tenant = fmt::format("tenant-{}", t);
    wish.model = models[0];
    wish.router = t % routers_.size();
    wish.prompt_tokens = 30;
    wish.length = 60;
    const std::uint32_t open = options_.nodes * (t == 0 ? 90 : 15);
    for (std::uint32_t i = 0; i < open; ++i) {
      world_.in(1 + world_.between(0, 1), [&, wish] { loop(wish); });
    }
  }
  const auto served = [this](const char* tenant) {
    const auto it = clients_.received().find(tenant);
    return it == clients_.received().end() ? 0.0 : static_cast<double>(it->second);
  };
  world_.run(options_.seconds / 3);
  const double flood = served("tenant-0"), equal = served("tenant-1");
  world_.run(options_.seconds);
  const double ratio = (served("tenant-0") - flood) / (served("tenant-1") - equal);
  world_.trace("a flood is served {:.3f} times what its equal is", ratio);
  world_.require(ratio > 0.95 && ratio < 1.05, "a flood is served {:.3f} times what its equal is",
                 ratio);
  over_ = true;
  world_.run(world_.now() + 120);
}

// ---- what goes wrong

void Scenario::fault() {
  if (over_) return;
  world_.in(world_.exponential(1 / options_.faults), [this] { fault(); });
  ++faults_;
  one_fault();
}

void Scenario::one_fault() {
  const auto later = [this](double mean, auto then) {
    world_.in(0.05 + world_.exponential(mean), [this, then] {
      if (!over_) then();
    });
  };
  Node& node = some_node();
  const std::size_t n = node.config().index;
  const std::size_t r = some_router();
  const auto kind = world_.below(15);
  // Of many machines, most that fail are nodes.
  const bool at_router = (kind >= 7 && kind <= 9) || kind == 14;
  const double part =
      8.0 * static_cast<double>(routers_.size()) / static_cast<double>(nodes_.size());
  if (at_router && !world_.chance(part)) return;
  switch (kind) {
    case 0:
    case 1:
      node.crash(world_.chance(0.5));
      return later(world_.chance(0.3) ? 0.1 : 5, [&node] { node.boot(); });
    case 2: node.freeze(); return later(2, [&node] { node.thaw(); });
    case 3:
      node.hang();
      for (auto& router : routers_) router->node_hangs(node);
      return later(10, [&node] { node.unhang(); });
    case 4: node.slow_down(world_.between(2, 20)); return later(10, [&node] { node.slow_down(1); });
    case 5:
    case 6:
      world_.trace("the link of router {} and {} is cut", r, node.config().name);
      network_.cut(r, n, world_.chance(0.7), world_.chance(0.7));
      return later(3, [this, r, n] { network_.heal(r, n); });
    case 7: {  // a router cannot reach some of the nodes
      std::vector<std::size_t> cut;
      for (std::size_t i = 0; i < nodes_.size(); ++i) {
        if (world_.chance(0.5)) cut.push_back(i);
      }
      world_.trace("router {} is cut off from {} nodes", r, cut.size());
      for (const auto i : cut) network_.cut(r, i, true, true);
      return later(3, [this, r, cut] {
        for (const auto i : cut) network_.heal(r, i);
      });
    }
    case 8:
      if (routers_.size() == 1) return;
      routers_[r]->stop(world_.chance(0.7));
      return later(4, [this, r] { routers_[r]->boot(); });
    case 9:
      world_.trace("router {} is cut off from the store", r);
      store_.reachable[r] = false;
      return later(4, [this, r] { store_.reachable[r] = true; });
    case 10: {
      const double deadline = world_.exponential(3);
      if (!node.drain(deadline)) return;
      if (world_.chance(0.5)) routers_[r]->drain(node.config().name, deadline);
      return later(10, [&node] { node.boot(); });
    }
    case 11: {
      const auto& name = node.config().name;
      const auto cordon = [this, name](bool on) {
        if (on) records_.cordoned.insert(name);
        if (!on) records_.cordoned.erase(name);
        for (auto& router : routers_) router->cordon(name, on);
      };
      cordon(true);
      return later(5, [cordon] { cordon(false); });
    }
    case 12: return routers_[r]->rebalance();
    case 13: return change_tenant();
    case 14: {  // the store is gone for everybody
      world_.trace("the store is out of reach");
      store_.reachable.assign(routers_.size(), false);
      return later(2, [this] { store_.reachable.assign(routers_.size(), true); });
    }
  }
}

void Scenario::change_tenant() {
  const std::string name = fmt::format("tenant-{}", world_.below(options_.tenants));
  auto& tenant = records_.tenants.at(name);
  switch (world_.below(3)) {
    case 0: tenant.suspended = !tenant.suspended; break;
    case 1: tenant.tier = static_cast<cluster::Tier>(world_.below(3)); break;
    case 2: tenant.quota = make_tenant(0).quota; break;
  }
  quotas_.set_tenant(tenant);
  for (auto& router : routers_) {
    world_.in(world_.exponential(0.05), [&router = *router, name] { router.tenant_changed(name); });
  }
}

void Scenario::heal() {
  world_.trace("all heals");
  network_.heal_all();
  store_.reachable.assign(routers_.size(), true);
  for (auto& router : routers_) router->boot();
  for (auto& node : nodes_) {
    node->slow_down(1);
    node->unhang();
    node->thaw();
    node->boot();
  }
  const auto cordoned = std::exchange(records_.cordoned, {});
  for (const auto& name : cordoned) {
    for (auto& router : routers_) router->cordon(name, false);
  }
  for (auto& [name, tenant] : records_.tenants) {
    if (!std::exchange(tenant.suspended, false)) continue;
    for (auto& router : routers_) router->tenant_changed(name);
  }
  // A node that drains goes first.
  world_.in(30, [this] {
    for (auto& node : nodes_) node->boot();
  });
}

void Scenario::check_end() {
  std::uint64_t generated = 0, tokens = 0, lives = 0;
  for (auto& router : routers_) {
    router->check_idle();
    generated += router->generated();
    tokens += router->tokens();
    lives += router->lives();
  }
  for (const auto& node : nodes_) {
    world_.require(node->runs() == 0, "{} still has {} runs", node->config().name, node->runs());
  }
  if (lives == routers_.size()) {  // none died with its records
    world_.require(generated == tokens, "usage says {} generated tokens, there were {}", generated,
                   tokens);
  }
}

}  // namespace plimsoll::simulation
