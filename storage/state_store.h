// Where a cluster's durable state lives: small records under keys, with revisions, leases and a
// watch. Embedded in one router's RocksDB, or in etcd for several routers, or in memory.
//
// Keys are paths ("tenants/acme"), values are bytes (schema/records.capnp). Every write has a
// revision that only grows; compare-and-swap is on the revision of the key's last write.
// Thread-safe. Calls block (for etcd, at most the time-out given): never call them from an actor
// that others wait for.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/base/result.h"

namespace plimsoll::storage {

struct StateEntry {
  std::string key;
  std::string value;
  std::uint64_t revision = 0;  // of its last write
};
struct StateChange {
  StateEntry entry;
  bool removed = false;  // then `value` is empty
};
using LeaseId = std::uint64_t;  // 0: none

class StateStore {
 public:
  virtual ~StateStore() = default;

  virtual Result<std::optional<StateEntry>> get(const std::string& key) = 0;
  // All under a prefix, by key.
  virtual Result<std::vector<StateEntry>> list(const std::string& prefix) = 0;
  // `expected`: the revision that the key must have (0: it must not exist); absent: whatever is
  // there. A key with a lease goes when the lease ends. Returns the new revision.
  // Errors: failed_precondition with reason "conflict" if `expected` is not met; unavailable (a
  // write that was on its way may have been applied); not_found (lease); invalid_argument (key);
  // resource_exhausted (a value over 1 MiB).
  virtual Result<std::uint64_t> put(const std::string& key, const std::string& value,
                                    std::optional<std::uint64_t> expected = {},
                                    LeaseId lease = 0) = 0;
  // Without `expected`, a key that is not there is as good as removed.
  virtual Result<void> remove(const std::string& key,
                              std::optional<std::uint64_t> expected = {}) = 0;

  // etcd counts in whole seconds: `ttl` is rounded up. A store that was opened again gives its
  // leases their whole time anew.
  virtual Result<LeaseId> grant(std::chrono::milliseconds ttl) = 0;
  virtual Result<void> keep_alive(LeaseId lease) = 0;  // not_found: it has ended
  virtual Result<void> revoke(LeaseId lease) = 0;

  // Calls back, on a thread of the store, first with all that is there now and then with each
  // change, in order and without gaps (after a lost connection: what changed meanwhile). Ends with
  // the destruction of the result, which waits for a running callback; before the store's own.
  class Watch {
   public:
    virtual ~Watch() = default;
  };
  using WatchCallback = std::function<void(const std::vector<StateChange>&)>;
  virtual std::unique_ptr<Watch> watch(const std::string& prefix, WatchCallback callback) = 0;
};

std::unique_ptr<StateStore> make_memory_store();

// One process at a time opens a directory. Errors: unavailable (in use), unsupported ("... is of
// version 3; this build reads 1 to 2"), malformed, internal.
Result<std::unique_ptr<StateStore>> open_embedded_store(const std::filesystem::path& directory);

struct EtcdOptions {
  std::vector<std::string> endpoints;               // "http://HOST:PORT" or https; tried in turn
  std::filesystem::path ca_file, certificate, key;  // for https
  std::string prefix = "/plimsoll/";                // of every key
  std::chrono::milliseconds timeout{2000};
};
Result<std::unique_ptr<StateStore>> open_etcd_store(const EtcdOptions& options);

}  // namespace plimsoll::storage
