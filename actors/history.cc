#include "actors/history.h"

#include <algorithm>
#include <map>

namespace plimsoll {
namespace {

std::uint64_t positive(std::int64_t bytes) {
  return static_cast<std::uint64_t>(std::max<std::int64_t>(bytes, 0));
}

std::uint64_t bytes_of(const HistoryPoint& point) {
  std::uint64_t bytes = sizeof(point) + point.tenants.capacity() * sizeof(point.tenants[0]);
  for (const auto& [name, unused] : point.tenants) bytes += name.capacity();
  return bytes;
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
  point.tenants.assign(tenants.begin(), tenants.end());
  std::ranges::sort(point.tenants, [](const auto& a, const auto& b) {
    return a.second != b.second ? a.second > b.second : a.first < b.first;
  });
  if (point.tenants.size() > History::most_tenants) {
    const auto rest = point.tenants.begin() + History::most_tenants;
    for (auto it = rest; it != point.tenants.end(); ++it) point.other_tenants_bytes += it->second;
    point.tenants.erase(rest, point.tenants.end());
  }
  point.tenants.shrink_to_fit();
  if (report.pressure && report.pressure->cgroup_scoped) {
    point.stall_percent = report.pressure->some_avg10;
  }
}

}  // namespace

HistorySample take_sample(double unix_seconds, const ClusterStatus& status,
                          const Result<MemoryReport>& memory,
                          const std::vector<MemoryScope>& scopes) {
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
