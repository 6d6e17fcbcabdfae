// Where blocks go that leave the prefix tree, so that they may come back instead of being computed
// again: a place with more room than memory, that need not keep anything. What comes back has the
// bits that went.
//
// A block here is a whole row of a block table: the blocks of all layer groups, one behind the
// other. Those of windowed groups are the last, and may be missing.
//
// Called on the engine's thread: nothing here waits for I/O.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/types.h"

namespace plimsoll {

// A beginning of a text, whose it is, and who may share it.
struct KvPrefix {
  KvPrefix(std::string_view s, const TenantId& id, std::span<const TokenId> t)
      : salt(s), tenant(id), tokens(t) {}
  std::string_view salt;
  const TenantId& tenant;
  std::span<const TokenId> tokens;
};

// Blocks that are there, and may be asked for. To destroy it is to want them no longer.
class KvFetch {
 public:
  virtual ~KvFetch() = default;
  virtual std::uint32_t blocks() const = 0;  // how many, in a row; 1 or more
  virtual double read_seconds() const = 0;   // that it is expected to take
  // Once; `on_done` is called on another thread, never after the destruction of this.
  virtual void start(std::function<void()> on_done) = 0;
  virtual bool done() const = 0;
  // What has come so far, in order, from the first on, each as it was offered, its parts one behind
  // the other. Fewer than blocks() where something was lost meanwhile.
  virtual std::vector<std::string> take() = 0;
};

class KvTier {
 public:
  virtual ~KvTier() = default;
  using Parts = std::span<const std::span<const std::byte>>;
  // Takes a copy of the block, given in parts, that holds the last tokens of `prefix`, which is
  // whole blocks. False: it has no room at present.
  virtual bool offer(const KvPrefix& prefix, Parts block) = 0;
  // Of what was offered for a tenant, or for all, nothing gets any further once it returns.
  virtual void forget(const std::optional<TenantId>& tenant) = 0;
  // The blocks of `prefix`, whole ones only, that are known from the `first` on. Null: none.
  virtual std::unique_ptr<KvFetch> look_up(const KvPrefix& prefix, std::uint32_t first) = 0;
};

}  // namespace plimsoll
