// The router, as a state machine without I/O: which node runs each sequence, what its client has
// had of it, and what happens to it when nodes come, go, hang, drain or refuse. The router actor
// and the simulator both drive it: they hand in what happened, and carry out the actions that come
// back.
//
// A sequence may run several times, one after the other, on different nodes; each run has an id of
// its own, so that whatever an earlier run still says is void. The tokens that the client has are
// kept (bounded by the generation cap), and every run goes on behind them.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

#include "cluster/health.h"
#include "cluster/kv_bytes.h"
#include "cluster/membership.h"
#include "cluster/placement.h"
#include "cluster/prefix_map.h"
#include "cluster/quota.h"

namespace plimsoll::cluster {

using SequenceId = std::uint64_t;  // the client's
using RunId = std::uint64_t;       // the node's

// What the caller keeps with a stream.
struct StreamData {
  virtual ~StreamData() = default;
};

struct NewSequence {
  SequenceId id = 0;
  std::uint32_t credit = 0;           // tokens that may be emitted now
  std::vector<std::int32_t> resumed;  // that the client has had from another router
};
// Sequences of one prompt; they run on one node, so that they share its blocks.
struct NewStream {
  std::string tenant;
  std::string model;
  std::vector<std::uint64_t> prefix;  // prefix_hashes() of the prompt
  std::uint32_t prompt_tokens = 0;
  std::uint32_t generated_tokens = 0;  // at most, of each sequence
  bool repeats = false;                // its prompt, endlessly
  KvBytes kv;
  Time deadline{0};
  std::vector<NewSequence> sequences;
  std::shared_ptr<StreamData> data;
};

struct NodeOffer {
  std::string name;
  std::uint64_t epoch = 0;
  double weight = 1;
  std::vector<std::string> models;
  bool local = false;  // in the router's own process: given up only by lose()
  bool cordoned = false;
};

// ---- what the caller is to do

struct RunSequence {
  RunId run = 0;
  SequenceId id = 0;
  std::vector<std::int32_t> emitted;  // goes on behind these
  std::uint32_t credit = 0;
};
struct StartRun {
  std::string node;
  std::shared_ptr<StreamData> data;
  std::vector<RunSequence> sequences;
  Time deadline{0};
};
struct CancelRuns {
  std::string node;
  std::vector<RunId> runs;
};
struct CreditRun {
  std::string node;
  RunId run = 0;
  std::uint32_t tokens = 0;
};
enum class EndCause : std::uint8_t { cancelled, node_lost, no_node, overdue, stopped };
// A sequence that ends without a node having said so.
struct EndSequence {
  std::shared_ptr<StreamData> data;
  SequenceId id = 0;
  EndCause cause = EndCause::cancelled;
  std::string node;  // the last one
};
// A node was given up: what it still says is void, its connection is of no more use.
struct NodeGone {
  std::string node;
  std::uint64_t epoch = 0;
  std::string reason;
  std::uint32_t sequences = 0;  // that it held
};
using Action = std::variant<StartRun, CancelRuns, CreditRun, EndSequence, NodeGone>;
using Actions = std::vector<Action>;

struct RouterSettings {
  HealthConfig health;
  double load_bound = 1.25;
  int most_losses = 2;       // a sequence whose nodes keep dying may be what kills them
  Time park{10.0};           // how long a started sequence waits for a node that can take it
  Time deadline_grace{2.0};  // nodes keep the deadlines; this is for one that does not answer
  std::uint32_t most_streams = 65536;
  // Other routers serve the same tenants: shares come from leases, by Quotas::set_share(). Else
  // this router has all of every quota.
  bool leases = false;
  TierCaps tiers{};  // of requests of tenants that have no such limits of their own
};

class Router {
 public:
  // Run ids count up from `first_run`; no two routers may share a range.
  explicit Router(RouterSettings settings = {}, RunId first_run = 1);

