#include "actors/registry.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>
#include <vector>

namespace plimsoll {
namespace {

struct RegistryState {
  std::shared_ptr<Board> board;
  std::vector<ModelEntry> entries;  // in the order in which they came

  void put(ModelEntry entry) {
    switch (entry.state) {
      case ModelState::loading:
        spdlog::info("event=model_loading model={} path=\"{}\"", entry.name, entry.path);
        break;
      case ModelState::ready:
        spdlog::info("event=model_ready model={} version={} context_tokens={}", entry.name,
                     entry.version, entry.context_tokens);
        break;
      case ModelState::failed:
        spdlog::error("event=model_failed model={} path=\"{}\" reason=\"{}\"", entry.name,
                      entry.path, entry.reason);
        break;
      case ModelState::gone:
        std::erase_if(entries, [&](const auto& e) { return e.name == entry.name; });
        return publish();
    }
    const auto it = std::ranges::find(entries, entry.name, &ModelEntry::name);
    if (it == entries.end()) {
      entries.push_back(std::move(entry));
    } else {
      *it = std::move(entry);
    }
    publish();
  }

  void publish() const {
    std::vector<ModelCard> cards;
    for (const auto& e : entries) {
      if (e.state != ModelState::ready) continue;
      cards.push_back({e.name, e.info, e.version, e.created, e.context_tokens});
    }
    board->set_models(std::move(cards));
  }
};

RegistryActor::behavior_type registry(RegistryActor::stateful_pointer<RegistryState> self,
                                      const std::shared_ptr<Board>& board) {
  self->state.board = board;
  return {[=](ModelEntry& entry) { self->state.put(std::move(entry)); }};
}

}  // namespace

RegistryActor spawn_registry(caf::actor_system& system, std::shared_ptr<Board> board) {
  return system.spawn(registry, std::move(board));
}

}  // namespace plimsoll
