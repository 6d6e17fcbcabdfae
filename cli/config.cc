#include "cli/config.h"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <optional>
#include <set>

#include "actors/records.h"
#include "cli/catalogue.h"
#include "cli/quantity.h"
#include "cli/quota_limits.h"
#include "storage/disk_cache.h"

namespace plimsoll::cli {

namespace fs = std::filesystem;

namespace {

tl::unexpected<Error> wrong(std::string message) {
  return fail(ErrorCode::invalid_argument, std::move(message));
}

constexpr std::array compute_modes = {ComputeMode::automatic, ComputeMode::float32,
                                      ComputeMode::bf16, ComputeMode::int8};

constexpr std::array all_tiers = {cluster::Tier::guaranteed, cluster::Tier::standard,
                                  cluster::Tier::best_effort};

Result<void> set_flag(bool& flag, const std::string& text) {
  if (text != "true" && text != "false") return wrong("must be true or false");
  flag = text == "true";
  return {};
}

Result<void> set_tier(cluster::Tier& tier, const std::string& text) {
  for (const auto each : all_tiers) {
    if (text != to_string(each)) continue;
    tier = each;
    return {};
  }
  return wrong(fmt::format("'{}' is none of guaranteed, standard, best-effort", text));
}

Result<void> set_no_store(bool& no_store, const std::string& text) {
  if (text != "default" && text != "no-store") {
    return wrong(fmt::format("'{}' is none of default, no-store, nor a mapping", text));
  }
  no_store = text == "no-store";
  return {};
}

// What nodes are configured with.
constexpr const char* as_configured = "default";

Result<void> set_cache_bytes(std::optional<std::uint64_t>& bytes, const std::string& text) {
  bytes.reset();
  if (text == as_configured) return {};
  const auto value = parse_bytes(text);
  if (!value) return fail(value.error());
  bytes = *value;
  return {};
}

using CacheTtl = std::optional<std::uint32_t>;
Result<void> set_cache_ttl(CacheTtl& ttl_ms, const std::string& text) {
  ttl_ms.reset();
  if (text == as_configured) return {};
  const auto value = parse_time_ms(text);
  if (!value) return fail(value.error());
  constexpr std::chrono::milliseconds longest = storage::longest_cache_ttl;
  if (*value > static_cast<std::uint64_t>(longest.count())) {
    return wrong(fmt::format("'{}' is over 30 days, 720h", text));
  }
  ttl_ms = static_cast<std::uint32_t>(*value);
  return {};
}
std::string cache_ttl_text(const CacheTtl& ttl_ms) {
  return ttl_ms ? show_quantity(*ttl_ms, time_units) : as_configured;
}
std::string cache_kind_text(std::size_t kind) {
  return std::string(to_string(static_cast<storage::CacheKind>(kind)));
}

// Of one value, or of the items of a list.
Result<std::vector<std::string>> texts_of(const YAML::Node& value) {
  if (value.IsScalar()) return std::vector{value.Scalar()};
  std::vector<std::string> texts;
  bool good = value.IsSequence();
  for (const auto& item : value) {
    good = good && item.IsScalar();
    if (good) texts.push_back(item.Scalar());
  }
  if (!good) return wrong("must be a single value, or a list of such");
  return texts;
}

Result<void> set_keys(cluster::Tenant& tenant, const std::vector<std::string>& hashes) {
  tenant.keys.clear();
  for (const auto& hash : hashes) {
    if (hash.size() != 64 || hash.find_first_not_of("0123456789abcdef") != std::string::npos) {
      return wrong("is not 64 lower-case hexadecimal digits; `plimsoll key` makes one");
    }
    tenant.keys.push_back({hash, 0, 0});
  }
  return {};
}

// The limits of a request that a tier may give to its tenants.
constexpr std::array tier_limits = {"prompt_tokens", "generated_tokens", "request_tokens",
                                    "deadline"};
const QuotaLimit<cluster::Quota>* find_limit(const std::string& key) {
  const auto& limits = quota_limits<cluster::Quota>();
  const auto limit = std::ranges::find(limits, key, &QuotaLimit<cluster::Quota>::key);
  return limit == limits.end() ? nullptr : &*limit;
}

cluster::Quota quota_of(const cluster::RequestCaps& caps) {
  cluster::Quota quota;
  quota.prompt_tokens = caps.prompt_tokens;
  quota.generated_tokens = caps.generated_tokens;
  quota.request_tokens = caps.request_tokens;
  quota.deadline_ms = caps.deadline_ms;
  return quota;
}

// One key of a tenant's entry. Returns false if there is no such key.
Result<bool> set_in_tenant(cluster::Tenant& tenant, const std::string& name,
                           const YAML::Node& value) {
  const auto texts = texts_of(value);
  if (!texts) return fail(texts.error());
  Result<void> set;
  if (name == "api_key_sha256") {
    set = set_keys(tenant, *texts);
  } else if (name == "models" && value.IsSequence()) {
    tenant.quota.models = *texts;
  } else if (!value.IsScalar()) {
    return wrong("must be a single value");
  } else if (const auto& text = texts->front(); name == "name") {
    tenant.name = text;
  } else if (name == "operator") {
    set = set_flag(tenant.is_operator, text);
  } else if (name == "suspended") {
    set = set_flag(tenant.suspended, text);
  } else if (name == "tier") {
    set = set_tier(tenant.tier, text);
  } else if (name == "cache") {
    set = set_no_store(tenant.cache.no_store, text);
  } else {
    const auto* limit = find_limit(name);
    if (limit == nullptr) return false;
    set = limit->set(tenant.quota, text);
  }
  if (!set) return fail(set.error());
  return true;
}

// One key of a tenant's `cache`. Returns false if there is no such key.
Result<bool> set_in_cache(cluster::CachePolicy& policy, const std::string& name,
                          const YAML::Node& value) {
  if (name != "store" && name != "bytes" && name != "ttl") return false;
  if (!value.IsScalar()) return wrong("must be a single value");
  const auto& text = value.Scalar();
  Result<void> set;
  if (name == "store") {
    bool stores = true;
    set = set_flag(stores, text);
    policy.no_store = !stores;
  } else if (name == "bytes") {
    set = set_cache_bytes(policy.bytes, text);
  } else {
    CacheTtl ttl_ms;
    set = set_cache_ttl(ttl_ms, text);
    policy.ttl_ms.fill(ttl_ms);
  }
  if (!set) return fail(set.error());
  return true;
}

// Walks a YAML file and reports the first mistake with its line.
class Loader {
 public:
  Loader(std::string file, Config& config) : file_(std::move(file)), config_(config) {}

