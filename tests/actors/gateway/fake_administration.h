// An Administration without a cluster: remembers what it was asked, answers with fixed figures, and
// blocks or fails when told to. For tests of what sits in front of one.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "actors/administration.h"

namespace plimsoll {

class FakeAdministration final : public Administration {
 public:
  // What was asked, in order: "drain node-a 5000".
  std::vector<std::string> asked() const {
    const std::lock_guard lock(mutex_);
    return asked_;
  }
  std::vector<cluster::Tenant> created;  // read when no call runs
  std::vector<cluster::Quota> quotas;
  std::vector<cluster::Tier> tiers;

  // Every call fails with it, but cluster(), which cannot.
  void fail_with(std::optional<Error> error) {
    const std::lock_guard lock(mutex_);
    error_ = std::move(error);
  }
  void throw_next() { throws_ = true; }
  // Calls whose text begins with `what` wait until release().
  void hold(std::string what) {
    const std::lock_guard lock(mutex_);
    held_ = std::move(what);
  }
  void release() {
    const std::lock_guard lock(mutex_);
    held_.clear();
    changed_.notify_all();
  }
  void wait_for(const std::string& call) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return std::ranges::find(asked_, call) != asked_.end(); });
  }

  ClusterView cluster() override {
    const auto good = note("cluster");
    NodeView a{
        "node-a",   "ready",    "10.0.0.1:7001",       "0.2.0",          7, 1.5, 1, 0.25, 12, 340.5,
        3ULL << 30, 8ULL << 30, PressureLevel::yellow, {"llama", "bert"}};
    NodeView b{"node-b",   "lost",     "10.0.0.2:7001",      "0.1.9", 3, 1, 0.5, 61, 0, 0,
               1ULL << 30, 4ULL << 30, PressureLevel::green, {}};
    return {"0.2.0",
            "etcd",
            41,
            93784,
            {{"router-a", "10.0.0.9:8081", true, 12, 340.5},
             {"router-b", "10.0.0.8:8081", false, 3, 9}},
            {a, b}};
  }
  Result<void> cordon(const std::string& node, bool on) override {
    return note((on ? "cordon " : "uncordon ") + node);
  }
  Result<Drained> drain(const std::string& node, std::chrono::milliseconds deadline) override {
    return answer(note("drain " + node + " " + std::to_string(deadline.count())), Drained{9, 4, 1});
  }
  Result<void> remove(const std::string& node, bool force) override {
    return note("remove " + node + (force ? " force" : ""));
  }
  Result<std::vector<Move>> rebalance(bool dry_run) override {
    return answer(note(dry_run ? "rebalance dry" : "rebalance"),
                  std::vector<Move>{{"acme", "node-a", "node-b", 6}});
  }

  Result<std::string> create_join_token(std::chrono::seconds ttl) override {
    return answer(note("create_join_token " + std::to_string(ttl.count())),
                  std::string("plj-0123456789"));
  }
  Result<std::vector<JoinTokenView>> join_tokens() override {
    return answer(note("join_tokens"),
                  std::vector<JoinTokenView>{{"plj-01", 1'800'000'000}, {"plj-99", 1'800'003'600}});
  }
  Result<void> revoke_join_token(const std::string& id) override {
    return note("revoke_join_token " + id);
  }

  Result<std::vector<TenantView>> tenants() override {
    TenantView other;
    other.tenant.name = "ops";
    other.tenant.tier = cluster::Tier::best_effort;
    other.tenant.suspended = true;
    other.tenant.is_operator = true;
    return answer(note("tenants"), std::vector<TenantView>{acme(), other});
  }
  Result<TenantView> tenant(const std::string& name) override {
    return answer(note("tenant " + name), acme());
  }
  Result<std::string> create_tenant(const cluster::Tenant& tenant) override {
    created.push_back(tenant);
    return answer(note("create_tenant " + tenant.name), std::string("pl-first"));
  }
  Result<void> set_quota(const std::string& tenant, const cluster::Quota& quota) override {
    quotas.push_back(quota);
    return note("set_quota " + tenant);
  }
  Result<void> set_tier(const std::string& tenant, cluster::Tier tier) override {
    tiers.push_back(tier);
    return note("set_tier " + tenant);
  }
  Result<void> set_no_store(const std::string& tenant, bool on) override {
    return note("set_no_store " + tenant + (on ? "" : " off"));
  }
  Result<void> suspend(const std::string& tenant, bool on) override {
    return note((on ? "suspend " : "resume ") + tenant);
  }
  Result<std::string> rotate_key(const std::string& tenant, std::chrono::seconds grace) override {
    return answer(note("rotate_key " + tenant + " " + std::to_string(grace.count())),
                  std::string("pl-second"));
  }
  Result<std::map<std::string, cluster::Usage>> usage() override {
    cluster::Usage acme;
    acme.requests = 1000;
    acme.prompt_tokens = 20'000'000'000;
    acme.cached_tokens = 5'000;
    acme.generated_tokens = 70'000;
    acme.kv_byte_seconds = 1.5e12;
    acme.cache_byte_seconds = 3e12;
    acme.weights_byte_seconds = 6e12;
    acme.rejections = {{"tenant_rate", 3}, {"tenant_sequences", 14}};
    cluster::Usage idle;
    idle.weights_byte_seconds = 9e12;
    return answer(note("usage"), std::map<std::string, cluster::Usage>{
                                     {cluster::idle_tenant, idle}, {"acme", acme}, {"ops", {}}});
  }

  Result<void> set_cache_quota(const std::string& tenant,
                               std::optional<std::uint64_t> bytes) override {
    return note("set_cache_quota " + tenant + " " + (bytes ? std::to_string(*bytes) : "default"));
  }
  Result<void> set_cache_ttl(const std::string& tenant, storage::CacheKind kind,
                             std::optional<std::chrono::milliseconds> ttl) override {
    return note("set_cache_ttl " + tenant + " " + text_of(kind, ttl));
  }
  // Of node-b comes no answer.
  Result<std::vector<NodeCacheAnswer>> ask_caches(const CacheCall& call,
                                                  const std::string& node) override {
    std::vector<NodeCacheAnswer> answers{{"node-a", {}}};
    auto& report = answers[0].answer.report;
    std::string text = "look_at_caches";
    if (const auto* purge = std::get_if<storage::CachePurge>(&call)) {
      text = "purge_caches " + (purge->tenant ? purge->tenant->get() : std::string("all"));
      if (purge->kind) text += " " + std::string(to_string(*purge->kind));
      text += " " + std::to_string(purge->older_than.count());
      answers[0].answer.purged_entries = 12;
    } else if (const auto* order = std::get_if<SetCacheTtl>(&call)) {
      text = "set_default_cache_ttl " + text_of(order->kind, order->ttl);
    } else {
      report = {3ULL << 29, 4ULL << 30, 1 << 20, 2 << 20, 3 << 20, "", {}};
      CacheRow prefixes;
      prefixes.tenant = "acme";
      prefixes.quota_bytes = 1ULL << 30;
      prefixes.ttl = std::chrono::hours(24);
      prefixes.counts.bytes = 3ULL << 28;
      prefixes.counts.entries = 4000;
      prefixes.counts.hits_total = 75;
      prefixes.counts.misses_total = 25;
      prefixes.counts.evicted_total = 1;
      prefixes.counts.expired_total = 2;
      prefixes.counts.purged_total = 3;
      prefixes.counts.damaged_total = 4;
      CacheRow embeddings = prefixes;
      embeddings.kind = storage::CacheKind::embedding;
      embeddings.counts = {};
      embeddings.counts.refused_total = 5;
      embeddings.counts.dropped_total = 6;
      report.rows = {prefixes, embeddings};
    }
    if (node.empty()) {
      answers.push_back({"node-b", {}});
      answers[1].answer.error = Error(ErrorCode::unavailable, "no answer");
    } else {
      text += " at " + node;
    }
    return answer(note(text), answers);
  }

  Result<std::vector<ModelView>> models() override {
    ModelView model{"llama", "llama@12ab", "/models/llama.gguf", {}};
    model.replicas = {{"node-a", "ready", ""}, {"node-b", "failed", "no such file"}};
    return answer(note("models"), std::vector<ModelView>{model});
  }
  Result<void> load_model(const std::string& name, const std::string& source,
                          const std::vector<std::string>& nodes) override {
    return note("load_model " + name + " " + source + joined(nodes));
  }
  Result<void> unload_model(const std::string& name) override {
    return note("unload_model " + name);
  }
  Result<void> place_model(const std::string& name,
                           const std::vector<std::string>& nodes) override {
    return note("place_model " + name + joined(nodes));
  }

  std::vector<cluster::Event> events(const cluster::EventLog::Query& query) override {
    if (!note(text_of(query))) return {};
    cluster::Event level{7, 1'800'000'000.25, "node-a", cluster::EventKind::level};
    level.level = cluster::Level::orange;
    level.cause = "used 91% of 8.0 GiB";
    cluster::Event refusals{8,
                            1'800'000'001.5,
                            "node-a",
                            cluster::EventKind::refuse,
                            cluster::Level::orange,
                            "acme",
                            "llama",
                            "no headroom for 4.0 MiB",
                            4 << 20,
                            12,
                            7ULL << 30,
                            8ULL << 30};
    return {level, refusals};
  }

  static TenantView acme() {
    TenantView view;
    view.tenant.name = "acme";
    view.tenant.tier = cluster::Tier::guaranteed;
    view.tenant.quota = {10,         5000,       800.5, 12,   32,   2ULL << 30, 1ULL << 29,
                         3ULL << 29, 1ULL << 30, 4096,  1024, 6000, 30'000,     {"llama"}};
    view.tenant.cache = {true, 3ULL << 30, {{{}, 3'600'000, {}}}};
    view.tenant.keys = {{"ab12", 1'700'000'000, 0}, {"cd34", 1'600'000'000, 1'700'003'600}};
    view.home = {"node-a", "node-b"};
    view.sequences = 5;
    view.tokens_per_second = 120.25;
    view.memory_bytes = 3ULL << 29;
    return view;
  }

 private:
  static std::string text_of(storage::CacheKind kind,
                             const std::optional<std::chrono::milliseconds>& ttl) {
    return std::string(to_string(kind)) + " " + (ttl ? std::to_string(ttl->count()) : "default");
  }
  static std::string text_of(const cluster::EventLog::Query& query) {
    std::string text =
        "events after " + std::to_string(query.after) + " limit " + std::to_string(query.limit);
    if (!query.node.empty()) text += " node " + query.node;
    if (!query.tenant.empty()) text += " tenant " + query.tenant;
    if (query.kind) text += " kind " + std::string(to_string(*query.kind));
    return text;
  }
  static std::string joined(const std::vector<std::string>& nodes) {
    std::string text;
    for (const auto& node : nodes) text += " " + node;
    return text;
  }
  template <class T>
  static Result<T> answer(const Result<void>& good, T value) {
    if (!good) return fail(good.error());
    return value;
  }
  Result<void> note(const std::string& call) {
    std::unique_lock lock(mutex_);
    asked_.push_back(call);
    changed_.notify_all();
    changed_.wait(lock, [&] { return held_.empty() || !call.starts_with(held_); });
    if (throws_.exchange(false)) throw std::runtime_error("thrown by the fake");
    if (error_) return fail(*error_);
    return {};
  }

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> asked_;
  std::optional<Error> error_;
  std::string held_;
  std::atomic<bool> throws_{false};
};

}  // namespace plimsoll
