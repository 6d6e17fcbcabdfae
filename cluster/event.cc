#include "cluster/event.h"

namespace plimsoll::cluster {

std::string_view to_string(EventKind kind) {
  switch (kind) {
    case EventKind::level: return "level";
    case EventKind::evict: return "evict";
    case EventKind::preempt: return "preempt";
    case EventKind::cancel: return "cancel";
    case EventKind::refuse: return "refuse";
    case EventKind::purge: return "purge";
    case EventKind::alarm: return "alarm";
    case EventKind::oom_kill: return "oom_kill";
  }
  return "unknown";
}

std::optional<EventKind> event_kind(std::string_view name) {
  for (std::size_t i = 0; i < event_kinds; ++i) {
    const auto kind = static_cast<EventKind>(i);
    if (to_string(kind) == name) return kind;
  }
  return std::nullopt;
}

}  // namespace plimsoll::cluster
