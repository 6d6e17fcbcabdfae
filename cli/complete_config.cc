#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <fstream>
#include <set>

#include "actors/gateway/listen_address.h"
#include "cli/catalogue.h"
#include "cli/config.h"

namespace plimsoll::cli {

namespace fs = std::filesystem;

namespace {

tl::unexpected<Error> wrong(std::string message) {
  return fail(ErrorCode::invalid_argument, std::move(message));
}

// "node-1", or the host's name where none is given: what the server does too.
std::string own_name(const ClusterConfig& cluster) {
  if (!cluster.name.empty()) return cluster.name;
  std::array<char, 256> name{};
  gethostname(name.data(), name.size() - 1);
  return name.data();
}

// Where a role keeps its state unless told otherwise.
Result<fs::path> auto_state_directory(const ServerConfig& server) {
  const bool shares = server.role == Role::router && !server.cluster.etcd.empty();
  if (server.role == Role::all || shares) return fs::path();
  const auto folder_in = [](const char* variable) {
    const char* value = getenv(variable);
    const fs::path path = value == nullptr ? "" : value;
    return path.is_absolute() ? path : fs::path();  // as the XDG specification says
  };
  fs::path base = folder_in("XDG_STATE_HOME");
  if (base.empty()) {
    base = folder_in("HOME");
    if (base.empty()) {
      return wrong(
          "cluster.state_directory: there is no home folder to keep state in; name a folder, or "
          "leave it empty to keep nothing");
    }
    base /= ".local/state";
  }
  base /= "plimsoll";
  return base / (server.role == Role::router ? "router" : "node-" + own_name(server.cluster));
}

// The first word of a file that need not be there.
Result<std::string> read_token(const fs::path& file) {
  std::error_code error;
  if (!fs::exists(file, error) && !error) return std::string();
  std::string token;
  if (std::ifstream in(file); !in || !(in >> token)) {
    return wrong(
        fmt::format("cluster.join_token_file: {} cannot be read, or is empty", file.string()));
  }
  return token;
}

Result<void> complete_state(Config& config) {
  auto& cluster = config.server.cluster;
  if (config.state_directory == auto_directory) {
    auto folder = auto_state_directory(config.server);
    if (!folder) return fail(folder.error());
    config.state_directory = *folder;
  }
  cluster.state_directory = config.state_directory;
  if (!config.join_token.empty() && !config.join_token_file.empty()) {
    return wrong("give cluster.join_token or cluster.join_token_file, not both");
  }
  cluster.join_token = config.join_token;
  if (config.server.role == Role::node && !config.join_token_file.empty()) {
    auto token = read_token(config.join_token_file);
    if (!token) return fail(token.error());
    cluster.join_token = *token;
  }
  if (cluster.etcd_certificate.empty() != cluster.etcd_key.empty()) {
    return wrong("cluster.etcd_certificate and cluster.etcd_key go together");
  }
  return {};
}

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
  if (auto done = complete_state(config); !done) return done;
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

}  // namespace plimsoll::cli
