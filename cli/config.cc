#include "cli/config.h"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>
#include <sstream>

#include "actors/gateway/listen_address.h"
#include "cli/catalogue.h"
#include "cli/quantity.h"

namespace plimsoll::cli {

namespace fs = std::filesystem;

namespace {

tl::unexpected<Error> wrong(std::string message) {
  return fail(ErrorCode::invalid_argument, std::move(message));
}

template <class T>
Result<T> parse_integer(const std::string& text, T low, T high) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value < low || value > high) {
    return wrong(fmt::format("'{}' is not a whole number from {} to {}", text, low, high));
  }
  return value;
}

// Setting makers: `field` maps the configuration to the value.
template <class Field>
Setting integer_setting(std::string key, std::string help, Field field, std::int64_t low,
                        std::int64_t high) {
  return {std::move(key), std::move(help),
          [field](const Config& c) { return std::to_string(field(const_cast<Config&>(c))); },
          [field, low, high](Config& c, const std::string& text) -> Result<void> {
            auto value = parse_integer<std::int64_t>(text, low, high);
            if (!value) return fail(value.error());
            auto& target = field(c);
            target = static_cast<std::remove_reference_t<decltype(target)>>(*value);
            return {};
          }};
}

template <class Field>
Setting bytes_setting(std::string key, std::string help, Field field) {
  return {
      std::move(key), std::move(help),
      [field](const Config& c) { return show_quantity(field(const_cast<Config&>(c)), byte_units); },
      [field](Config& c, const std::string& text) -> Result<void> {
        auto value = parse_bytes(text);
        if (!value) return fail(value.error());
        field(c) = *value;
        return {};
      }};
}

template <class Field>
Setting time_setting(std::string key, std::string help, Field field) {
  return {std::move(key), std::move(help),
          [field](const Config& c) {
            return show_quantity(field(const_cast<Config&>(c)).count(), time_units);
          },
          [field](Config& c, const std::string& text) -> Result<void> {
            auto value = parse_time_ms(text);
            if (!value) return fail(value.error());
            if (*value == 0) return wrong("must be more than 0");
            field(c) = std::chrono::milliseconds(*value);
            return {};
          }};
}

template <class Field>
Setting path_setting(std::string key, std::string help, Field field) {
  return {std::move(key), std::move(help),
          [field](const Config& c) { return field(const_cast<Config&>(c)).string(); },
          [field](Config& c, const std::string& text) -> Result<void> {
            field(c) = text;
            return {};
          }};
}

template <class Field, class Value>
Setting choice_setting(std::string key, std::string help, Field field,
                       std::vector<std::pair<std::string, Value>> choices) {
  return {std::move(key), std::move(help),
          [field, choices](const Config& c) {
            for (const auto& [name, value] : choices) {
              if (value == field(const_cast<Config&>(c))) return name;
            }
            return std::string();
          },
          [field, choices](Config& c, const std::string& text) -> Result<void> {
            std::string names;
            for (const auto& [name, value] : choices) {
              if (name == text) {
                field(c) = value;
                return {};
              }
              names += (names.empty() ? "" : ", ") + name;
            }
            return wrong(fmt::format("'{}' is none of {}", text, names));
          }};
}

Setting listen_setting(std::string key, std::string help, ListenConfig& (*field)(Config&)) {
  return {std::move(key), std::move(help),
          [field](const Config& c) {
            const auto& listen = field(const_cast<Config&>(c));
            return to_string(Address{listen.host, listen.port});
          },
          [field](Config& c, const std::string& text) -> Result<void> {
            auto address = parse_address(text);
            if (!address) return fail(std::move(address.error()));
            field(c).host = std::move(address->host);
            field(c).port = address->port;
            return {};
          }};
}

template <class Field>
Setting text_setting(std::string key, std::string help, Field field) {
  return {std::move(key), std::move(help),
          [field](const Config& c) { return field(const_cast<Config&>(c)); },
          [field](Config& c, const std::string& text) -> Result<void> {
            field(c) = text;
            return {};
          }};
}

template <class Field>
Setting list_setting(std::string key, std::string help, Field field) {
  return {std::move(key), std::move(help),
          [field](const Config& c) {
            return fmt::format("{}", fmt::join(field(const_cast<Config&>(c)), ","));
          },
          [field](Config& c, const std::string& text) -> Result<void> {
            field(c).clear();
            std::istringstream in(text);
            for (std::string item; std::getline(in, item, ',');) {
              if (!item.empty()) field(c).push_back(item);
            }
            return {};
          },
          true};
}

