// Routers and nodes in different processes: CAF's middleman between them, with mutual TLS under the
// cluster's own CA.
//
//   node process                                    router process
//   node actor ◄──► link ◄── frames (actors/wire.h) ──► proxy ◄──► router actor
//                                                   door: who may come in
//
// To the router a proxy is the node; to the node a link is the router. A link holds one epoch after
// another: it says hello, serves, and starts again when the router or the way to it is lost.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "actors/board.h"
#include "actors/messages.h"
#include "actors/wire.h"
#include "engine/base/result.h"

namespace plimsoll {

struct TlsFiles {
  std::filesystem::path ca_file, certificate, key;  // PEM; all or none
  bool empty() const { return ca_file.empty() && certificate.empty() && key.empty(); }
};

// For an ActorSystemConfig, before the system starts. A peer that says nothing for `timeout` is cut
// off.
// Errors: invalid_argument (some files missing, or not readable).
Result<void> enable_network(ActorSystemConfig& config, const TlsFiles& tls,
                            std::chrono::milliseconds timeout);

struct DoorConfig {
  std::string host = "127.0.0.1";
  std::uint16_t port = 0;  // 0: any free one
  bool tls = false;
  std::string router;  // this router's name
  wire::Protocols protocols;
  std::chrono::milliseconds heartbeat{200};
  RouterActor router_actor;
  Ledger* ledger = nullptr;
  std::shared_ptr<Board> board = std::make_shared<Board>();  // its log takes the nodes' events
  // Whether the node may come in. May block.
  struct Admission {
    std::string secret;  // for it to keep; empty: it has one
    bool cordoned = false;
  };
  std::function<Result<Admission>(const wire::Hello&)> admit;
};
// Lets nodes join at an address, until it is closed. Errors: unavailable (address in use).
struct Door {
  caf::actor actor;
  std::uint16_t port = 0;
};
Result<Door> open_door(caf::actor_system& system, DoorConfig config);
void close_door(caf::actor_system& system, const Door& door);

struct LinkConfig {
  std::string host;  // a router's door
  std::uint16_t port = 0;
  bool tls = false;
  std::string node;
  wire::Protocols protocols;
  std::function<std::string()> secret;  // that it was last given, by whichever router; or empty
  std::string join_token;
  double weight = 1;
  NodeActor node_actor;
  std::shared_ptr<Board> board = std::make_shared<Board>();  // its new events go to the router
  // What the router is told of this process's memory, every two seconds; null: nothing.
  std::function<std::shared_ptr<const MemoryReport>()> memory;
  // Without a word from the router for this long, what runs for it is dropped.
  std::chrono::milliseconds timeout{3000};
  std::function<void(const std::string& secret)> keep_secret;
  // After each change: whether it serves that router, and if not, why.
  std::function<void(bool serving, const std::string& reason)> on_state;
};
using LinkActor = NodeListener::extend<caf::reacts_to<TickAtom>>;
LinkActor spawn_link(caf::actor_system& system, LinkConfig config);
// Ends a link, and returns when nothing refers to it: what CAF's broker still has in its queue of a
// link when the middleman stops would keep the system from ending. The node is to be told before.
void end_link(LinkActor link);

}  // namespace plimsoll