  // ---- nodes

  // A node serves. False if it is known with this epoch or a newer one; what an older self of it
  // held is moved.
  bool join(const NodeOffer& offer, Time now, Actions& actions);
  void set_models(const std::string& node, std::vector<std::string> models, Time now,
                  Actions& actions);
  // `held`: sequences that the node holds for all routers.
  void beat(const std::string& node, std::uint64_t epoch, const Beat& beat, Time now);
  void lose(const std::string& node, std::uint64_t epoch, const std::string& reason, Time now,
            Actions& actions);
  // An operator removed it: what it has goes on elsewhere. False if it is not known.
  bool forget(const std::string& node, Time now, Actions& actions);
  bool cordon(const std::string& node, bool on);
  // Takes nothing new; what is left at `deadline` is moved to other nodes.
  bool drain(const std::string& node, Time deadline, Time now, Actions& actions);

  struct Node {
    std::string name;
    std::uint64_t epoch = 0;
    double weight = 1;
    std::vector<std::string> models;
    std::set<RunId> runs;  // ordered: the same seed gives the same simulation
    std::map<std::string, std::uint32_t> tenants;  // runs of each
    std::uint32_t reported_load = 0;               // sequences of all routers
    std::uint32_t reported_waiting = 0;            // of them, not started yet
    Level pressure = Level::green;
    Time drain_at{0};                                // while it drains: when what is left moves
    std::uint64_t tokens = 0;                        // that it emitted to this router
    std::uint32_t finished = 0, moved = 0, cut = 0;  // since it drains
  };
  const std::map<std::string, Node>& nodes() const { return nodes_; }  // that are not lost
  const Membership& membership() const { return membership_; }
  const Health& health() const { return health_; }

  // ---- tenants

  Quotas& quotas() { return quotas_; }
  const Quotas& quotas() const { return quotas_; }
  void set_tenant(const Tenant& tenant, Time now);
  void remove_tenant(const std::string& name);
  // Its nodes for a model (empty: whatever the model), best first.
  std::vector<std::string> home(const std::string& tenant, const std::string& model = {}) const;
  // Of what is its by the byte, the part of one model on one node: the nodes of its home set and
  // the models that it may use share alike. Over 0, at most 1.
  double node_share(const Tenant& tenant, const std::string& model) const;
  // What was used since the last call.
  std::map<std::string, Usage> take_usage();
  // Since it was last asked, as they came: tokens, by model and tenant.
  std::map<std::string, std::map<std::string, std::uint64_t>> take_served();
  std::map<std::string, double> kv_bytes() const;  // that each tenant's sequences hold now

  // ---- streams

  struct Submitted {
    Decision decision;
    bool no_node = false;  // admitted, but no node that is ready has the model
    bool full = false;     // the router holds most_streams
  };
  // Admits all sequences of the stream and starts them on one node, or none.
  Submitted submit(NewStream&& stream, Time now, Actions& actions);
  void add_credit(SequenceId id, std::uint32_t tokens, Actions& actions);
  void cancel(SequenceId id, Time now, Actions& actions);

  // Tokens of a run. The sequence that they belong to, or nothing if the run is void.
  struct Progress {
    SequenceId id = 0;
    StreamData* data = nullptr;
  };
  std::optional<Progress> tokens(RunId run, std::span<const std::int32_t> ids, Time now);

  enum class Outcome : std::uint8_t {
    done,         // finished, cancelled, or failed in a way that would repeat elsewhere
    unavailable,  // the node stops: it goes on elsewhere
    exhausted,    // the node is full: it starts elsewhere; if its client has had tokens, it waits
  };
  // A run ended. `closed`: so did the sequence, and its client is to be told. Otherwise it goes on
  // (or the run was void) and the client is to hear nothing.
  struct Ended {
    bool closed = false;
    SequenceId id = 0;
    std::shared_ptr<StreamData> data;
  };
  Ended finish(RunId run, Outcome outcome, std::uint32_t cached_tokens, Time now, Actions& actions);

