#include "client/cache.h"

#include <algorithm>
#include <limits>

#include "client/session.h"

namespace plimsoll::client {
namespace {

CacheRow read(schema::CacheRow::Reader in) {
  CacheRow out;
  out.tenant = string_of(in.getTenant());
  out.kind = string_of(in.getKind());
  out.bytes = in.getBytes();
  out.entries = in.getEntries();
  out.quota_bytes = in.getQuotaBytes();
  out.ttl = std::chrono::milliseconds(in.getTtlMs());
  out.hits_total = in.getHitsTotal();
  out.misses_total = in.getMissesTotal();
  out.evicted_total = in.getEvictedTotal();
  out.expired_total = in.getExpiredTotal();
  out.purged_total = in.getPurgedTotal();
  out.damaged_total = in.getDamagedTotal();
  out.refused_total = in.getRefusedTotal();
  out.dropped_total = in.getDroppedTotal();
  return out;
}

}  // namespace

NodeCache read(schema::NodeCacheAnswer::Reader in) {
  NodeCache out;
  out.node = string_of(in.getNode());
  const auto answer = in.getAnswer();
  if (answer.hasError()) out.error = error_of(answer.getError());
  out.purged_entries = answer.getPurgedEntries();
  const auto report = answer.getReport();
  out.bytes = report.getBytes();
  out.limit_bytes = report.getLimitBytes();
  out.buffered_bytes = report.getBufferedBytes();
  out.index_bytes = report.getIndexBytes();
  out.table_bytes = report.getTableBytes();
  out.trouble = string_of(report.getTrouble());
  for (const auto row : report.getRows()) out.rows.push_back(read(row));
  return out;
}

void write(const CachePurge& in, schema::CachePurge::Builder out) {
  out.setTenant(text_of(in.tenant));
  out.setAllTenants(in.all_tenants);
  out.setKind(text_of(in.kind));
  out.setOlderThanMs(static_cast<std::uint64_t>(std::max<std::int64_t>(in.older_than.count(), 0)));
}

void write(const std::string& kind, const std::optional<std::chrono::milliseconds>& ttl,
           schema::CacheTtl::Builder out) {
  out.setKind(text_of(kind));
  if (!ttl) return;
  // All ones would say that there is none; what is cut is too long anyhow.
  constexpr std::int64_t most = std::numeric_limits<std::uint32_t>::max() - 1;
  out.setTtlMs(static_cast<std::uint32_t>(std::clamp<std::int64_t>(ttl->count(), 0, most)));
}

}  // namespace plimsoll::client
