// The state of a cluster with several routers, in etcd.
#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

#include "storage/etcd_client.h"
#include "storage/limits.h"
#include "storage/watch_feed.h"

namespace plimsoll::storage {
namespace {

using std::chrono::milliseconds;
using Json = EtcdClient::Json;

constexpr milliseconds least_pause{50};
constexpr milliseconds longest_pause{2000};

// The end of a range that holds every key with this prefix.
std::string end_of(std::string prefix) {
  while (!prefix.empty() && prefix.back() == '\xff') prefix.pop_back();
  if (prefix.empty()) return std::string(1, '\0');  // to the end of all keys
  prefix.back() = static_cast<char>(static_cast<unsigned char>(prefix.back()) + 1);
  return prefix;
}

// Keys as the caller knows them, and etcd with their prefix.
class Space {
 public:
  Space(EtcdClient& client, std::string prefix) : client_(client), prefix_(std::move(prefix)) {}

  EtcdClient& client() const { return client_; }
  std::string full(const std::string& key) const { return base64(prefix_ + key); }
  Json range(const std::string& prefix) const {
    return {{"key", full(prefix)}, {"range_end", base64(end_of(prefix_ + prefix))}};
  }
  // `kv` is a mvccpb.KeyValue.
  StateEntry entry(const Json& kv) const {
    auto key = bytes_in(kv, "key");
    key.erase(0, prefix_.size());
    return {std::move(key), bytes_in(kv, "value"), number_in(kv, "mod_revision")};
  }
  // All under a prefix, and the revision at which they were so.
  Result<std::pair<std::vector<StateEntry>, std::uint64_t>> list(const std::string& prefix) const {
    const auto answer = client_.call("kv/range", range(prefix), true);
    if (!answer) return tl::unexpected(answer.error());
    std::vector<StateEntry> entries;
    for (const auto& kv : child_in(*answer, "kvs")) entries.push_back(entry(kv));
    return std::pair(std::move(entries), number_in(child_in(*answer, "header"), "revision"));
  }

 private:
  EtcdClient& client_;
  const std::string prefix_;
};

// Lists, then follows the changes; after a lost connection from where it was, and where etcd has
// compacted that away, from a new list.
class EtcdWatch final : public StateStore::Watch {
 public:
  EtcdWatch(const Space& space, std::string prefix, StateStore::WatchCallback callback)
      : space_(space),
        prefix_(std::move(prefix)),
        feed_(std::move(callback)),
        thread_([this](const std::stop_token& stop) { run(stop); }) {}

 private:
  void run(const std::stop_token& stop) {
    auto pause = least_pause;
    while (!stop.stop_requested()) {
      heard_ = false;
      if (must_list_) list();
      if (!must_list_) follow(stop);
      pause = heard_ ? least_pause : std::min(pause * 2, longest_pause);
      std::unique_lock lock(mutex_);
      sleep_.wait_for(lock, stop, pause, [] { return false; });
    }
  }

  void list() {
    const auto listed = space_.list(prefix_);
    if (!listed) return;
    must_list_ = false;
    feed_.listed(listed->first, listed->second);
  }

  void follow(const std::stop_token& stop) {
    auto request = space_.range(prefix_);
    request["start_revision"] = std::to_string(feed_.revision() + 1);
    const Json body{{"create_request", std::move(request)}};
    space_.client().stream("watch", body, stop,
                           [&](const Json& message) { return told(child_in(message, "result")); });
  }

  bool told(const Json& result) {
    if (!result.is_object() || child_in(result, "canceled") == true) {
      must_list_ = number_in(result, "compact_revision") != 0;
      return false;
    }
    if (child_in(result, "created") == true &&
        number_in(child_in(result, "header"), "revision") < feed_.revision()) {
      must_list_ = true;  // restored from a backup: its revisions begin again before ours
      return false;
    }
    heard_ = true;
    std::vector<StateChange> changes;
    for (const auto& event : child_in(result, "events")) {
      changes.push_back({space_.entry(child_in(event, "kv")), text_in(event, "type") == "DELETE"});
    }
    if (!changes.empty()) feed_.changed(std::move(changes));
    return true;
  }

