// A made-up hour of a busy server, with hostile text, for the console's test in a browser.
#pragma once

#include <chrono>
#include <cmath>

#include "actors/console.h"

namespace plimsoll {

inline ConsoleView busy_console() {
  constexpr std::uint64_t mib = 1024 * 1024;
  constexpr std::uint64_t limit = 1024 * mib;
  const double now =
      std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  const char* tenants[] = {"acme",  "globex",    "initech", "umbrella", "hooli", "stark",
                           "wayne", "cyberdyne", "soylent", "tyrell",   "wonka", "oscorp"};
  ConsoleView view;
  const auto put = [](HistoryPoint& p, Component c, double bytes) {
    p.components[static_cast<std::size_t>(c)] = static_cast<std::uint64_t>(std::max(bytes, 0.0));
  };
  for (std::uint64_t id = 1; id <= 720; ++id) {
    const double x = static_cast<double>(id);
    HistoryPoint p;
    p.id = id;
    p.unix_seconds = now - 5.0 * static_cast<double>(720 - id);
    double kv = 0;
    for (std::size_t i = 0; i < std::size(tenants); ++i) {
      const double wave =
          1 + std::sin(x / (23.0 + 5 * static_cast<double>(i)) + static_cast<double>(i));
      const double flood = i == 1 && id > 640 && id < 690 ? 600 * std::sin((x - 640) / 16) : 0;
      const double bytes = mib * (wave * 70.0 / static_cast<double>(i + 1) + std::max(flood, 0.0));
      p.tenants.emplace_back(tenants[i], static_cast<std::uint64_t>(bytes));
      kv += bytes;
    }
    p.other_tenants_bytes = 4 * mib;
    p.disk_bytes = {(200 + id / 2) * mib, 40 * mib, 3 * mib};
    p.disk_tenants = {{"acme", (150 + id / 2) * mib}, {"globex", 80 * mib}};
    p.other_disk_tenants_bytes = 13 * mib;
    if (id % 3 != 0) p.disk_hit_percent[0] = 60 + 30 * std::sin(x / 40);
    put(p, Component::kv, kv * 0.8);
    put(p, Component::prefix_cache, kv * 0.17 + 20 * mib);
    put(p, Component::activations, 96 * mib);
    put(p, Component::tokenizer, 14 * mib);
    put(p, Component::requests, kv * 0.02);
    put(p, Component::rpc, mib * (3 + std::sin(x / 9)));
    put(p, Component::runtime, 2.0 * mib);
    p.unattributed_bytes = 11 * mib;
    p.mapped_bytes = 138 * mib;
    p.used_bytes = static_cast<std::uint64_t>(kv) + 148 * mib;
    p.limit_bytes = limit;
    const double share = static_cast<double>(p.used_bytes) / static_cast<double>(limit);
    p.pressure = share > 0.9    ? PressureLevel::red
                 : share > 0.8  ? PressureLevel::orange
                 : share > 0.72 ? PressureLevel::yellow
                                : PressureLevel::green;
    p.stall_percent = share > 0.85 ? 100 * (share - 0.85) : 0;
    p.running = static_cast<std::uint32_t>(12 + 5 * std::sin(x / 31));
    p.waiting = share > 0.8 ? 14 : static_cast<std::uint32_t>(2 + 2 * std::sin(x / 11));
    p.tokens_per_second = 240 + 80 * std::sin(x / 31) + 20 * std::sin(x / 3);
    view.points.push_back(std::move(p));
  }
  const auto happened = [&](double ago, cluster::EventKind kind, cluster::Level level,
                            const char* tenant, const char* cause, std::uint64_t bytes,
                            std::uint32_t count) {
    cluster::Event e;
    e.id = view.events.size() + 1;
    e.unix_seconds = now - ago;
    e.node = "node-1";
    e.kind = kind;
    e.level = level;
    e.tenant = tenant;
    e.model = tenant[0] == '\0' ? "" : "smollm2-135m-instruct";
    e.cause = cause;
    e.bytes = bytes;
    e.count = count;
    view.events.push_back(std::move(e));
  };
  using cluster::EventKind;
  using cluster::Level;
  happened(380, EventKind::level, Level::yellow, "",
           "cgroup: 758 MiB of 1024 MiB used (74%); yellow begins at 737 MiB", 0, 1);
  happened(371, EventKind::evict, Level::yellow, "globex",
           "over its share of the prefix cache: 61 MiB held, 24 MiB allowed", 37 * mib, 74);
  happened(352, EventKind::level, Level::orange, "",
           "cgroup: 839 MiB of 1024 MiB used (82%), growing 6.1 MiB/s: the limit in 30 s", 0, 1);
  happened(351, EventKind::preempt, Level::orange, "globex",
           "holds 248 MiB of KV, its share is 96 MiB", 62 * mib, 3);
  happened(349, EventKind::refuse, Level::orange, "globex",
           "best effort waits while the node is orange", 18 * mib, 412);
  happened(343, EventKind::purge, Level::orange, "", "returned to the kernel after evictions",
           88 * mib, 1);
  happened(301, EventKind::cancel, Level::red, "globex",
           "<img src=x onerror=alert(1)><script>alert(2)</script>", 31 * mib, 1);
  happened(160, EventKind::level, Level::green, "", "cgroup: 611 MiB of 1024 MiB used (60%)", 0, 1);
  return view;
}

}  // namespace plimsoll