  Result<void> load(const YAML::Node& root) {
    if (root.IsNull()) return {};
    return section(root, "");
  }

 private:
  tl::unexpected<Error> at(const YAML::Node& node, const std::string& key,
                           const std::string& message) const {
    return wrong(fmt::format("{}:{}: {}: {}", file_, node.Mark().line + 1, key, message));
  }

  Result<void> section(const YAML::Node& node, const std::string& prefix) {
    if (!node.IsMap()) return at(node, prefix.empty() ? "(top)" : prefix, "must be a mapping");
    std::set<std::string> seen;
    for (const auto& item : node) {
      const std::string name = item.first.Scalar();
      const std::string key = prefix.empty() ? name : prefix + "." + name;
      if (!seen.insert(name).second) return at(item.first, key, "is given twice");
      Result<void> done;
      if (key == "models") {
        done = models(item.second);
      } else if (key == "tenants") {
        done = tenants(item.second);
      } else if (key == "tiers") {
        done = tiers(item.second);
      } else {
        done = scalar_or_section(item.first, item.second, key);
      }
      if (!done) return done;
    }
    return {};
  }

  Result<void> scalar_or_section(const YAML::Node& name, const YAML::Node& value,
                                 const std::string& key) {
    for (const auto& setting : settings()) {
      if (setting.key == key) {
        std::string text = value.IsScalar() ? value.Scalar() : "";
        if (value.IsSequence() && setting.list) {
          for (const auto& item : value) {
            if (!item.IsScalar()) return at(item, key, "must be a list of single values");
            text += (text.empty() ? "" : ",") + item.Scalar();
          }
        } else if (!value.IsScalar()) {
          return at(value, key, "must be a single value");
        }
        if (auto done = setting.set(config_, text); !done) {
          return at(value, key, done.error().message);
        }
        return {};
      }
      if (setting.key.starts_with(key + ".")) return section(value, key);
    }
    return at(name, key, "is not a known key; `plimsoll config show` lists them all");
  }

  // The scalar children of one list entry, each through `set`, which returns false if unknown.
  template <class Set>
  Result<void> entry(const YAML::Node& node, const std::string& list, Set set) {
    if (!node.IsMap()) return at(node, list, "every entry must be a mapping");
    std::set<std::string> seen;
    for (const auto& item : node) {
      const std::string name = item.first.Scalar();
      if (!seen.insert(name).second) return at(item.first, list + "." + name, "is given twice");
      Result<bool> known = set(name, item.second);
      if (!known) return at(item.second, list + "." + name, known.error().message);
      if (!*known) return at(item.first, list + "." + name, "is not a known key");
    }
    return {};
  }

