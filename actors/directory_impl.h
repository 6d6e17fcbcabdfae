// The inside of the directory, for its parts: tenants and models (directory.cc), nodes
// and join tokens (directory_nodes.cc), what routers keep of themselves (directory_routers.cc).
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "actors/directory.h"
#include "actors/directory_view.h"
#include "actors/records.h"
#include "storage/state_store.h"

namespace plimsoll {

inline bool is_conflict(const Error& error) { return error.reason == "conflict"; }
Error contended(const std::string& key);

struct Directory::Impl {
  // What is not in the view is read when it is asked for.
  static inline const std::string tokens_prefix = "join_tokens/";
  static inline const std::string routers_prefix = "routers/";
  static inline const std::string usage_prefix = "usage/";
  static inline const std::string leases_prefix = "quota_leases/";

  static constexpr int max_attempts = 64;  // of a change that others' changes get in the way of
  static constexpr std::uint64_t max_token_ttl_s = 30 * 24 * 3600;

  void changed(const std::vector<storage::StateChange>& changes);

  // ---- the store
  Result<void> put_new(const std::string& key, const std::string& value, const Error& exists);
  // Changes what is there, or makes it, by compare-and-swap: `change` is called again after a
  // conflict. Writes nothing where nothing changed.
  template <class Record>
  Result<Record> update(const std::string& key, Result<Record> (*decode)(std::string_view),
                        const std::function<Result<void>(std::optional<Record>&)>& change);
  // The same with what must be there.
  template <class Record>
  Result<Record> change(const std::string& key, Result<Record> (*decode)(std::string_view),
                        const Error& missing, const std::function<Result<void>(Record&)>& change);
  Result<void> remove(const std::string& key, const Error& missing);

  std::shared_ptr<storage::StateStore> store;
  std::string router;

  DirectoryView view;

  // ---- what this router keeps of itself
  Result<void> read_own_usage();
  std::mutex save_mutex;  // of who writes usage
  std::mutex usage_mutex;
  std::vector<UsageByTenant> own_usage;  // by bucket, as it is stored

  void give_up_name();  // with announce_mutex held
  std::mutex announce_mutex;
  storage::LeaseId announced_lease = 0;   // 0: this router has no name yet
  std::optional<RouterRecord> announced;  // as it is stored; none: not known to be

  std::mutex callback_mutex;
  std::function<void()> callback;
  std::unique_ptr<storage::StateStore::Watch> watch;  // ends first
};

template <class Record>
Result<Record> Directory::Impl::update(
    const std::string& key, Result<Record> (*decode)(std::string_view),
    const std::function<Result<void>(std::optional<Record>&)>& change) {
  for (int attempt = 0; attempt < max_attempts; ++attempt) {
    const auto entry = store->get(key);
    if (!entry) return fail(entry.error());
    std::optional<Record> record;
    if (*entry) {
      auto read = decode((*entry)->value);
      if (!read) return read;
      record = std::move(*read);
    }
    const auto before = record;
    if (auto done = change(record); !done) return fail(done.error());
    if (auto good = check(*record); !good) return fail(good.error());
    if (record == before) {  // seen at once all the same
      view.put(**entry);
      return *record;
    }
    const auto value = encode(*record);
    const auto revision = store->put(key, value, *entry ? (*entry)->revision : 0);
    if (revision) {
      view.put({key, value, *revision});
      return *record;
    }
    if (!is_conflict(revision.error())) return fail(revision.error());
  }
  return fail(contended(key));
}

template <class Record>
Result<Record> Directory::Impl::change(const std::string& key,
                                       Result<Record> (*decode)(std::string_view),
                                       const Error& missing,
                                       const std::function<Result<void>(Record&)>& change) {
  return update<Record>(key, decode, [&](std::optional<Record>& record) -> Result<void> {
    if (!record) return fail(missing);
    return change(*record);
  });
}

}  // namespace plimsoll
