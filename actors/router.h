// The router actor: a shell around cluster::Router. It brings messages in, carries out what comes
// back, and keeps what a sequence needs to run again elsewhere.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "actors/board.h"
#include "actors/messages.h"
#include "cluster/router.h"
#include "engine/memory/ledger.h"

namespace plimsoll {

struct RouterConfig {
  std::vector<cluster::Tenant> tenants;
  std::shared_ptr<Board> board;  // told of the nodes
  Ledger* ledger = nullptr;
  cluster::RouterSettings settings{};
};

RouterActor spawn_router(caf::actor_system& system, RouterConfig config);

// Makes a node known to a router, and sends the node's heartbeats there.
void introduce(const RouterActor& router, const NodeActor& node, NodeUp description);

}  // namespace plimsoll
