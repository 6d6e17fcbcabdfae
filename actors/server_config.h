// The configuration of one process. The CLI fills it from the YAML file and flags; every field has
// the default that the reference page documents.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "cluster/sizing.h"
#include "cluster/tenant.h"
#include "engine/base/result.h"
#include "engine/base/types.h"
#include "engine/kv/kv_layout.h"
#include "engine/models/model.h"

namespace plimsoll {

struct ListenConfig {
  std::string host = "127.0.0.1";
  std::uint16_t port = 0;  // 0: any free one
  // PEM files. A host that is not loopback is refused without both, and without API keys.
  std::filesystem::path tls_certificate;
  std::filesystem::path tls_key;
};

struct HttpConfig {
  ListenConfig listen{"127.0.0.1", 8080, {}, {}};
  std::uint64_t body_bytes = 8_MiB;
  std::uint32_t header_bytes = 16 * 1024;
  std::uint32_t connections = 1024;
  std::chrono::milliseconds header_timeout{10'000};  // of a request's head, from its first byte
  std::chrono::milliseconds body_timeout{30'000};
  std::chrono::milliseconds idle_timeout{60'000};
  std::chrono::milliseconds write_timeout{30'000};  // a reader that takes nothing
};

struct RpcConfig {
  ListenConfig listen{"127.0.0.1", 8081, {}, {}};
  std::uint32_t connections = 256;
};

struct ModelConfig {
  std::string name;
  std::filesystem::path path;
  ComputeMode compute = ComputeMode::automatic;
};

struct EngineSettings {
  int threads = 0;  // 0: one for each core
  std::uint32_t context_tokens = 8192;
  std::uint32_t max_batch = 64;
  std::uint32_t step_tokens = 256;
  std::uint32_t chunk_tokens = 256;
  std::uint32_t queue_length = 256;
  std::uint32_t tenant_sequences = 128;  // waiting and running of one tenant, from all routers
  std::chrono::milliseconds queue_time{30'000};
  std::chrono::milliseconds ttft_objective{10'000};  // to the first token
  // Of the KV memory, kept free for each class of work: percent.
  std::uint32_t low_latency_headroom = 10;
  std::uint32_t batch_headroom = 0;
  std::uint32_t long_context_headroom = 0;
  std::uint32_t long_context_tokens = 4096;  // from so many on, a sequence is of that class
  std::uint32_t block_tokens = 16;
  KvType kv_type = KvType::bf16;
  std::optional<std::uint64_t> kv_bytes;  // of each causal model; none: what the plan leaves
  bool prefix_sharing = true;
  bool speculation = true;                 // drafts by prompt lookup
  std::filesystem::path packed_directory;  // empty: beside the model
};
int thread_count(const EngineSettings& settings);  // as configured, or one for each core

// The cache on disk of a process that computes.
struct CacheSettings {
  std::filesystem::path directory;     // empty: there is none
  std::uint64_t bytes = 4_GiB;         // on disk
  std::uint64_t tenant_bytes = 4_GiB;  // of them, of one tenant
  std::chrono::milliseconds ttl{std::chrono::hours(24)};
  std::uint64_t memory_bytes = 64_MiB;  // buffers, index and tables
  std::filesystem::path key_file{};     // 32 bytes, hex or base64; empty: nothing is encrypted
};

// What a process is of a cluster. `all`: a router and a node in one.
enum class Role : std::uint8_t { all, router, node };

struct ClusterConfig {
  std::string name;  // of this router or node; empty: the host's
  // Where nodes join this router. Host empty: none may.
  std::string listen_host;
  std::uint16_t listen_port = 0;  // 0: any free one
  std::vector<std::string> join;  // a node: HOST:PORT of every router
  std::string join_token;         // the first time
  double weight = 1;              // of a node: its capacity next to the others'
  // Mutual TLS under the cluster's CA: PEM files; needed beyond loopback.
  std::filesystem::path ca_file, certificate, key;
  // A router's embedded store; a node's secret. Empty: nothing outlives the process.
  std::filesystem::path state_directory;
  std::vector<std::string> etcd;  // endpoints: routers share their state there instead
  std::filesystem::path etcd_ca_file, etcd_certificate, etcd_key;
  std::string etcd_prefix = "/plimsoll/";  // of every key
  std::chrono::milliseconds heartbeat{200};
  std::chrono::milliseconds node_timeout{1000};
};

// Whom a caller without a key is taken for, where no key is configured.
inline constexpr const char* local_tenant = "local";

struct ServerConfig {
  Role role = Role::all;
  ClusterConfig cluster;
  HttpConfig http;
  RpcConfig rpc;
  std::vector<ModelConfig> models;
  // Without a key among them, anyone who reaches the gateways is the operator, as tenant "local".
  std::vector<cluster::Tenant> tenants;
  bool is_open() const {
    return std::ranges::all_of(tenants, [](const auto& tenant) { return tenant.keys.empty(); });
  }
  // What one request of a tenant may be that has no such limit of its own, by tier.
  cluster::TierCaps tiers{};
  EngineSettings engine;
  CacheSettings cache;
  std::uint32_t stream_window_tokens = 256;  // that a client may be behind
  std::chrono::milliseconds request_deadline{600'000};
  std::chrono::milliseconds drain_deadline{10'000};
  std::uint64_t memory_limit_bytes = 0;  // 0: the cgroup's, else the machine's
  // What "NAME", "PATH" or "NAME=PATH" stands for, for models that are loaded at run time.
  std::function<Result<ModelConfig>(const std::string& source)> find_model;
  // What the gateways' connections may come to with these settings; absent: there are none.
  std::function<std::vector<cluster::PlanRow>(const HttpConfig&, const RpcConfig&,
                                              std::uint64_t limit_bytes)>
      gateway_memory;
  // Told the plan of the process's memory before the first model is loaded.
  std::function<void(const cluster::MemoryPlan&)> on_plan;
};

}  // namespace plimsoll