  const Space& space_;
  const std::string prefix_;
  WatchFeed feed_;
  bool must_list_ = true;
  bool heard_ = false;
  std::mutex mutex_;
  std::condition_variable_any sleep_;
  std::jthread thread_;
};

class EtcdStore final : public StateStore {
 public:
  EtcdStore(std::unique_ptr<EtcdClient> client, const std::string& prefix)
      : client_(std::move(client)), space_(*client_, prefix) {}

  Result<std::optional<StateEntry>> get(const std::string& key) override {
    const auto answer = client_->call("kv/range", {{"key", space_.full(key)}}, true);
    if (!answer) return tl::unexpected(answer.error());
    const auto& kvs = child_in(*answer, "kvs");
    if (!kvs.is_array() || kvs.empty()) return std::nullopt;
    return space_.entry(kvs[0]);
  }

  Result<std::vector<StateEntry>> list(const std::string& prefix) override {
    auto listed = space_.list(prefix);
    if (!listed) return tl::unexpected(listed.error());
    return std::move(listed->first);
  }

  Result<std::uint64_t> put(const std::string& key, const std::string& value,
                            std::optional<std::uint64_t> expected, LeaseId lease) override {
    if (auto good = check_record(key, value); !good) return tl::unexpected(good.error());
    const Json request{
        {"key", space_.full(key)}, {"value", base64(value)}, {"lease", std::to_string(lease)}};
    return change(key, "put", request, expected);
  }

  Result<void> remove(const std::string& key, std::optional<std::uint64_t> expected) override {
    const auto done = change(key, "deleterange", {{"key", space_.full(key)}}, expected);
    if (!done) return tl::unexpected(done.error());
    return {};
  }

  Result<LeaseId> grant(milliseconds ttl) override {
    if (ttl <= milliseconds::zero() || ttl > std::chrono::years(1)) {
      return fail(ErrorCode::invalid_argument, "a lease lasts at least 1 ms and at most a year");
    }
    const auto seconds = std::chrono::ceil<std::chrono::seconds>(ttl).count();
    const auto answer = client_->call("lease/grant", {{"TTL", std::to_string(seconds)}}, false);
    if (!answer) return tl::unexpected(answer.error());
    return number_in(*answer, "ID");
  }

  Result<void> keep_alive(LeaseId lease) override {
    const auto answer = client_->call("lease/keepalive", {{"ID", std::to_string(lease)}}, true);
    if (!answer) return tl::unexpected(answer.error());
    if (number_in(child_in(*answer, "result"), "TTL") > 0) return {};
    return fail(ErrorCode::not_found, "the lease has ended; grant a new one");
  }

  Result<void> revoke(LeaseId lease) override {
    const auto answer = client_->call("lease/revoke", {{"ID", std::to_string(lease)}}, false);
    if (!answer) return tl::unexpected(answer.error());
    return {};
  }

  std::unique_ptr<Watch> watch(const std::string& prefix, WatchCallback callback) override {
    return std::make_unique<EtcdWatch>(space_, prefix, std::move(callback));
  }

 private:
  // Returns the revision.
  Result<std::uint64_t> change(const std::string& key, const std::string& kind, const Json& request,
                               std::optional<std::uint64_t> expected) {
    auto answer = [&] {
      if (!expected) return client_->call("kv/" + kind, request, false);
      const Json compare{{"key", space_.full(key)},
                         {"target", "MOD"},
                         {"result", "EQUAL"},
                         {"mod_revision", std::to_string(*expected)}};
      const auto* field = kind == "put" ? "request_put" : "request_delete_range";
      const Json transaction{{"compare", Json::array({compare})},
                             {"success", Json::array({Json{{field, request}}})}};
      return client_->call("kv/txn", transaction, false);
    }();
    if (!answer) return tl::unexpected(answer.error());
    if (expected && child_in(*answer, "succeeded") != true) return fail(conflict(key));
    return number_in(child_in(*answer, "header"), "revision");
  }

  std::unique_ptr<EtcdClient> client_;
  Space space_;
};

}  // namespace

Result<std::unique_ptr<StateStore>> open_etcd_store(const EtcdOptions& options) {
  auto client = EtcdClient::make(options);
  if (!client) return tl::unexpected(client.error());
  auto store = std::make_unique<EtcdStore>(std::move(*client), options.prefix);
  // Better now than with the first request: a wrong address, a certificate that is not accepted.
  if (auto reached = store->get("reached"); !reached) return tl::unexpected(reached.error());
  return store;
}

}  // namespace plimsoll::storage
