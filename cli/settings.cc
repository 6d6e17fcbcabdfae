#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <sstream>

#include "actors/gateway/listen_address.h"
#include "actors/records.h"
#include "cli/config.h"
#include "cli/quantity.h"

namespace plimsoll::cli {

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

// `check` says of one item whether it may be there.
template <class Field>
Setting list_setting(std::string key, std::string help, Field field,
                     Result<void> (*check)(const std::string&)) {
  return {std::move(key), std::move(help),
          [field](const Config& c) {
            return fmt::format("{}", fmt::join(field(const_cast<Config&>(c)), ","));
          },
          [field, check](Config& c, const std::string& text) -> Result<void> {
            field(c).clear();
            std::istringstream in(text);
            for (std::string item; std::getline(in, item, ',');) {
              if (item.empty()) continue;
              if (auto good = check(item); !good) return good;
              field(c).push_back(item);
            }
            return {};
          },
          true};
}

Result<void> check_address(const std::string& text) {
  const auto address = parse_address(text);
  return address ? Result<void>() : fail(address.error());
}

Result<void> check_etcd_endpoint(const std::string& text) {
  const bool tls = text.starts_with("https://");
  const auto expected = fmt::format("'{}' is not https://HOST:PORT", text);
  if (!tls && !text.starts_with("http://")) return wrong(expected);
  const auto address = parse_address(text.substr(text.find("//") + 2));
  if (!address || address->port == 0) return wrong(expected);
  if (tls || is_loopback(address->host)) return {};
  return wrong(
      fmt::format("'{}' would send the cluster's records in the clear beyond this machine: use "
                  "https",
                  text));
}

Setting name_setting() {
  auto setting = text_setting(
      "cluster.name", "of this router or node; empty: the host's",
      [](Config & c) -> auto& { return c.server.cluster.name; });
  setting.set = [set = setting.set](Config& c, const std::string& text) -> Result<void> {
    if (!text.empty()) {
      if (auto good = check_node_name(text); !good) return good;
    }
    return set(c, text);
  };
  return setting;
}

Setting etcd_prefix_setting() {
  auto setting = text_setting(
      "cluster.etcd_prefix", "of every key in etcd",
      [](Config & c) -> auto& { return c.server.cluster.etcd_prefix; });
  setting.set = [set = setting.set](Config& c, const std::string& text) -> Result<void> {
    if (text.size() < 2 || !text.ends_with('/')) return wrong("is not like /plimsoll/");
    return set(c, text);
  };
  return setting;
}

// More than 0.
template <class Field>
Setting number_setting(std::string key, std::string help, Field field) {
  return {std::move(key), std::move(help),
          [field](const Config& c) { return fmt::format("{}", field(const_cast<Config&>(c))); },
          [field](Config& c, const std::string& text) -> Result<void> {
            double value = 0;
            const auto [end, error] =
                std::from_chars(text.data(), text.data() + text.size(), value);
            if (error != std::errc{} || end != text.data() + text.size() || !std::isfinite(value) ||
                value <= 0) {
              return wrong(fmt::format("'{}' is not a number over 0", text));
            }
            field(c) = value;
            return {};
          }};
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

Setting kv_memory_setting() {
  return {"engine.kv_memory", "for the KV cache of each text model; auto: what the plan leaves",
          [](const Config& c) {
            const auto& bytes = c.server.engine.kv_bytes;
            return bytes ? show_quantity(*bytes, byte_units) : std::string("auto");
          },
          [](Config& c, const std::string& text) -> Result<void> {
            c.server.engine.kv_bytes.reset();
            if (text == "auto") return {};
            const auto bytes = parse_bytes(text);
            if (!bytes) return fail(bytes.error());
            c.server.engine.kv_bytes = *bytes;
            return {};
          }};
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
  add(time_setting("engine.ttft_objective",
                   "what would wait longer behind others for its first token is refused at once",
                   FIELD(server.engine.ttft_objective)));
  add(time_setting("engine.queue_time", "longest wait before a sequence is refused",
                   FIELD(server.engine.queue_time)));
  add(integer_setting("engine.low_latency_headroom",
                      "percent of KV memory that batch and long-context work leaves free",
                      FIELD(server.engine.low_latency_headroom), 0, 90));
  add(integer_setting("engine.batch_headroom",
                      "percent of KV memory kept for tenants of tier best-effort",
                      FIELD(server.engine.batch_headroom), 0, 90));
  add(integer_setting("engine.long_context_headroom",
                      "percent of KV memory kept for long sequences",
                      FIELD(server.engine.long_context_headroom), 0, 90));
  add(integer_setting("engine.long_context_tokens", "from so many on a sequence is long",
                      FIELD(server.engine.long_context_tokens), 16, 1 << 20));
  add(integer_setting("engine.block_tokens", "tokens in a KV block",
                      FIELD(server.engine.block_tokens), 16, 256));
  add(choice_setting("engine.kv_type",
                     "bf16, f16; int8: half the memory; int4: a third, at a cost in quality",
                     FIELD(server.engine.kv_type),
                     std::vector<std::pair<std::string, KvType>>{{"bf16", KvType::bf16},
                                                                 {"f16", KvType::f16},
                                                                 {"int8", KvType::int8},
                                                                 {"int4", KvType::int4}}));
  add(kv_memory_setting());
  add(choice_setting("engine.prefix_sharing", "keep and share a tenant's common prefixes",
                     FIELD(server.engine.prefix_sharing),
                     std::vector<std::pair<std::string, bool>>{{"true", true}, {"false", false}}));
  add(choice_setting("engine.speculation",
                     "auto: compute a repeated text's next tokens in advance where that is cheaper",
                     FIELD(server.engine.speculation),
                     std::vector<std::pair<std::string, bool>>{{"auto", true}, {"off", false}}));
  add(path_setting("engine.packed_directory", "for packed weights; empty: beside the model",
                   FIELD(server.engine.packed_directory)));
  add(path_setting("cache.directory", "of a node's cache on disk, its own; empty: there is none",
                   FIELD(server.cache.directory)));
  add(bytes_setting("cache.bytes", "on disk, at most", FIELD(server.cache.bytes)));
  add(bytes_setting("cache.tenant_bytes", "of them, one tenant's",
                    FIELD(server.cache.tenant_bytes)));
  add(time_setting("cache.ttl", "of what is cached on disk, at most 30 days",
                   FIELD(server.cache.ttl)));
  add(path_setting("cache.key_file",
                   "with 32 bytes, hex or base64: what is cached on disk is encrypted",
                   FIELD(server.cache.key_file)));
  add(bytes_setting("cache.memory", "for the buffers and the index of the cache on disk",
                    FIELD(server.cache.memory_bytes)));
  add(name_setting());
  add(cluster_listen_setting());
  add(list_setting("cluster.join", "a node's: HOST:PORT of every router, with commas between",
                   FIELD(server.cluster.join), check_address));
  add(text_setting("cluster.join_token", "a node's, the first time", FIELD(join_token)));
  add(path_setting("cluster.join_token_file", "where it is, if it is there",
                   FIELD(join_token_file)));
  add(number_setting("cluster.weight", "a node's: its capacity next to the others'",
                     FIELD(server.cluster.weight)));
  add(path_setting("cluster.ca_file", "PEM file of the cluster's CA; needed beyond loopback",
                   FIELD(server.cluster.ca_file)));
  add(path_setting("cluster.certificate", "PEM file, from `plimsoll ca issue`",
                   FIELD(server.cluster.certificate)));
  add(path_setting("cluster.key", "PEM file of its private key", FIELD(server.cluster.key)));
  add(path_setting("cluster.state_directory",
                   "a router's store, a node's secret; auto: see REFERENCE.md; empty: in memory",
                   FIELD(state_directory)));
  add(list_setting("cluster.etcd",
                   "a router's, with others: http(s)://HOST:PORT of each member, with commas "
                   "between; instead of its own store",
                   FIELD(server.cluster.etcd), check_etcd_endpoint));
  add(path_setting("cluster.etcd_ca_file", "PEM file of etcd's CA; empty: the machine's CAs",
                   FIELD(server.cluster.etcd_ca_file)));
  add(path_setting("cluster.etcd_certificate", "PEM file, of a router towards etcd",
                   FIELD(server.cluster.etcd_certificate)));
  add(path_setting("cluster.etcd_key", "PEM file of its private key",
                   FIELD(server.cluster.etcd_key)));
  add(etcd_prefix_setting());
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

}  // namespace plimsoll::cli
