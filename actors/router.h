// The router actor: admits tenants, picks a node for each stream, and brings what the node emits to
// the stream's owner. It keeps the tokens emitted so far (bounded by the context), so that a stream
// goes on elsewhere when its node is lost or drains.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "actors/board.h"
#include "actors/messages.h"
#include "cluster/admission.h"
#include "engine/memory/ledger.h"

namespace plimsoll {

struct RouterConfig {
  std::map<std::string, cluster::TenantLimits> tenants;
  std::shared_ptr<Board> board;  // told of the nodes
  Ledger* ledger = nullptr;
};

RouterActor spawn_router(caf::actor_system& system, RouterConfig config);

// Makes a node known to a router, and sends the node's heartbeats there.
void introduce(const RouterActor& router, const NodeActor& node, NodeUp description);

}  // namespace plimsoll