  Result<void> models(const YAML::Node& node) {
    if (!node.IsSequence()) return at(node, "models", "must be a list");
    config_.server.models.clear();
    for (const auto& item : node) {
      ModelConfig model;
      auto done = entry(
          item, "models", [&](const std::string& name, const YAML::Node& value) -> Result<bool> {
            if (!value.IsScalar()) return wrong("must be a single value");
            if (name == "name") {
              model.name = value.Scalar();
            } else if (name == "path") {
              model.path = value.Scalar();
            } else if (name == "compute") {
              const auto mode = std::ranges::find(compute_modes, value.Scalar(),
                                                  [](ComputeMode m) { return to_string(m); });
              if (mode == compute_modes.end()) {
                return wrong(
                    fmt::format("'{}' is none of auto, float32, bf16, int8", value.Scalar()));
              }
              model.compute = *mode;
            } else {
              return false;
            }
            return true;
          });
      if (!done) return done;
      if (model.path.empty()) {
        auto known = parse_model(model.name);
        if (!known) return at(item, "models", known.error().message);
        model.path = known->path;
      }
      if (model.name.empty()) model.name = model.path.stem().string();
      config_.server.models.push_back(std::move(model));
    }
    return {};
  }

  // Where it is more than a word.
  Result<void> tenant_cache(const YAML::Node& node, cluster::CachePolicy& policy) {
    Result<void> nested;
    const auto done = entry(node, "tenants.cache",
                            [&](const std::string& name, const YAML::Node& value) -> Result<bool> {
                              if (name != "ttl" || !value.IsMap()) {
                                return set_in_cache(policy, name, value);
                              }
                              nested = tenant_cache_ttl(value, policy);
                              return true;
                            });
    return nested ? done : nested;  // it was the first mistake
  }

  Result<void> tenant_cache_ttl(const YAML::Node& node, cluster::CachePolicy& policy) {
    return entry(node, "tenants.cache.ttl",
                 [&](const std::string& name, const YAML::Node& value) -> Result<bool> {
                   const auto kind = storage::cache_kind_of(name);
                   if (!kind) return false;
                   if (!value.IsScalar()) return wrong("must be a single value");
                   auto& ttl_ms = policy.ttl_ms[static_cast<std::size_t>(*kind)];
                   if (auto set = set_cache_ttl(ttl_ms, value.Scalar()); !set) {
                     return fail(set.error());
                   }
                   return true;
                 });
  }

  Result<void> tenants(const YAML::Node& node) {
    if (!node.IsSequence()) return at(node, "tenants", "must be a list");
    config_.server.tenants.clear();
    std::set<std::string> names;
    for (const auto& item : node) {
      cluster::Tenant tenant;
      Result<void> nested;
      auto done = entry(item, "tenants",
                        [&](const std::string& name, const YAML::Node& value) -> Result<bool> {
                          if (name != "cache" || !value.IsMap())
                            return set_in_tenant(tenant, name, value);
                          nested = tenant_cache(value, tenant.cache);
                          return true;
                        });
      if (!nested) return nested;  // it was the first mistake
      if (!done) return done;
      const auto& name = tenant.name;
      if (auto good = check(tenant); !good) {
        const auto key = good.error().param.empty() ? "" : "." + good.error().param;
        return at(item, "tenants" + key, good.error().message);
      }
      if (name == shared_tenant.get() || name == "other") {
        return at(item, "tenants.name", fmt::format("'{}' is reserved", name));
      }
      if (!names.insert(name).second) {
        return at(item, "tenants.name", fmt::format("'{}' is there twice", name));
      }
      config_.server.tenants.push_back(std::move(tenant));
    }
    return {};
  }

  Result<void> tiers(const YAML::Node& node) {
    if (!node.IsMap()) return at(node, "tiers", "must be a mapping of tiers");
    config_.server.tiers = {};
    std::set<std::string> seen;
    for (const auto& item : node) {
      const std::string name = item.first.Scalar();
      const std::string key = "tiers." + name;
      cluster::Tier tier{};
      if (auto known = set_tier(tier, name); !known) {
        return at(item.first, "tiers", known.error().message);
      }
      if (!seen.insert(name).second) return at(item.first, key, "is given twice");
      cluster::Quota quota;
      auto done = entry(item.second, key,
                        [&](const std::string& limit, const YAML::Node& value) -> Result<bool> {
                          if (std::ranges::find(tier_limits, limit) == tier_limits.end()) {
                            return false;
                          }
                          if (!value.IsScalar()) return wrong("must be a single value");
                          auto set = find_limit(limit)->set(quota, value.Scalar());
                          if (!set) return fail(set.error());
                          return true;
                        });
      if (!done) return done;
      cluster::Tenant nobody;
      nobody.quota = std::move(quota);
      config_.server.tiers[static_cast<std::size_t>(tier)] = caps_of(nobody, {});
    }
    return {};
  }

