// Strong types for what gets mixed up, and the few aliases every folder shares.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>

namespace plimsoll {

using TokenId = std::int32_t;  // an index into a model's vocabulary; -1 is "none"
inline constexpr TokenId no_token = -1;

// A distinct type around one value: comparable, hashable, explicit both ways.
template <class Tag, class Value>
class Strong {
 public:
  constexpr Strong() = default;
  constexpr explicit Strong(Value v) : value_(std::move(v)) {}
  constexpr const Value& get() const { return value_; }
  friend constexpr auto operator<=>(const Strong&, const Strong&) = default;

 private:
  Value value_{};
};

using BlockId = Strong<struct BlockIdTag, std::uint32_t>;      // a KV block of one pool
using RequestId = Strong<struct RequestIdTag, std::uint64_t>;  // unique within a cluster
using TenantId = Strong<struct TenantIdTag, std::string>;      // the tenant's stable name
using NodeId = Strong<struct NodeIdTag, std::string>;          // the node's stable name

// The part of the API that a request came by.
enum class Endpoint : std::uint8_t {
  none,  // no one's, or all of them
  chat_completions,
  completions,
  embeddings,
};
inline constexpr std::size_t endpoint_count = 4;
constexpr std::string_view to_string(Endpoint endpoint) {  // empty: none
  constexpr std::string_view names[] = {"", "chat_completions", "completions", "embeddings"};
  return names[static_cast<std::size_t>(endpoint)];
}

// What belongs to every tenant is charged to this one.
inline const TenantId shared_tenant{"shared"};

inline constexpr std::uint64_t operator""_KiB(unsigned long long n) { return n << 10; }
inline constexpr std::uint64_t operator""_MiB(unsigned long long n) { return n << 20; }
inline constexpr std::uint64_t operator""_GiB(unsigned long long n) { return n << 30; }

}  // namespace plimsoll

template <class Tag, class Value>
struct std::hash<plimsoll::Strong<Tag, Value>> {
  std::size_t operator()(const plimsoll::Strong<Tag, Value>& s) const noexcept {
    return std::hash<Value>{}(s.get());
  }
};
