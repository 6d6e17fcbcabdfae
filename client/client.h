// The Plimsoll C++ SDK: generate, chat and embed against a Plimsoll server, over Cap'n Proto RPC.
//
//   plimsoll::client::Client client({.addresses = {"127.0.0.1:8081"}});
//   client.generate({.model = "smollm2-135m-instruct", .prompt = "Once upon a time"},
//                   [](const auto& delta) { std::cout << delta.text << std::flush; return true; });
//
// This header needs the standard library only. Calls block; several threads may use one Client.
//
// Of a cluster with several routers, give all addresses: when one router is lost, calls go on at
// another, and an answer that was being streamed goes on behind what has come of it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

namespace plimsoll::client {

// Every failure of a call. `code` is the server's ("invalid_argument", "resource_exhausted", ...;
// "unavailable" if the server cannot be reached or went away).
class Error : public std::runtime_error {
 public:
  Error(std::string code, const std::string& message, std::string reason = {},
        std::uint32_t retry_after_ms = 0)
      : std::runtime_error(message),
        code(std::move(code)),
        reason(std::move(reason)),
        retry_after_ms(retry_after_ms) {}
  std::string code;
  std::string reason;
  std::uint32_t retry_after_ms;  // 0: retrying is of no use, or no estimate
};

struct Options {
  // HOST:PORT of each router. The first that is tried is a random one.
  std::vector<std::string> addresses = {"127.0.0.1:8081"};
  std::string api_key = {};  // empty: the anonymous local tenant
  // PEM file of the CA that signed the server's certificate; empty: no TLS. The certificate must
  // name the host as a DNS name.
  std::string ca_file = {};
  std::uint32_t connect_timeout_ms = 5000;  // of one address
  // For how long a call tries again after a failure that may pass: a lost server, `unavailable`, or
  // `resource_exhausted` with a time at which to come again. It counts from the last token that
  // came. Calls that change something are not repeated once they may have been heard. 0: never.
  std::uint32_t retry_ms = 15'000;
};

struct Message {
  std::string role;  // system, user or assistant
  std::string content;
};

struct GenerateRequest {
  std::string model = {};
  // Exactly one of these three is given:
  std::vector<Message> messages = {};     // a chat
  std::string prompt = {};                // a text to go on from
  std::vector<std::int32_t> tokens = {};  // its token ids
  std::uint32_t max_tokens = 0;           // 0: the rest of the context
  float temperature = 1.0F;
  float top_p = 1.0F;
  std::int32_t top_k = 0;
  float min_p = 0.0F;
  float presence_penalty = 0.0F;
  float frequency_penalty = 0.0F;
  std::optional<std::uint64_t> seed = {};  // absent: a random one
  std::vector<std::string> stop = {};
  std::int32_t top_logprobs = -1;  // -1: none; n: the token's own and the n likeliest
  std::uint32_t choices = 1;
  bool echo = false;
  bool ignore_eos = false;
  std::uint32_t deadline_ms = 0;  // 0: the server's default
  // Names the request in the servers' logs: at most 128 letters, digits and "._:-". Empty: random.
  std::string id = {};
  bool no_store = false;  // nothing that is computed for it goes to a cache on disk
};

struct Token {
  std::string bytes;  // may be an incomplete UTF-8 sequence
  float logprob = 0.0F;
  std::vector<std::pair<std::string, float>> top;
};

struct Delta {
  std::uint32_t choice = 0;
  std::string text;               // valid UTF-8
  std::vector<std::int32_t> ids;  // of the tokens whose text is out with this piece
  std::vector<Token> tokens;      // the same ones, where their log-probabilities were asked for
  bool is_prompt = false;
};

struct Usage {
  std::uint32_t prompt_tokens = 0;
  std::uint32_t cached_tokens = 0;
  std::uint32_t completion_tokens = 0;
};

struct Generation {
  struct Choice {
    std::string text;
    std::string finish_reason;  // stop, length or cancelled
  };
  std::vector<Choice> choices;
  Usage usage;
};

struct EmbedOptions {
  bool no_store = false;  // as in GenerateRequest
};
struct Embeddings {
  std::vector<std::vector<float>> vectors;  // one for each input, of length 1
  std::uint32_t prompt_tokens = 0;
  std::uint32_t cached_tokens = 0;  // of them, those of inputs that were not computed
};

struct Model {
  std::string name;
  std::string version;
  std::string kind;  // causal or embedding
  std::string architecture;
  std::string quantization;
  std::uint32_t context_tokens = 0;
  std::uint32_t hidden = 0;
  std::uint64_t parameters = 0;
  std::uint32_t vocabulary_tokens = 0;  // token ids are below it; 0: the server does not say
};

// What one model's engine on one node is doing; the totals are since its start.
struct EngineStatus {
  std::string model;
  std::uint32_t waiting = 0, running = 0, paused = 0;
  std::uint32_t kv_blocks_total = 0, kv_blocks_used = 0, kv_blocks_cached = 0;
  std::uint64_t steps_total = 0, prompt_tokens_total = 0, cached_prompt_tokens_total = 0;
  std::uint64_t generated_tokens_total = 0, preemptions_total = 0;
  std::uint64_t finished_total = 0, refused_total = 0, cancelled_total = 0;
  double step_seconds_total = 0;
};
struct NodeStatus {
  std::string name;
  std::string state;
  std::vector<EngineStatus> engines;
};
struct Status {
  std::string version;
  double uptime_seconds = 0;
  std::string pressure;  // green, yellow, orange or red
  std::vector<NodeStatus> nodes;
};

struct MemoryRow {
  std::string component, model, tenant, kind;
  std::string endpoint;  // empty: no one's, or all of them
  std::int64_t bytes = 0, peak_bytes = 0;
  std::int64_t resident_bytes = 0;  // what of it is in memory
};
// Share of the time, in percent, in which some or all tasks waited for memory.
struct Stalls {
  double some_avg10 = 0, some_avg60 = 0, full_avg10 = 0, full_avg60 = 0;
};
// Of anonymous memory.
struct MemoryPhases {
  double observed_seconds = 0;
  std::uint64_t cold_start_peak_bytes = 0;
  std::optional<std::int64_t> steady_bytes;  // absent: too early to say
  std::optional<std::int64_t> burst_bytes;   // over the steady state
  std::optional<double> growth_bytes_per_second;
};
struct Memory {
  std::vector<MemoryRow> rows;
  std::uint64_t rss_bytes = 0, pss_bytes = 0, anonymous_bytes = 0, file_bytes = 0;
  std::uint64_t swap_bytes = 0;
  std::int64_t ledger_anonymous_bytes = 0, ledger_touched_bytes = 0, ledger_mapped_bytes = 0;
  std::int64_t unattributed_bytes = 0;
  std::optional<std::int64_t> cgroup_limit_bytes, cgroup_current_bytes, oom_kills;
  int cgroup_version = 0;  // 1 or 2; 0: there is none
  std::optional<std::int64_t> cgroup_high_bytes, limit_hits, high_hits, ooms;
  std::optional<bool> under_oom;
  std::optional<std::int64_t> allocator_allocated_bytes, allocator_active_bytes;
  std::optional<std::int64_t> allocator_resident_bytes, allocator_metadata_bytes;
  std::optional<double> pressure_some_avg10;  // percent, of the group or else of the host
  std::optional<Stalls> group_pressure, host_pressure;
  std::optional<MemoryPhases> phases;
};
struct NodeMemory {
  std::string node;
  double age_seconds = 0;  // since it said so
  Memory memory;
};

class Session;

class Client {
 public:
  explicit Client(Options options = {});  // connects; throws Error if no address answers
  ~Client();
  Client(Client&&) noexcept;
  Client& operator=(Client&&) noexcept;

  // Called with each piece as it arrives, on a thread of the SDK; the server waits while it runs.
  // Returning false cancels.
  using OnDelta = std::function<bool(const Delta&)>;
  // Returns when the answer is complete or cancelled (by on_delta, or by `stop`).
  Generation generate(const GenerateRequest& request, const OnDelta& on_delta = {},
                      std::stop_token stop = {});
  Embeddings embed(const std::string& model, const std::vector<std::string>& inputs,
                   const EmbedOptions& options = {});
  std::vector<Model> models();

  // These need a key with the operator's rights, as do those of client/operator.h.
  Status status();
  Memory memory();  // of the server's own process
  // Of the server's own process, the first, and of the nodes that report to it.
  std::vector<NodeMemory> node_memory();

 private:
  friend class Operator;
  Session& session();

  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace plimsoll::client