  std::string file_;
  Config& config_;
};

}  // namespace

Result<void> load_config(const fs::path& file, Config& config) {
  std::error_code error;
  if (!fs::is_regular_file(file, error)) {
    return fail(ErrorCode::not_found, "no configuration file " + file.string());
  }
  try {
    return Loader(file.string(), config).load(YAML::LoadFile(file.string()));
  } catch (const YAML::Exception& e) {
    return wrong(fmt::format("{}:{}: {}", file.string(), e.mark.line + 1, e.msg));
  }
}

Result<ModelConfig> parse_model(const std::string& text) {
  ModelConfig model;
  if (const auto equals = text.find('='); equals != std::string::npos && equals > 0) {
    model.name = text.substr(0, equals);
    model.path = text.substr(equals + 1);
    return model;
  }
  if (const auto* known = find_in_catalogue(text)) {
    if (!is_present(*known)) {
      return fail(ErrorCode::not_found, fmt::format("model '{0}' is not on this machine yet; run "
                                                    "`plimsoll pull {0}`",
                                                    text));
    }
    model.name = text;
    model.path = model_path(*known);
    return model;
  }
  std::error_code error;
  if (fs::exists(text, error)) {
    model.path = text;
    model.name = model.path.has_stem() ? model.path.stem().string() : text;
    return model;
  }
  return fail(ErrorCode::not_found,
              fmt::format("'{}' is neither a file nor a model that `plimsoll pull` knows", text));
}

std::string show_config(const Config& config) {
  YAML::Emitter out;
  out << YAML::BeginMap;
  std::string open;
  for (const auto& setting : settings()) {
    const auto dot = setting.key.find('.');
    const std::string section = dot == std::string::npos ? "" : setting.key.substr(0, dot);
    if (section != open) {
      if (!open.empty()) out << YAML::EndMap;
      if (!section.empty()) out << YAML::Key << section << YAML::Value << YAML::BeginMap;
      open = section;
    }
    out << YAML::Key << setting.key.substr(section.empty() ? 0 : dot + 1) << YAML::Value
        << setting.get(config) << YAML::Comment(setting.help);
  }
  if (!open.empty()) out << YAML::EndMap;
  out << YAML::Key << "models" << YAML::Value << YAML::BeginSeq;
  for (const auto& model : config.server.models) {
    out << YAML::BeginMap << YAML::Key << "name" << YAML::Value << model.name << YAML::Key << "path"
        << YAML::Value << model.path.string() << YAML::Key << "compute" << YAML::Value
        << std::string(to_string(model.compute)) << YAML::EndMap;
  }
  out << YAML::EndSeq << YAML::Key << "tiers" << YAML::Value << YAML::BeginMap;
  for (const auto tier : all_tiers) {
    const auto caps = quota_of(config.server.tiers[static_cast<std::size_t>(tier)]);
    out << YAML::Key << std::string(to_string(tier)) << YAML::Value << YAML::BeginMap;
    for (const char* key : tier_limits) {
      out << YAML::Key << key << YAML::Value << find_limit(key)->text(caps);
    }
    out << YAML::EndMap;
  }
  out << YAML::EndMap << YAML::Key << "tenants" << YAML::Value << YAML::BeginSeq;
  for (const auto& tenant : config.server.tenants) {
    out << YAML::BeginMap << YAML::Key << "name" << YAML::Value << tenant.name << YAML::Key
        << "api_key_sha256" << YAML::Value << YAML::Flow << YAML::BeginSeq;
    for (const auto& key : tenant.keys) out << key.sha256;
    out << YAML::EndSeq << YAML::Key << "operator" << YAML::Value << tenant.is_operator << YAML::Key
        << "tier" << YAML::Value << std::string(to_string(tenant.tier)) << YAML::Key << "suspended"
        << YAML::Value << tenant.suspended << YAML::Key << "cache" << YAML::Value << YAML::BeginMap
        << YAML::Key << "store" << YAML::Value << !tenant.cache.no_store << YAML::Key << "bytes"
        << YAML::Value
        << (tenant.cache.bytes ? show_quantity(*tenant.cache.bytes, byte_units) : as_configured)
        << YAML::Key << "ttl" << YAML::Value << YAML::BeginMap;
    for (std::size_t kind = 0; kind < tenant.cache.ttl_ms.size(); ++kind) {
      out << YAML::Key << cache_kind_text(kind) << YAML::Value
          << cache_ttl_text(tenant.cache.ttl_ms[kind]);
    }
    out << YAML::EndMap << YAML::EndMap;
    for (const auto& limit : quota_limits<cluster::Quota>()) {
      out << YAML::Key << limit.key() << YAML::Value << limit.text(tenant.quota);
    }
    out << YAML::EndMap;
  }
  out << YAML::EndSeq << YAML::EndMap;
  return std::string(out.c_str()) + "\n";
}

}  // namespace plimsoll::cli
