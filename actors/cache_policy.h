// A tenant's cache policy as the schema's structs have it, in its record and in messages: the same
// four fields in each, of which all ones stand for what is absent.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>

#include "cluster/tenant.h"

namespace plimsoll {

inline constexpr std::uint64_t default_cache_bytes = ~std::uint64_t{0};
inline constexpr std::uint32_t default_cache_ttl = ~std::uint32_t{0};

// All but `no_store`, which not every struct has.
template <class Builder>
void write_cache_policy(const cluster::CachePolicy& in, Builder out) {
  const auto bytes = in.bytes.value_or(default_cache_bytes);
  if constexpr (requires { out.setDiskCacheBytes(bytes); }) {
    out.setDiskCacheBytes(bytes);
  } else {
    out.setBytes(bytes);
  }
  out.setPrefixTtlMs(in.ttl_ms[0].value_or(default_cache_ttl));
  out.setEmbeddingTtlMs(in.ttl_ms[1].value_or(default_cache_ttl));
  out.setTokensTtlMs(in.ttl_ms[2].value_or(default_cache_ttl));
}

template <class Reader>
cluster::CachePolicy read_cache_policy(Reader in) {
  cluster::CachePolicy out;
  std::uint64_t bytes = 0;
  if constexpr (requires { in.getDiskCacheBytes(); }) {
    bytes = in.getDiskCacheBytes();
  } else {
    bytes = in.getBytes();
  }
  if (bytes != default_cache_bytes) out.bytes = bytes;
  const std::uint32_t ttls[] = {in.getPrefixTtlMs(), in.getEmbeddingTtlMs(), in.getTokensTtlMs()};
  for (std::size_t i = 0; i < std::size(ttls); ++i) {
    if (ttls[i] != default_cache_ttl) out.ttl_ms[i] = ttls[i];
  }
  return out;
}

}  // namespace plimsoll
