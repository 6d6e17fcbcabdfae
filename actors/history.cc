#include "actors/history.h"

#include <algorithm>
#include <map>

namespace plimsoll {
namespace {

std::uint64_t positive(std::int64_t bytes) {
  return static_cast<std::uint64_t>(std::max<std::int64_t>(bytes, 0));
}

std::uint64_t bytes_of(const HistoryPoint& point) {
  std::uint64_t bytes = sizeof(point);
  for (const auto* tenants : {&point.tenants, &point.disk_tenants}) {
    bytes += tenants->capacity() * sizeof(tenants->front());
    for (const auto& [name, unused] : *tenants) bytes += name.capacity();
  }
  return bytes;
}

// Into `largest`, the largest first; returns what the others come to.
std::uint64_t take_largest(const std::map<std::string, std::uint64_t>& tenants,
                           std::vector<std::pair<std::string, std::uint64_t>>& largest) {
  largest.assign(tenants.begin(), tenants.end());
  std::ranges::sort(largest, [](const auto& a, const auto& b) {
    return a.second != b.second ? a.second > b.second : a.first < b.first;
  });
  std::uint64_t others = 0;
  for (std::size_t i = History::most_tenants; i < largest.size(); ++i) others += largest[i].second;
  if (largest.size() > History::most_tenants) largest.resize(History::most_tenants);
  largest.shrink_to_fit();
  return others;
}

void add_memory(HistoryPoint& point, const MemoryReport& report) {
  std::map<std::string, std::uint64_t> tenants;
  for (const auto& row : report.rows) {
    const auto bytes = positive(row.resident_bytes);
    if (row.kind == MemoryKind::mapped) point.mapped_bytes += bytes;
    if (row.kind != MemoryKind::anonymous) continue;
    point.components[static_cast<std::size_t>(row.component)] += bytes;
    if (row.tenant != shared_tenant.get() && bytes > 0) tenants[row.tenant] += bytes;
  }
  point.unattributed_bytes = positive(report.unattributed_bytes);
  point.other_tenants_bytes = take_largest(tenants, point.tenants);
  if (report.pressure && report.pressure->cgroup_scoped) {
    point.stall_percent = report.pressure->some_avg10;
  }
}

void add_caches(HistorySample& sample, const std::vector<NodeCacheAnswer>& caches) {
  std::map<std::string, std::uint64_t> tenants;
  for (const auto& cache : caches) {
    for (const auto& row : cache.answer.report.rows) {
      const auto kind = static_cast<std::size_t>(row.kind);
      sample.point.disk_bytes[kind] += row.counts.bytes;
      if (row.counts.bytes > 0) tenants[row.tenant] += row.counts.bytes;
      sample.lookups[kind].hits += row.counts.hits_total;
      sample.lookups[kind].misses += row.counts.misses_total;
    }
  }
  sample.point.other_disk_tenants_bytes = take_largest(tenants, sample.point.disk_tenants);
}

// Absent where nothing was looked for, or the counts have begun anew.
std::optional<double> hit_percent(const CacheLookups& before, const CacheLookups& now) {
  if (now.hits < before.hits || now.misses < before.misses) return std::nullopt;
  const auto hits = now.hits - before.hits;
  const auto all = hits + now.misses - before.misses;
  if (all == 0) return std::nullopt;
  return 100.0 * static_cast<double>(hits) / static_cast<double>(all);
}

}  // namespace

HistorySample take_sample(double unix_seconds, const ClusterStatus& status,
                          const Result<MemoryReport>& memory,
                          const std::vector<MemoryScope>& scopes,
                          const std::vector<NodeCacheAnswer>& caches) {
  HistorySample sample;
  auto& point = sample.point;
  point.unix_seconds = unix_seconds;
  point.pressure = status.pressure;
  for (const auto& node : status.nodes) {
    point.pressure = std::max(point.pressure, node.pressure);
    for (const auto& [unused, stats] : node.models) {
      point.waiting += stats.waiting;
      point.running += stats.running;
      sample.tokens_total += stats.generated_tokens_total + stats.prompt_tokens_total;
    }
  }
  if (memory) add_memory(point, *memory);
  add_caches(sample, caches);
  if (!scopes.empty()) {
    const auto nearest = std::ranges::max_element(scopes, {}, &MemoryScope::used_share);
    point.used_bytes = nearest->used_bytes;
    point.limit_bytes = nearest->limit_bytes;
  }
  return sample;
}

History::History(Ledger& ledger, std::size_t capacity)
    : capacity_(capacity), charge_(ledger.account(Component::runtime, "", shared_tenant), 0) {}

void History::add(HistorySample sample) {
  const std::lock_guard lock(mutex_);
  auto& point = sample.point;
  // Less than before: a node has gone, or has started again.
  if (!points_.empty() && sample.tokens_total > tokens_total_) {
    const double seconds = point.unix_seconds - points_.back().unix_seconds;
    const auto tokens = static_cast<double>(sample.tokens_total - tokens_total_);
    if (seconds > 0) point.tokens_per_second = tokens / seconds;
  }
  tokens_total_ = sample.tokens_total;
  for (std::size_t i = 0; !points_.empty() && i < lookups_.size(); ++i) {
    point.disk_hit_percent[i] = hit_percent(lookups_[i], sample.lookups[i]);
  }
  lookups_ = sample.lookups;
  point.id = ++last_id_;
  bytes_ += bytes_of(point);
  points_.push_back(std::move(point));
  if (points_.size() > capacity_) {
    bytes_ -= bytes_of(points_.front());
    points_.pop_front();
  }
  charge_.resize(bytes_);
}

std::vector<HistoryPoint> History::after(std::uint64_t after) const {
  const std::lock_guard lock(mutex_);
  return {std::ranges::upper_bound(points_, after, {}, &HistoryPoint::id), points_.end()};
}

HistoryThread::HistoryThread(std::chrono::milliseconds interval, std::function<void()> sample)
    : thread_([this, interval, sample = std::move(sample)] {
        std::unique_lock lock(mutex_);
        while (!stopped_) {
          lock.unlock();
          sample();
          lock.lock();
          changed_.wait_for(lock, interval, [this] { return stopped_; });
        }
      }) {}

HistoryThread::~HistoryThread() {
  {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
    changed_.notify_one();
  }
  thread_.join();
}

}  // namespace plimsoll
