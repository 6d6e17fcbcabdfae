// The router actor: a shell around cluster::Router. It brings messages in, carries out what comes
// back, and keeps what a sequence needs to run again elsewhere.
#pragma once

#include <chrono>
#include <functional>
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
  cluster::RouterSettings settings{};  // `leases` is set where there is a want_share
  // Where other routers serve the same tenants: called by the router's actor, once while requests
  // of a tenant wait for a share of its quota (QuotaLeases::want()). They are admitted when it
  // comes, or refused when their patience ends. Absent: this router has all of every quota.
  std::function<void(const std::string& tenant)> want_share{};
  std::chrono::milliseconds lease_patience{2000};
};

RouterActor spawn_router(caf::actor_system& system, RouterConfig config);

// Makes a node known to a router, and sends the node's heartbeats there.
void introduce(const RouterActor& router, const NodeActor& node, NodeUp description);

}  // namespace plimsoll
