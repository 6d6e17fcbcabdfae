// plimsoll tenant: who may use the cluster, how much of it, and what was used.
#include <fmt/format.h>

#include <algorithm>
#include <fstream>

#include "cli/confirm.h"
#include "cli/documents.h"
#include "cli/exit_codes.h"
#include "cli/quantity.h"
#include "cli/quota_flags.h"
#include "cli/quota_limits.h"
#include "cli/show.h"

namespace plimsoll::cli {

namespace {

using client::Operator;
using client::TenantUsage;
using client::TenantView;

const char* state_of(const TenantView& view) {
  return view.tenant.suspended ? "suspended" : "active";
}

View tenants_view(const std::vector<TenantView>& tenants) {
  Table table({{"TENANT"},
               {"TIER"},
               {"STATE"},
               {"SEQUENCES", true},
               {"OF", true},
               {"TOK/S", true},
               {"MEMORY", true},
               {"HOME"}});
  for (const auto& t : tenants) {
    table.add({t.tenant.name, t.tenant.tier, state_of(t), std::to_string(t.sequences),
               std::to_string(t.tenant.quota.sequences), fmt::format("{:.1f}", t.tokens_per_second),
               human_bytes(static_cast<std::int64_t>(t.memory_bytes)),
               t.home.empty() ? "-" : fmt::format("{}", fmt::join(t.home, ", "))});
  }
  return {to_json(tenants), table.text()};
}

std::string tenant_text(const TenantView& view) {
  std::string text = fmt::format(
      "{}: {}, {}{}{}\nhome: {}\nnow: {} sequences, {:.1f} tokens/s, {}\n", view.tenant.name,
      view.tenant.tier, state_of(view), view.tenant.is_operator ? ", operator" : "",
      view.tenant.no_store ? ", not cached on disk" : "", fmt::join(view.home, ", "),
      view.sequences, view.tokens_per_second,
      human_bytes(static_cast<std::int64_t>(view.memory_bytes)));
  for (const auto& key : view.tenant.keys) {
    text += fmt::format("key: of {}, {}\n", utc(key.created),
                        key.expires == 0 ? "does not expire" : "valid until " + utc(key.expires));
  }
  if (view.tenant.disk_cache_bytes) {
    text += fmt::format("on each node's disk: {} at most\n",
                        show_quantity(*view.tenant.disk_cache_bytes, byte_units));
  }
  for (const auto& [kind, ttl] : view.tenant.disk_cache_ttl) {
    text += fmt::format("on disk: {} for {}\n", kind,
                        show_quantity(static_cast<std::uint64_t>(ttl.count()), time_units));
  }
  Table table({{"LIMIT"}, {"VALUE", true}, {"OF WHAT"}});
  for (const auto& limit : quota_limits<client::Quota>()) {
    table.add({limit.name, limit.text(view.tenant.quota), limit.help});
  }
  return text + "\n" + table.text();
}

std::uint64_t rejected(const TenantUsage& usage) {
  std::uint64_t sum = 0;
  for (const auto& [reason, count] : usage.rejections) sum += count;
  return sum;
}

std::string gib_hours(double byte_seconds) {
  return fmt::format("{:.3f}", byte_seconds / (1ULL << 30) / 3600);
}

View usage_view(const std::vector<TenantUsage>& usages) {
  View view{Json::array(), ""};
  Table table({{"TENANT"},
               {"REQUESTS", true},
               {"PROMPT", true},
               {"CACHED", true},
               {"GENERATED", true},
               {"KV GIB-HOURS", true},
               {"CACHE", true},
               {"WEIGHTS", true},
               {"REJECTED", true}});
  for (const auto& u : usages) {
    view.document.push_back({{"tenant", u.tenant},
                             {"requests", u.requests},
                             {"prompt_tokens", u.prompt_tokens},
                             {"cached_tokens", u.cached_tokens},
                             {"generated_tokens", u.generated_tokens},
                             {"kv_byte_seconds", u.kv_byte_seconds},
                             {"cache_byte_seconds", u.cache_byte_seconds},
                             {"weights_byte_seconds", u.weights_byte_seconds},
                             {"rejections", Json(u.rejections)}});
    table.add({u.tenant, std::to_string(u.requests), std::to_string(u.prompt_tokens),
               std::to_string(u.cached_tokens), std::to_string(u.generated_tokens),
               gib_hours(u.kv_byte_seconds), gib_hours(u.cache_byte_seconds),
               gib_hours(u.weights_byte_seconds), std::to_string(rejected(u))});
  }
  view.table = table.text();
  return view;
}

// One line a tenant; names and reasons have no characters that would need quotes.
std::string usage_csv(const std::vector<TenantUsage>& usages) {
  std::string csv =
      "tenant,requests,prompt_tokens,cached_tokens,generated_tokens,kv_byte_seconds,"
      "cache_byte_seconds,weights_byte_seconds,rejections,rejections_by_reason\n";
  for (const auto& u : usages) {
    std::vector<std::string> reasons;
    for (const auto& [reason, count] : u.rejections) {
      reasons.push_back(fmt::format("{}={}", reason, count));
    }
    csv += fmt::format("{},{},{},{},{},{},{},{},{},{}\n", u.tenant, u.requests, u.prompt_tokens,
                       u.cached_tokens, u.generated_tokens, u.kv_byte_seconds, u.cache_byte_seconds,
                       u.weights_byte_seconds, rejected(u), fmt::join(reasons, ";"));
  }
  return csv;
}

void write_file(const std::string& file, const std::string& text) {
  if (file == "-") {
    fmt::print("{}", text);
    return;
  }
  std::ofstream out(file, std::ios::binary);
  out << text << std::flush;
  if (!out) throw std::runtime_error("cannot write " + file);
}

struct Options {
  std::string name;
  std::string tier = "standard";
  std::string cache = "default";
  bool is_operator = false;
  std::chrono::milliseconds grace{3'600'000};
  std::string csv;
  bool watch = false;
  QuotaFlags limits;
};
using Shared = std::shared_ptr<Options>;

void add_views(CLI::App& family, Context& context, const Shared& options) {
  auto* list = add_operator_verb(family, context, "list", "every tenant and what it does now",
                                 [options, &context](Operator& cluster) {
                                   return show(context.remote, options->watch,
                                               [&] { return tenants_view(cluster.tenants()); });
                                 });
  auto* one = add_operator_verb(family, context, "show", "a tenant, its keys and its limits",
                                [options, &context](Operator& cluster) {
                                  return show(context.remote, options->watch, [&]() -> View {
                                    const auto view = cluster.tenant(options->name);
                                    return {to_json(view), tenant_text(view)};
                                  });
                                });
  one->add_option("name", options->name)->required();

  auto* usage = add_operator_verb(
      family, context, "usage", "what tenants have used since they were created",
      [options, &context](Operator& cluster) {
        const auto look = [&] {
          auto usages = cluster.usage();
          if (!options->name.empty()) {
            std::erase_if(usages, [&](const auto& u) { return u.tenant != options->name; });
            if (usages.empty()) {
              throw client::Error("not_found",
                                  "no usage of a tenant named '" + options->name + "'");
            }
          }
          return usages;
        };
        if (!options->csv.empty()) {
          write_file(options->csv, usage_csv(look()));
          return exit_ok;
        }
        return show(context.remote, options->watch, [&] { return usage_view(look()); });
      });
  usage->add_option("name", options->name, "only this one");
  for (auto* verb : {list, one, usage}) add_watch_option(*verb, options->watch);
  usage->add_option("--csv", options->csv, "write comma-separated values; - is standard output")
      ->option_text("FILE")
      ->excludes("--watch");
}

void add_create(CLI::App& family, Context& context, const Shared& options) {
  auto* create = add_operator_verb(
      family, context, "create", "make a tenant and print its first key",
      [options, &context](Operator& cluster) {
        client::Tenant tenant;
        tenant.name = options->name;
        tenant.tier = options->tier;
        tenant.is_operator = options->is_operator;
        tenant.no_store = options->cache == "no-store";
        set_limits(options->limits, tenant.quota);
        const auto key = cluster.create_tenant(tenant);
        return secret(context.remote, {{"name", tenant.name}, {"api_key", key}}, key,
                      "The key is shown this once; the cluster keeps only its hash.");
      });
  create->add_flag("--operator", options->is_operator, "its keys may administer the cluster");
  add_quota_options(*create, options->limits);

  auto* set_tier = add_operator_verb(
      family, context, "set-tier", "change what a tenant gets when all want more",
      [options, &context](Operator& cluster) {
        cluster.set_tier(options->name, options->tier);
        return done(context.remote, {{"name", options->name}, {"tier", options->tier}},
                    options->name + " is " + options->tier);
      });
  auto* set_cache = add_operator_verb(
      family, context, "set-cache",
      "let a tenant's work be cached on disk, or keep it off the disk",
      [options, &context](Operator& cluster) {
        const bool off = options->cache == "no-store";
        cluster.set_no_store(options->name, off);
        return done(context.remote, {{"name", options->name}, {"cache", options->cache}},
                    options->name + (off ? " is no longer cached on disk; `plimsoll cache purge` "
                                           "removes what is there"
                                         : " is cached on disk"));
      });
  create->add_option("name", options->name, "a-z, 0-9, _ . -")->required();
  set_tier->add_option("name", options->name)->required();
  set_cache->add_option("name", options->name)->required();
  for (auto* cache : {create
                          ->add_option("--cache", options->cache,
                                       "no-store: nothing of its work goes to a node's disk")
                          ->capture_default_str(),
                      set_cache->add_option("cache", options->cache)->required()}) {
    cache->check(CLI::IsMember({"default", "no-store"}))->option_text("default|no-store");
  }
  for (auto* tier : {create->add_option("--tier", options->tier, "its share of contended service")
                         ->capture_default_str(),
                     set_tier->add_option("tier", options->tier)->required()}) {
    tier->check(CLI::IsMember({"guaranteed", "standard", "best-effort"}))
        ->option_text("guaranteed|standard|best-effort");
  }
}

void add_set_quota(CLI::App& family, Context& context, const Shared& options) {
  auto* verb = add_operator_verb(
      family, context, "set-quota", "change the limits that are given, keep the others",
      [options, &context](Operator& cluster) {
        const auto before = cluster.tenant(options->name).tenant.quota;
        auto after = before;
        set_limits(options->limits, after);
        cluster.set_quota(options->name, after);
        std::string text;
        for (const auto& limit : quota_limits<client::Quota>()) {
          if (limit.value(before) == limit.value(after)) continue;
          text += fmt::format("{}: {} -> {}\n", limit.name, limit.text(before), limit.text(after));
        }
        return show(context.remote, false, [&]() -> View {
          return {{{"name", options->name}, {"quota", to_json(after)}},
                  text.empty() ? "nothing changes\n" : text};
        });
      });
  verb->add_option("name", options->name)->required();
  add_quota_options(*verb, options->limits);
  verb->parse_complete_callback([options] {
    if (options->limits.empty()) {
      throw CLI::ValidationError("set-quota", "give at least one limit, see --help");
    }
  });
}

void add_state_verbs(CLI::App& family, Context& context, const Shared& options) {
  auto* suspend = add_operator_verb(
      family, context, "suspend", "refuse a tenant's requests until it is resumed",
      [options, &context](Operator& cluster) {
        if (!confirmed(context, [&] {
              return fmt::format(
                  "Suspend {}: its requests are refused until it is resumed. It has {} sequences "
                  "now.",
                  options->name, cluster.tenant(options->name).sequences);
            })) {
          return context.exit_code;
        }
        cluster.suspend(options->name, true);
        return done(context.remote, {{"name", options->name}, {"suspended", true}},
                    options->name + " is suspended");
      });
  add_yes_option(*suspend, context);

  auto* resume = add_operator_verb(
      family, context, "resume", "take a suspended tenant's requests again",
      [options, &context](Operator& cluster) {
        cluster.suspend(options->name, false);
        return done(context.remote, {{"name", options->name}, {"suspended", false}},
                    options->name + " is active");
      });

  auto* rotate = add_operator_verb(
      family, context, "rotate-key", "print a new key; older ones end",
      [options, &context](Operator& cluster) {
        const auto grace = std::chrono::duration_cast<std::chrono::seconds>(options->grace);
        const auto when =
            grace.count() == 0
                ? std::string("at once")
                : "in " +
                      show_quantity(static_cast<std::uint64_t>(grace.count()) * 1000, time_units);
        if (!confirmed(context, [&] {
              return fmt::format("Give {} a new key: the {} that it has end {}.", options->name,
                                 cluster.tenant(options->name).tenant.keys.size(), when);
            })) {
          return context.exit_code;
        }
        const auto key = cluster.rotate_key(options->name, grace);
        return secret(context.remote,
                      {{"name", options->name}, {"api_key", key}, {"grace_seconds", grace.count()}},
                      key, "The key is shown this once; older ones end " + when + ".");
      });
  add_time_option(*rotate, "--grace", options->grace, "for how long older keys stay valid");
  add_yes_option(*rotate, context);
  for (auto* verb : {suspend, resume, rotate}) verb->add_option("name", options->name)->required();
}

}  // namespace

void add_tenant(CLI::App& app, Context& context) {
  auto options = std::make_shared<Options>();
  auto* family = app.add_subcommand("tenant", "who may use the cluster (operator's key)");
  family->require_subcommand(1);
  add_views(*family, context, options);
  add_create(*family, context, options);
  add_set_quota(*family, context, options);
  add_state_verbs(*family, context, options);
}

}  // namespace plimsoll::cli
