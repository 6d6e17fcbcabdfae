#include "actors/memory_messages.h"

#include "actors/gateway/rpc_text.h"

namespace plimsoll {
namespace {

// What is not known is -1.
std::int64_t known(const std::optional<std::uint64_t>& value) {
  return value ? static_cast<std::int64_t>(*value) : -1;
}
std::optional<std::uint64_t> known(std::int64_t value) {
  if (value < 0) return std::nullopt;
  return static_cast<std::uint64_t>(value);
}

void write(const MemoryPressure& in, schema::Stalls::Builder out) {
  out.setSomeAvg10(in.some_avg10);
  out.setSomeAvg60(in.some_avg60);
  out.setFullAvg10(in.full_avg10);
  out.setFullAvg60(in.full_avg60);
  out.setSomeTotalUs(in.some_total_us);
  out.setFullTotalUs(in.full_total_us);
}
MemoryPressure read(schema::Stalls::Reader in) {
  MemoryPressure out;
  out.some_avg10 = in.getSomeAvg10();
  out.some_avg60 = in.getSomeAvg60();
  out.full_avg10 = in.getFullAvg10();
  out.full_avg60 = in.getFullAvg60();
  out.some_total_us = in.getSomeTotalUs();
  out.full_total_us = in.getFullTotalUs();
  return out;
}

void write(const CgroupMemory& in, schema::MemoryReport::Builder out) {
  out.setCgroupVersion(in.version == CgroupVersion::v2 ? 2 : 1);
  out.setCgroupCurrentBytes(static_cast<std::int64_t>(in.current_bytes));
  out.setCgroupLimitBytes(known(in.limit_bytes));
  out.setCgroupHighBytes(known(in.high_bytes));
  out.setOomKills(known(in.oom_kills));
  out.setLimitHits(known(in.limit_hits));
  out.setHighHits(known(in.high_hits));
  out.setOoms(known(in.ooms));
  if (in.under_oom) out.setUnderOom(*in.under_oom ? 1 : 0);
}
CgroupMemory read_cgroup(schema::MemoryReport::Reader in) {
  CgroupMemory out;
  out.version = in.getCgroupVersion() == 1 ? CgroupVersion::v1 : CgroupVersion::v2;
  out.current_bytes = static_cast<std::uint64_t>(in.getCgroupCurrentBytes());
  out.limit_bytes = known(in.getCgroupLimitBytes());
  out.high_bytes = known(in.getCgroupHighBytes());
  out.oom_kills = known(in.getOomKills());
  out.limit_hits = known(in.getLimitHits());
  out.high_hits = known(in.getHighHits());
  out.ooms = known(in.getOoms());
  if (in.getUnderOom() >= 0) out.under_oom = in.getUnderOom() != 0;
  return out;
}

void write(const MemoryPhases& in, schema::MemoryPhases::Builder out) {
  out.setObservedSeconds(in.observed_s);
  out.setColdStartPeakBytes(in.cold_start_peak_bytes);
  out.setSteadyBytes(known(in.steady_bytes));
  out.setBurstBytes(known(in.burst_bytes));
  out.setHasGrowth(in.growth_bytes_per_second.has_value());
  out.setGrowthBytesPerSecond(in.growth_bytes_per_second.value_or(0));
}
MemoryPhases read(schema::MemoryPhases::Reader in) {
  MemoryPhases out;
  out.observed_s = in.getObservedSeconds();
  out.cold_start_peak_bytes = in.getColdStartPeakBytes();
  out.steady_bytes = known(in.getSteadyBytes());
  out.burst_bytes = known(in.getBurstBytes());
  if (in.getHasGrowth()) out.growth_bytes_per_second = in.getGrowthBytesPerSecond();
  return out;
}

Endpoint endpoint_named(std::string_view name) {
  for (std::size_t i = 0; i < endpoint_count; ++i) {
    if (to_string(static_cast<Endpoint>(i)) == name) return static_cast<Endpoint>(i);
  }
  return Endpoint::none;
}

}  // namespace

void write(const MemoryReport& report, schema::MemoryReport::Builder out) {
  auto rows = out.initRows(report.rows.size());
  for (unsigned i = 0; i < report.rows.size(); ++i) {
    const auto& row = report.rows[i];
    rows[i].setComponent(text_of(to_string(row.component)));
    rows[i].setModel(text_of(row.model));
    rows[i].setTenant(text_of(row.tenant));
    rows[i].setKind(text_of(to_string(row.kind)));
    rows[i].setBytes(row.bytes);
    rows[i].setPeakBytes(row.peak_bytes);
    rows[i].setResidentBytes(row.resident_bytes);
    rows[i].setEndpoint(text_of(to_string(row.endpoint)));
  }
  out.setRssBytes(report.process.rss_bytes);
  out.setPssBytes(report.process.pss_bytes);
  out.setAnonymousBytes(report.process.anonymous_bytes);
  out.setFileBytes(report.process.file_bytes);
  out.setSwapBytes(report.process.swap_bytes);
  out.setLedgerAnonymousBytes(report.ledger_anonymous_bytes);
  out.setLedgerTouchedBytes(report.ledger_touched_bytes);
  out.setLedgerMappedBytes(report.ledger_mapped_bytes);
  out.setUnattributedBytes(report.unattributed_bytes);
  if (report.cgroup) write(*report.cgroup, out);
  if (report.pressure) {
    out.setPressureSomeAvg10(report.pressure->some_avg10);
    if (report.pressure->cgroup_scoped) write(*report.pressure, out.initGroupPressure());
  }
  if (report.host_pressure) write(*report.host_pressure, out.initHostPressure());
  if (report.allocator) {
    out.setAllocatorAllocatedBytes(static_cast<std::int64_t>(report.allocator->allocated_bytes));
    out.setAllocatorActiveBytes(static_cast<std::int64_t>(report.allocator->active_bytes));
    out.setAllocatorResidentBytes(static_cast<std::int64_t>(report.allocator->resident_bytes));
    out.setAllocatorMetadataBytes(static_cast<std::int64_t>(report.allocator->metadata_bytes));
  }
  if (report.phases) write(*report.phases, out.initPhases());
}

MemoryReport read(schema::MemoryReport::Reader in) {
  MemoryReport out;
  for (const auto row : in.getRows()) {
    out.rows.push_back({component_of(string_of(row.getComponent())), string_of(row.getModel()),
                        string_of(row.getTenant()), kind_of(string_of(row.getKind())),
                        row.getBytes(), row.getPeakBytes(), row.getResidentBytes(),
                        endpoint_named(string_of(row.getEndpoint()))});
  }
  out.process.rss_bytes = in.getRssBytes();
  out.process.pss_bytes = in.getPssBytes();
  out.process.anonymous_bytes = in.getAnonymousBytes();
  out.process.file_bytes = in.getFileBytes();
  out.process.swap_bytes = in.getSwapBytes();
  out.ledger_anonymous_bytes = in.getLedgerAnonymousBytes();
  out.ledger_touched_bytes = in.getLedgerTouchedBytes();
  out.ledger_mapped_bytes = in.getLedgerMappedBytes();
  out.unattributed_bytes = in.getUnattributedBytes();
  if (in.getCgroupCurrentBytes() >= 0) out.cgroup = read_cgroup(in);
  if (in.hasHostPressure()) out.pressure = out.host_pressure = read(in.getHostPressure());
  if (in.hasGroupPressure()) {
    out.pressure = read(in.getGroupPressure());
    out.pressure->cgroup_scoped = true;
  }
  if (in.getAllocatorAllocatedBytes() >= 0) {
    out.allocator = {known(in.getAllocatorAllocatedBytes()).value_or(0),
                     known(in.getAllocatorActiveBytes()).value_or(0),
                     known(in.getAllocatorResidentBytes()).value_or(0),
                     known(in.getAllocatorMetadataBytes()).value_or(0)};
  }
  if (in.hasPhases()) out.phases = read(in.getPhases());
  return out;
}

}  // namespace plimsoll
