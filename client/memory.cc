#include "client/memory.h"

#include "client/session.h"

namespace plimsoll::client {
namespace {

// -1 says that a figure is not known.
template <class T>
std::optional<T> known(T value) {
  if (value < 0) return std::nullopt;
  return value;
}

Stalls read(schema::Stalls::Reader in) {
  return {in.getSomeAvg10(), in.getSomeAvg60(), in.getFullAvg10(), in.getFullAvg60()};
}

MemoryPhases read(schema::MemoryPhases::Reader in) {
  MemoryPhases out;
  out.observed_seconds = in.getObservedSeconds();
  out.cold_start_peak_bytes = in.getColdStartPeakBytes();
  out.steady_bytes = known(in.getSteadyBytes());
  out.burst_bytes = known(in.getBurstBytes());
  if (in.getHasGrowth()) out.growth_bytes_per_second = in.getGrowthBytesPerSecond();
  return out;
}

}  // namespace

Memory read(schema::MemoryReport::Reader in) {
  Memory out;
  for (const auto row : in.getRows()) {
    out.rows.push_back({string_of(row.getComponent()), string_of(row.getModel()),
                        string_of(row.getTenant()), string_of(row.getKind()),
                        string_of(row.getEndpoint()), row.getBytes(), row.getPeakBytes(),
                        row.getResidentBytes()});
  }
  out.rss_bytes = in.getRssBytes();
  out.pss_bytes = in.getPssBytes();
  out.anonymous_bytes = in.getAnonymousBytes();
  out.file_bytes = in.getFileBytes();
  out.swap_bytes = in.getSwapBytes();
  out.ledger_anonymous_bytes = in.getLedgerAnonymousBytes();
  out.ledger_touched_bytes = in.getLedgerTouchedBytes();
  out.ledger_mapped_bytes = in.getLedgerMappedBytes();
  out.unattributed_bytes = in.getUnattributedBytes();
  out.cgroup_version = in.getCgroupVersion();
  out.cgroup_limit_bytes = known(in.getCgroupLimitBytes());
  out.cgroup_current_bytes = known(in.getCgroupCurrentBytes());
  out.cgroup_high_bytes = known(in.getCgroupHighBytes());
  out.oom_kills = known(in.getOomKills());
  out.limit_hits = known(in.getLimitHits());
  out.high_hits = known(in.getHighHits());
  out.ooms = known(in.getOoms());
  if (in.getUnderOom() >= 0) out.under_oom = in.getUnderOom() != 0;
  out.allocator_allocated_bytes = known(in.getAllocatorAllocatedBytes());
  out.allocator_active_bytes = known(in.getAllocatorActiveBytes());
  out.allocator_resident_bytes = known(in.getAllocatorResidentBytes());
  out.allocator_metadata_bytes = known(in.getAllocatorMetadataBytes());
  out.pressure_some_avg10 = known(in.getPressureSomeAvg10());
  if (in.hasGroupPressure()) out.group_pressure = read(in.getGroupPressure());
  if (in.hasHostPressure()) out.host_pressure = read(in.getHostPressure());
  if (in.hasPhases()) out.phases = read(in.getPhases());
  return out;
}

}  // namespace plimsoll::client
