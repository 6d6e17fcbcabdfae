#include "actors/cache_messages.h"

#include <algorithm>
#include <string>
#include <utility>

#include "actors/gateway/rpc_text.h"

namespace plimsoll {
namespace {

constexpr std::uint32_t as_configured = ~std::uint32_t{0};

void write(const CacheRow& row, schema::CacheRow::Builder out) {
  const auto& counts = row.counts;
  out.setTenant(text_of(row.tenant));
  out.setKind(text_of(to_string(row.kind)));
  out.setBytes(counts.bytes);
  out.setEntries(counts.entries);
  out.setQuotaBytes(row.quota_bytes);
  out.setTtlMs(static_cast<std::uint32_t>(row.ttl.count()));
  out.setHitsTotal(counts.hits_total);
  out.setMissesTotal(counts.misses_total);
  out.setEvictedTotal(counts.evicted_total);
  out.setExpiredTotal(counts.expired_total);
  out.setPurgedTotal(counts.purged_total);
  out.setDamagedTotal(counts.damaged_total);
  out.setRefusedTotal(counts.refused_total);
  out.setDroppedTotal(counts.dropped_total);
}

CacheRow read(schema::CacheRow::Reader in, storage::CacheKind kind) {
  CacheRow row;
  row.tenant = string_of(in.getTenant());
  row.kind = kind;
  row.quota_bytes = in.getQuotaBytes();
  row.ttl = std::chrono::milliseconds(in.getTtlMs());
  auto& counts = row.counts;
  counts.bytes = in.getBytes();
  counts.entries = in.getEntries();
  counts.hits_total = in.getHitsTotal();
  counts.misses_total = in.getMissesTotal();
  counts.evicted_total = in.getEvictedTotal();
  counts.expired_total = in.getExpiredTotal();
  counts.purged_total = in.getPurgedTotal();
  counts.damaged_total = in.getDamagedTotal();
  counts.refused_total = in.getRefusedTotal();
  counts.dropped_total = in.getDroppedTotal();
  return row;
}

}  // namespace

void write(const storage::CachePurge& what, schema::CachePurge::Builder out) {
  if (what.tenant) out.setTenant(text_of(what.tenant->get()));
  out.setAllTenants(!what.tenant);
  if (what.kind) out.setKind(text_of(to_string(*what.kind)));
  out.setOlderThanMs(static_cast<std::uint64_t>(what.older_than.count()));
}

void write(const SetCacheTtl& order, schema::CacheTtl::Builder out) {
  out.setKind(text_of(to_string(order.kind)));
  if (!order.ttl) return;
  const std::int64_t most = as_configured - 1;  // which is too long anyhow
  out.setTtlMs(static_cast<std::uint32_t>(std::clamp<std::int64_t>(order.ttl->count(), 0, most)));
}

void write(const CacheAnswer& answer, schema::CacheAnswer::Builder out) {
  if (answer.error) write(*answer.error, out.initError());
  out.setPurgedEntries(answer.purged_entries);
  const auto& from = answer.report;
  auto report = out.initReport();
  report.setBytes(from.bytes);
  report.setLimitBytes(from.limit_bytes);
  report.setBufferedBytes(from.buffered_bytes);
  report.setIndexBytes(from.index_bytes);
  report.setTableBytes(from.table_bytes);
  report.setTrouble(text_of(from.trouble));
  auto rows = report.initRows(from.rows.size());
  for (unsigned i = 0; i < rows.size(); ++i) write(from.rows[i], rows[i]);
}

Result<storage::CacheKind> read_cache_kind(capnp::Text::Reader name) {
  const auto kind = storage::cache_kind_of({name.begin(), name.size()});
  if (kind) return *kind;
  return fail(Error(ErrorCode::invalid_argument, "the cache on disk has no kind '" +
                                                     string_of(name) +
                                                     "'; there are prefix, embedding and tokens")
                  .with_param("kind"));
}

Result<storage::CachePurge> read(schema::CachePurge::Reader in) {
  storage::CachePurge out;
  const auto tenant = string_of(in.getTenant());
  if (tenant.empty() != in.getAllTenants()) {
    return fail(Error(ErrorCode::invalid_argument, "purge one tenant, or say that all are meant")
                    .with_param("tenant"));
  }
  if (!tenant.empty()) out.tenant = TenantId(tenant);
  if (in.getKind().size() > 0) {
    const auto kind = read_cache_kind(in.getKind());
    if (!kind) return fail(kind.error());
    out.kind = *kind;
  }
  // Nothing is older than the longest TTL, and no clock is to overflow.
  const auto longest = std::chrono::milliseconds(storage::longest_cache_ttl);
  out.older_than = std::chrono::milliseconds(
      std::min(in.getOlderThanMs(), static_cast<std::uint64_t>(longest.count())));
  return out;
}

Result<SetCacheTtl> read(schema::CacheTtl::Reader in) {
  SetCacheTtl out;
  const auto kind = read_cache_kind(in.getKind());
  if (!kind) return fail(kind.error());
  out.kind = *kind;
  if (in.getTtlMs() != as_configured) out.ttl = std::chrono::milliseconds(in.getTtlMs());
  return out;
}

CacheAnswer read(schema::CacheAnswer::Reader in) {
  CacheAnswer out;
  if (in.hasError()) out.error = read(in.getError());
  out.purged_entries = in.getPurgedEntries();
  const auto from = in.getReport();
  auto& report = out.report;
  report.bytes = from.getBytes();
  report.limit_bytes = from.getLimitBytes();
  report.buffered_bytes = from.getBufferedBytes();
  report.index_bytes = from.getIndexBytes();
  report.table_bytes = from.getTableBytes();
  report.trouble = string_of(from.getTrouble());
  for (const auto row : from.getRows()) {
    const auto kind = storage::cache_kind_of(string_of(row.getKind()));
    if (kind) report.rows.push_back(read(row, *kind));
  }
  return out;
}

}  // namespace plimsoll