  std::size_t streams() const { return streams_.size(); }
  std::size_t sequences() const { return sequences_.size(); }

  // ---- time

  // Gives up nodes that hang, moves what drains, retries what is parked, ends what is overdue.
  void tick(Time now, Actions& actions);
  // The router stops: what cannot go on at once ends, and is not parked.
  void stop_parking() { settings_.park = Time(0); }
  // Ends every sequence.
  void end_all(Time now, Actions& actions);

  // Sequences that run outside their tenant's home set although a home node has room. Moves them,
  // unless `dry_run`.
  struct Move {
    std::string tenant, from, to;
    std::uint32_t sequences = 0;
  };
  std::vector<Move> rebalance(bool dry_run, Time now, Actions& actions);

 private:
  struct Stream {
    SequenceId id = 0;  // its first sequence's
    NewStream request;  // without its sequences
    Time started{0};
    std::uint64_t kv_bytes = 0;  // reserved for each sequence
    std::uint32_t open = 0;
    std::uint64_t generated = 0;  // by this router's runs
    std::uint64_t served = 0;     // tokens that take_served() has not told yet
    double kv_byte_seconds = 0;   // of sequences that ended
    std::uint32_t cached_tokens = 0;
  };
  struct Sequence {
    SequenceId id = 0;
    Stream* stream = nullptr;
    Node* node = nullptr;  // null: parked
    RunId run = 0;
    std::vector<std::int32_t> emitted;
    std::uint32_t resumed = 0;  // of emitted, from another router
    std::uint64_t granted = 0;  // credit, in tokens, since the beginning
    int losses = 0;
    bool cancelled = false;
    bool begun = false;  // this run has emitted something
    Time run_started{0};
    Time parked_at{0}, retry_at{0};
    std::vector<std::string> refused_by;  // since it last emitted something
  };
  using Names = std::vector<std::string>;

  std::vector<PlacementNode> candidates(const std::string& model, const NewStream* stream,
                                        const Names& except) const;
  std::size_t home_of(const std::string& tenant, std::size_t nodes) const;
  Node* pick(const NewStream& stream, const Names& except);
  // Starts sequences of one stream on a node.
  void start(Stream& stream, const std::vector<Sequence*>& sequences, Node& node, Time now,
             Actions& actions);
  void detach(Sequence& sequence);  // from its node
  // On to another node than `except`, or parked, or, if neither, ended with `cause`. True: it goes
  // on.
  bool move(Sequence& sequence, const Names& except, EndCause cause, Time now, Actions& actions);
  void give_up(Node& node, const std::string& reason, Time now, Actions& actions);
  void evacuate(Node& node, Time now, Actions& actions);
  void cancel_run(const Sequence& sequence, Actions& actions) const;
  void end(Sequence& sequence, EndCause cause, const std::string& node, Time now, Actions& actions);
  std::shared_ptr<StreamData> close(Sequence& sequence, Time now);
  void park(Sequence& sequence, Time now);
  void retry_parked(Time now, Actions& actions);

  RouterSettings settings_;
  RunId next_run_;
  Membership membership_;
  Health health_;
  Quotas quotas_;
  PrefixMap prefixes_;
  std::map<std::string, double> weights_;  // of tenants, by their tiers
  double all_weights_ = 0;
  Time swept_{0};  // when the deadlines were last looked at
  std::map<std::string, Node> nodes_;
  std::unordered_map<SequenceId, Stream> streams_;
  std::unordered_map<SequenceId, Sequence> sequences_;
  std::unordered_map<RunId, Sequence*> runs_;
  std::set<SequenceId> parked_;
  std::map<std::string, Usage> usage_;
  std::map<std::string, std::map<std::string, std::uint64_t>> served_;
};

}  // namespace plimsoll::cluster