// Empty: no node may join.
Setting cluster_listen_setting() {
  const auto listen = listen_setting("cluster.listen", "where nodes join; empty: none may",
                                     [](Config& c) -> ListenConfig& { return c.cluster_listen; });
  Setting setting = listen;
  setting.get = [listen](const Config& c) {
    return c.cluster_listen.host.empty() ? "" : listen.get(c);
  };
  setting.set = [listen](Config& c, const std::string& text) -> Result<void> {
    if (!text.empty()) return listen.set(c, text);
    c.cluster_listen = {"", 0, {}, {}};
    return {};
  };
  return setting;
}

std::vector<Setting> make_settings() {
  std::vector<Setting> all;
  const auto add = [&](Setting setting) { all.push_back(std::move(setting)); };
#define FIELD(expression) \
  [](Config & c) -> auto& { return c.expression; }
  add(listen_setting("http.listen", "address of the OpenAI-compatible HTTP API",
                     FIELD(server.http.listen)));
  add(path_setting("http.tls_certificate", "PEM file; needed beyond loopback",
                   FIELD(server.http.listen.tls_certificate)));
  add(path_setting("http.tls_key", "PEM file of its private key",
                   FIELD(server.http.listen.tls_key)));
  add(bytes_setting("http.body_limit", "largest request body", FIELD(server.http.body_bytes)));
  add(integer_setting("http.header_limit", "largest request header, bytes",
                      FIELD(server.http.header_bytes), 1024, 1 << 20));
  add(integer_setting("http.connections", "open connections at most",
                      FIELD(server.http.connections), 1, 100'000));
  add(time_setting("http.header_timeout", "to send a request's header",
                   FIELD(server.http.header_timeout)));
  add(time_setting("http.body_timeout", "to send a request's body",
                   FIELD(server.http.body_timeout)));
  add(time_setting("http.idle_timeout", "between two requests", FIELD(server.http.idle_timeout)));
  add(time_setting("http.write_timeout", "for a client that takes nothing of its answer",
                   FIELD(server.http.write_timeout)));
  add(listen_setting("rpc.listen", "address of the Cap'n Proto API", FIELD(server.rpc.listen)));
  add(path_setting("rpc.tls_certificate", "PEM file; needed beyond loopback",
                   FIELD(server.rpc.listen.tls_certificate)));
  add(path_setting("rpc.tls_key", "PEM file of its private key", FIELD(server.rpc.listen.tls_key)));
  add(integer_setting("rpc.connections", "open connections at most", FIELD(server.rpc.connections),
                      1, 100'000));
  add(integer_setting("engine.threads", "compute threads; 0: one for each core",
                      FIELD(server.engine.threads), 0, 1024));
  add(integer_setting("engine.context_tokens", "longest sequence, prompt and answer",
                      FIELD(server.engine.context_tokens), 16, 1 << 20));
  add(integer_setting("engine.max_batch", "sequences in one step", FIELD(server.engine.max_batch),
                      1, 4096));
  add(integer_setting("engine.step_tokens", "tokens in one step", FIELD(server.engine.step_tokens),
                      16, 65536));
  add(integer_setting("engine.chunk_tokens", "of one prompt in one step",
                      FIELD(server.engine.chunk_tokens), 1, 65536));
  add(integer_setting("engine.queue_length", "sequences that may wait",
                      FIELD(server.engine.queue_length), 1, 1'000'000));
  add(time_setting("engine.queue_time", "longest wait before a sequence is refused",
                   FIELD(server.engine.queue_time)));
  add(integer_setting("engine.block_tokens", "tokens in a KV block",
                      FIELD(server.engine.block_tokens), 16, 256));
  add(choice_setting(
      "engine.kv_type", "f16, or int8: half the memory", FIELD(server.engine.kv_type),
      std::vector<std::pair<std::string, KvType>>{{"f16", KvType::f16}, {"int8", KvType::int8}}));
  add(bytes_setting("engine.kv_memory", "for the KV cache of each text model",
                    FIELD(server.engine.kv_bytes)));
  add(choice_setting("engine.prefix_sharing", "keep and share a tenant's common prefixes",
                     FIELD(server.engine.prefix_sharing),
                     std::vector<std::pair<std::string, bool>>{{"true", true}, {"false", false}}));
  add(path_setting("engine.packed_directory", "for packed weights; empty: beside the model",
                   FIELD(server.engine.packed_directory)));
  add(text_setting("cluster.name", "of this router or node; empty: the host's",
                   FIELD(server.cluster.name)));
  add(cluster_listen_setting());
  add(list_setting("cluster.join", "a node's: HOST:PORT of every router, with commas between",
                   FIELD(server.cluster.join)));
  add(path_setting("cluster.ca_file", "PEM file of the cluster's CA; needed beyond loopback",
                   FIELD(server.cluster.ca_file)));
  add(path_setting("cluster.certificate", "PEM file, from `plimsoll ca issue`",
                   FIELD(server.cluster.certificate)));
  add(path_setting("cluster.key", "PEM file of its private key", FIELD(server.cluster.key)));
  add(time_setting("cluster.heartbeat", "between two of a node's",
                   FIELD(server.cluster.heartbeat)));
  add(time_setting("cluster.node_timeout", "without a word, after which a node is given up",
                   FIELD(server.cluster.node_timeout)));
  add(bytes_setting("memory_limit", "0: the cgroup's limit, else the machine's memory",
                    FIELD(server.memory_limit_bytes)));
  add(integer_setting("stream_window_tokens", "that a client may be behind",
                      FIELD(server.stream_window_tokens), 1, 65536));
  add(time_setting("request_deadline", "longest a request may take",
                   FIELD(server.request_deadline)));
  add(time_setting("drain_deadline", "for running requests on shutdown",
                   FIELD(server.drain_deadline)));
  add(choice_setting("log_level", "trace, debug, info, warn or error", FIELD(log_level),
                     std::vector<std::pair<std::string, std::string>>{{"trace", "trace"},
                                                                      {"debug", "debug"},
                                                                      {"info", "info"},
                                                                      {"warn", "warn"},
                                                                      {"error", "error"}}));
#undef FIELD
  return all;
}

const std::vector<std::pair<std::string, ComputeMode>> compute_modes = {
    {"auto", ComputeMode::automatic},
    {"float32", ComputeMode::float32},
    {"int8", ComputeMode::int8}};

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
              for (const auto& [text, mode] : compute_modes) {
                if (text == value.Scalar()) {
                  model.compute = mode;
                  return true;
                }
              }
              return wrong(fmt::format("'{}' is none of auto, float32, int8", value.Scalar()));
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

  Result<void> tenants(const YAML::Node& node) {
    if (!node.IsSequence()) return at(node, "tenants", "must be a list");
    config_.server.tenants.clear();
    std::set<std::string> names;
    for (const auto& item : node) {
      cluster::Tenant tenant;
      auto done = entry(
          item, "tenants", [&](const std::string& name, const YAML::Node& value) -> Result<bool> {
            if (name == "name") {
              tenant.name = value.Scalar();
            } else if (name == "api_key_sha256") {
              std::vector<std::string> keys;
              if (value.IsScalar()) keys.push_back(value.Scalar());
              for (const auto& key : value) keys.push_back(key.Scalar());
              for (const auto& key : keys) {
                if (key.size() != 64 ||
                    key.find_first_not_of("0123456789abcdef") != std::string::npos) {
                  return wrong("is not 64 lower-case hexadecimal digits; `plimsoll key` makes one");
                }
              }
              tenant.keys.clear();
              for (const auto& key : keys) tenant.keys.push_back({key, 0, 0});
            } else if (name == "operator") {
              if (value.Scalar() != "true" && value.Scalar() != "false") {
                return wrong("must be true or false");
              }
              tenant.is_operator = value.Scalar() == "true";
            } else if (name == "max_sequences") {
              auto number = parse_integer<std::uint32_t>(value.Scalar(), 1, 1'000'000);
              if (!number) return fail(number.error());
              tenant.quota.sequences = *number;
            } else if (name == "requests_per_minute") {
              auto number = parse_integer<std::uint32_t>(value.Scalar(), 0, 1'000'000);
              if (!number) return fail(number.error());
              tenant.quota.requests_per_second = *number / 60.0;
            } else {
              return false;
            }
            return true;
          });
      if (!done) return done;
      const auto& name = tenant.name;
      if (name.empty() || name.size() > 64 ||
          name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-_.") != std::string::npos) {
        return at(item, "tenants.name", "must be 1 to 64 of a-z, 0-9, '-', '_' and '.'");
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

  std::string file_;
  Config& config_;
};

}  // namespace

std::string Setting::flag() const {
  std::string flag = "--" + key;
  std::replace_if(
      flag.begin(), flag.end(), [](char c) { return c == '.' || c == '_'; }, '-');
  return flag;
}

const std::vector<Setting>& settings() {
  static const std::vector<Setting> all = make_settings();
  return all;
}

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

namespace {

// What goes between processes is protected, or does not leave the machine.
Result<void> check_cluster(const ServerConfig& server) {
  const auto& cluster = server.cluster;
  const int files = !cluster.ca_file.empty() + !cluster.certificate.empty() + !cluster.key.empty();
  if (files != 0 && files != 3) {
    return wrong("cluster.ca_file, cluster.certificate and cluster.key go together");
  }
  const auto protect = [&](const std::string& host, const char* key) -> Result<void> {
    if (files == 3 || host.empty() || is_loopback(host)) return {};
    return wrong(
        fmt::format("{} is {}, beyond this machine: give cluster.ca_file, "
                    "cluster.certificate and cluster.key; `plimsoll ca` makes them",
                    key, host));
  };
  if (auto done = protect(cluster.listen_host, "cluster.listen"); !done) return done;
  for (const auto& router : cluster.join) {
    const auto address = parse_address(router);
    if (!address) return wrong("cluster.join: " + address.error().message);
    if (auto done = protect(address->host, "cluster.join"); !done) return done;
  }
  if (cluster.node_timeout < 3 * cluster.heartbeat) {
    return wrong("cluster.node_timeout must be at least 3 times cluster.heartbeat");
  }
  if (server.role == Role::node && cluster.join.empty()) {
    return wrong("a node needs cluster.join, the routers to join (--join HOST:PORT)");
  }
  if (server.role == Role::router && cluster.listen_host.empty()) {
    return wrong("a router needs cluster.listen, where nodes join it");
  }
  return {};
}

}  // namespace

Result<void> complete_config(Config& config) {
  auto& server = config.server;
  const bool has_keys = std::any_of(server.tenants.begin(), server.tenants.end(),
                                    [](const auto& tenant) { return !tenant.keys.empty(); });
  for (const auto* listen : {&server.http.listen, &server.rpc.listen}) {
    const char* which = listen == &server.http.listen ? "http" : "rpc";
    if (listen->tls_certificate.empty() != listen->tls_key.empty()) {
      return wrong(fmt::format("{0}.tls_certificate and {0}.tls_key go together", which));
    }
    if (is_loopback(listen->host)) continue;
    if (listen->tls_certificate.empty() || !has_keys) {
      return wrong(fmt::format(
          "{0}.listen is {1}, which others can reach: give {0}.tls_certificate and {0}.tls_key, "
          "and tenants with api_key_sha256; or listen on 127.0.0.1",
          which, listen->host));
    }
  }
  auto& engine = server.engine;
  if (engine.chunk_tokens > engine.step_tokens) {
    return wrong(fmt::format("engine.chunk_tokens ({}) is more than engine.step_tokens ({})",
                             engine.chunk_tokens, engine.step_tokens));
  }
  if (engine.block_tokens % 16 != 0) {
    return wrong(fmt::format("engine.block_tokens ({}) is no multiple of 16", engine.block_tokens));
  }
  if (engine.max_batch > engine.step_tokens) {
    return wrong(fmt::format("engine.max_batch ({}) is more than engine.step_tokens ({})",
                             engine.max_batch, engine.step_tokens));
  }
  server.cluster.listen_host = config.cluster_listen.host;
  server.cluster.listen_port = config.cluster_listen.port;
  if (auto done = check_cluster(server); !done) return done;
  if (server.models.empty()) {
    for (const auto& model : catalogue()) {
      if (model.is_default && is_present(model)) {
        server.models.push_back({model.name, model_path(model), ComputeMode::automatic});
      }
    }
    if (server.models.empty()) {
      return fail(ErrorCode::not_found,
                  "no model to serve; run `plimsoll pull`, or name one with --model NAME=PATH");
    }
  }
  std::set<std::string> names;
  for (const auto& model : server.models) {
    std::error_code error;
    if (!fs::exists(model.path, error)) {
      return fail(ErrorCode::not_found,
                  fmt::format("model '{}': no file or folder {}", model.name, model.path.string()));
    }
    if (!names.insert(model.name).second) {
      return wrong(fmt::format("two models are named '{}'", model.name));
    }
  }
  return {};
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
    const auto mode =
        std::find_if(compute_modes.begin(), compute_modes.end(),
                     [&](const auto& entry) { return entry.second == model.compute; });
    out << YAML::BeginMap << YAML::Key << "name" << YAML::Value << model.name << YAML::Key << "path"
        << YAML::Value << model.path.string() << YAML::Key << "compute" << YAML::Value
        << mode->first << YAML::EndMap;
  }
  out << YAML::EndSeq << YAML::Key << "tenants" << YAML::Value << YAML::BeginSeq;
  for (const auto& tenant : config.server.tenants) {
    out << YAML::BeginMap << YAML::Key << "name" << YAML::Value << tenant.name << YAML::Key
        << "api_key_sha256" << YAML::Value << YAML::Flow << YAML::BeginSeq;
    for (const auto& key : tenant.keys) out << key.sha256;
    out << YAML::EndSeq << YAML::Key << "operator" << YAML::Value << tenant.is_operator << YAML::Key
        << "max_sequences" << YAML::Value << tenant.quota.sequences << YAML::Key
        << "requests_per_minute" << YAML::Value
        << std::lround(tenant.quota.requests_per_second * 60) << YAML::EndMap;
  }
  out << YAML::EndSeq << YAML::EndMap;
  return std::string(out.c_str()) + "\n";
}

}  // namespace plimsoll::cli
