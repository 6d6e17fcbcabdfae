// The capabilities that a connection is given: Gateway, Inference and Operator of the schema.
#pragma once

#include <capnp/capability.h>

#include <atomic>
#include <functional>
#include <memory>

#include "actors/frontend.h"
#include "actors/gateway/call_thread.h"
#include "actors/gateway/kj_mailbox.h"
#include "engine/base/result.h"
#include "engine/memory/ledger.h"

namespace plimsoll {

// Shared by everything on the gateway's loop. Capability servers may be destroyed as late as the
// event loop itself, so each holds a reference.
struct RpcShared {
  RpcShared(Frontend& f, Ledger& l) : frontend(f), ledger(l) {}
  Frontend& frontend;
  Ledger& ledger;
  KjMailbox mailbox;
  std::atomic<std::uint32_t> calls{0};  // in progress: generations, embeddings, operators'
  // Where the calls of Administration run: drains and purges take long, the others shall not wait
  // for them.
  CallThread operations{32};
  CallThread drains{8};
  CallThread purges{8};
};

// Hears of each login with a good key, of a tenant or (null) of an operator. An error is the
// answer.
using RpcLogin = std::function<Result<void>(const TenantId* tenant)>;

// The bootstrap capability of one connection.
capnp::Capability::Client make_rpc_bootstrap(std::shared_ptr<RpcShared> shared, RpcLogin on_login);

}  // namespace plimsoll
