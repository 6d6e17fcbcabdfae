// plimsoll cluster: the nodes, what they do, and what an operator does to them.
#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "cli/confirm.h"
#include "cli/documents.h"
#include "cli/exit_codes.h"
#include "cli/quantity.h"
#include "cli/show.h"

namespace plimsoll::cli {

namespace {

using client::ClusterNode;
using client::ClusterView;
using client::Operator;

std::string nodes_text(const ClusterView& view) {
  Table table({{"NODE"},
               {"STATE"},
               {"ADDRESS"},
               {"VERSION"},
               {"EPOCH", true},
               {"SEQUENCES", true},
               {"TOK/S", true},
               {"MEMORY", true},
               {"LIMIT", true},
               {"PRESSURE"},
               {"WEIGHT", true},
               {"HEARD", true},
               {"MODELS"}});
  for (const auto& n : view.nodes) {
    // What a slow node gets of its weight.
    const std::string weight = n.slow_factor < 1
                                   ? fmt::format("{:g} of {:g}", n.weight * n.slow_factor, n.weight)
                                   : fmt::format("{:g}", n.weight);
    table.add({n.name, n.state, n.address, n.version, std::to_string(n.epoch),
               std::to_string(n.sequences), fmt::format("{:.1f}", n.tokens_per_second),
               human_bytes(static_cast<std::int64_t>(n.memory_used_bytes)),
               human_bytes(static_cast<std::int64_t>(n.memory_limit_bytes)), n.pressure, weight,
               fmt::format("{:.1f}s ago", n.heartbeat_age_seconds),
               n.models.empty() ? "-" : fmt::format("{}", fmt::join(n.models, ", "))});
  }
  return table.text();
}

std::string cluster_text(const ClusterView& view) {
  std::map<std::string, int> states;
  std::uint64_t used = 0;
  std::uint64_t limit = 0;
  std::uint32_t sequences = 0;
  double rate = 0;
  for (const auto& n : view.nodes) {
    ++states[n.state];
    used += n.memory_used_bytes;
    limit += n.memory_limit_bytes;
    sequences += n.sequences;
    rate += n.tokens_per_second;
  }
  std::vector<std::string> counts;
  for (const auto& [state, count] : states) counts.push_back(fmt::format("{} {}", count, state));
  Table routers({{"ROUTER"}, {"ADDRESS"}, {"STREAMS", true}, {"TOK/S", true}, {""}});
  for (const auto& r : view.routers) {
    routers.add({r.name, r.address, std::to_string(r.streams),
                 fmt::format("{:.1f}", r.tokens_per_second), r.self ? "answers you" : ""});
  }
  return fmt::format(
      "plimsoll {}, up {}, records in {}, membership {}\n"
      "{} nodes ({}): {} sequences, {:.1f} tokens/s, {} of {}\n\n{}",
      view.version, human_duration(view.uptime_seconds), view.store, view.membership_version,
      view.nodes.size(), fmt::join(counts, ", "), sequences, rate,
      human_bytes(static_cast<std::int64_t>(used)), human_bytes(static_cast<std::int64_t>(limit)),
      routers.text());
}

View moves_view(const std::vector<client::Move>& moves) {
  View view{Json::array(), "every tenant is where it belongs\n"};
  Table table({{"TENANT"}, {"FROM"}, {"TO"}, {"SEQUENCES", true}});
  for (const auto& m : moves) {
    view.document.push_back(
        {{"tenant", m.tenant}, {"from", m.from}, {"to", m.to}, {"sequences", m.sequences}});
    table.add({m.tenant, m.from, m.to, std::to_string(m.sequences)});
  }
  if (!moves.empty()) view.table = table.text();
  return view;
}

ClusterNode find_node(Operator& cluster, const std::string& name) {
  const auto view = cluster.view();
  const auto found = std::ranges::find(view.nodes, name, &ClusterNode::name);
  if (found == view.nodes.end()) {
    throw client::Error("not_found",
                        "no node named '" + name + "'; `plimsoll cluster nodes` lists them");
  }
  return *found;
}

void add_views(CLI::App& family, Context& context) {
  auto watch = std::make_shared<bool>(false);
  auto* status = add_operator_verb(family, context, "status", "routers, and all nodes in one line",
                                   [watch, &context](Operator& cluster) {
                                     return show(context.remote, *watch, [&]() -> View {
                                       const auto view = cluster.view();
                                       return {to_json(view), cluster_text(view)};
                                     });
                                   });
  auto* nodes = add_operator_verb(family, context, "nodes", "each node, its load and its memory",
                                  [watch, &context](Operator& cluster) {
                                    return show(context.remote, *watch, [&]() -> View {
                                      const auto view = cluster.view();
                                      return {to_json(view.nodes), nodes_text(view)};
                                    });
                                  });
  for (auto* verb : {status, nodes}) add_watch_option(*verb, *watch);
}

void add_node_verbs(CLI::App& family, Context& context) {
  struct Options {
    std::string node;
    std::chrono::milliseconds deadline{60'000};
    bool force = false;
    bool dry_run = false;
  };
  auto options = std::make_shared<Options>();

  const auto cordon = [options, &context](bool on) {
    return [options, &context, on](Operator& cluster) {
      cluster.cordon(options->node, on);
      return done(context.remote, {{"node", options->node}, {"cordoned", on}},
                  options->node + (on ? " takes nothing new" : " takes work again"));
    };
  };
  auto* off = add_operator_verb(family, context, "cordon",
                                "a node shall take nothing new and keep what it has", cordon(true));
  auto* on =
      add_operator_verb(family, context, "uncordon", "a node shall take work again", cordon(false));

  auto* drain = add_operator_verb(
      family, context, "drain", "empty a node, so that it can leave",
      [options, &context](Operator& cluster) {
        const auto within =
            show_quantity(static_cast<std::uint64_t>(options->deadline.count()), time_units);
        if (!confirmed(context, [&] {
              const auto node = find_node(cluster, options->node);
              return fmt::format(
                  "Drain {}: its {} sequences move to other nodes or end within {}; those left are "
                  "then cut. It takes nothing new and leaves the cluster.",
                  node.name, node.sequences, within);
            })) {
          return context.exit_code;
        }
        const auto drained = cluster.drain(options->node, options->deadline);
        return done(context.remote,
                    {{"node", options->node},
                     {"finished", drained.finished},
                     {"moved", drained.moved},
                     {"cut", drained.cut}},
                    fmt::format("{} is drained: {} sequences ended, {} moved, {} cut",
                                options->node, drained.finished, drained.moved, drained.cut));
      });
  add_time_option(*drain, "--deadline", options->deadline, "what is left then is cut");
  add_yes_option(*drain, context);

  auto* remove = add_operator_verb(
      family, context, "remove", "forget a node that is gone",
      [options, &context](Operator& cluster) {
        if (!confirmed(context, [&] {
              const auto node = find_node(cluster, options->node);
              std::string text = fmt::format(
                  "Remove {}, which is {}: its secret is void, and it needs a new token to join "
                  "again.",
                  node.name, node.state);
              if (options->force && node.sequences > 0) {
                text +=
                    fmt::format(" Its {} sequences go on elsewhere or are cut.", node.sequences);
              }
              return text;
            })) {
          return context.exit_code;
        }
        cluster.remove(options->node, options->force);
        return done(context.remote, {{"node", options->node}, {"removed", true}},
                    options->node + " is removed");
      });
  remove->add_flag("--force", options->force, "even if it is alive");
  add_yes_option(*remove, context);
  for (auto* verb : {off, on, drain, remove}) {
    verb->add_option("node", options->node, "its name")->required();
  }

  auto* rebalance = add_operator_verb(
      family, context, "rebalance", "bring tenants to the nodes that they belong to",
      [options, &context](Operator& cluster) {
        if (!options->dry_run) {
          const bool yes = confirmed(context, [&] {
            return "Move sequences; each is computed again on its new node:\n" +
                   moves_view(cluster.rebalance(true)).table;
          });
          if (!yes) return context.exit_code;
        }
        const auto moves = cluster.rebalance(options->dry_run);
        return show(context.remote, false, [&] { return moves_view(moves); });
      });
  rebalance->add_flag("--dry-run", options->dry_run, "show the moves, make none");
  add_yes_option(*rebalance, context);
}

void add_join_tokens(CLI::App& family, Context& context) {
  struct Options {
    std::chrono::milliseconds ttl{3'600'000};
    std::string id;
  };
  auto options = std::make_shared<Options>();
  auto* tokens = family.add_subcommand("join-token", "who may join the cluster");
  tokens->require_subcommand(1);

  auto* create = add_operator_verb(
      *tokens, context, "create", "print a token with which one node can join",
      [options, &context](Operator& cluster) {
        const auto ttl = std::chrono::duration_cast<std::chrono::seconds>(options->ttl);
        const auto token = cluster.create_join_token(ttl);
        return secret(
            context.remote, {{"token", token}, {"ttl_seconds", ttl.count()}}, token,
            fmt::format("One node can join with it, within {}.",
                        show_quantity(static_cast<std::uint64_t>(ttl.count()) * 1000, time_units)));
      });
  add_time_option(*create, "--ttl", options->ttl, "for how long it can be used");

  add_operator_verb(*tokens, context, "list", "tokens that were not used yet",
                    [&context](Operator& cluster) {
                      const auto list = cluster.join_tokens();
                      View view{Json::array(), ""};
                      Table table({{"ID"}, {"EXPIRES"}});
                      for (const auto& token : list) {
                        view.document.push_back({{"id", token.id}, {"expires", token.expires}});
                        table.add({token.id, utc(token.expires)});
                      }
                      view.table = table.text();
                      return show(context.remote, false, [&] { return view; });
                    });

  auto* revoke = add_operator_verb(
      *tokens, context, "revoke", "a token shall be of no use any more",
      [options, &context](Operator& cluster) {
        if (!confirmed(context, [&] {
              return "Revoke join token " + options->id + ": no node can join with it any more.";
            })) {
          return context.exit_code;
        }
        cluster.revoke_join_token(options->id);
        return done(context.remote, {{"id", options->id}, {"revoked", true}},
                    options->id + " is revoked");
      });
  revoke->add_option("id", options->id, "as `join-token list` shows it")->required();
  add_yes_option(*revoke, context);
}

}  // namespace

void add_cluster(CLI::App& app, Context& context) {
  auto* family = app.add_subcommand("cluster", "the nodes of a cluster (operator's key)");
  family->require_subcommand(1);
  add_views(*family, context);
  add_join_tokens(*family, context);
  add_node_verbs(*family, context);
}

}  // namespace plimsoll::cli
