// The clients: they ask, read at their own pace, cancel, come again when told to, go to another
// router when theirs is gone, and check every token that they get.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "cluster/router.h"
#include "tests/cluster/simulation/messages.h"
#include "tests/cluster/simulation/world.h"

namespace plimsoll::simulation {

class RouterProcess;

// How a sequence ended, as its client hears it.
enum class End : std::uint8_t {
  complete,
  cancelled,
  deadline,
  exhausted,  // no node has room for it
  node_lost,  // too many of its nodes were lost
  no_node,
  stopped,  // the router stops: another may go on
};

struct ClientStream final : cluster::StreamData {
  struct Sequence {
    std::uint64_t seed = 0;
    std::uint32_t length = 0;
    std::uint32_t received = 0;
    cluster::SequenceId id = 0;  // of the current attempt
    bool ended = false;
  };
  std::uint64_t number = 0;
  std::string tenant;
  std::string model;
  std::uint32_t prompt_tokens = 0;
  std::uint32_t most_generated = 0;
  std::vector<std::uint64_t> prefix;
  double deadline = 0;  // in the world's time
  std::vector<Sequence> sequences;
  std::size_t router = 0;
  std::uint32_t attempts = 0;
  bool cancelled = false;
  bool slow = false;           // reads slowly
  std::function<void()> then;  // after its end
};

struct ClientCounts {
  std::uint64_t streams = 0, complete = 0, tokens = 0, refused = 0, failed = 0, resumed = 0;
  std::map<std::string, std::uint64_t> reasons;  // of refusals and failures
};

class Clients {
 public:
  Clients(World& world, std::vector<std::unique_ptr<RouterProcess>>& routers)
      : world_(world), routers_(routers) {}

  struct Wish {
    std::string tenant, model;
    std::size_t router = 0;
    std::uint32_t sequences = 1, prompt_tokens = 10, length = 20;
    double deadline_s = 600;
    bool slow = false;
    double cancel_after = 0;  // 0: not
    bool retries = false;
    std::vector<std::uint64_t> prefix;
  };
  void ask(const Wish& wish, std::function<void()> then = {});

  // ---- what routers say
  void tokens(cluster::SequenceId id, const std::vector<std::int32_t>& tokens);
  void ended(cluster::SequenceId id, End end);
  void refused(const std::shared_ptr<ClientStream>& stream, std::uint32_t attempt,
               const char* reason, double retry_after_s);
  void router_gone(std::size_t router);

  const ClientCounts& counts() const { return counts_; }
  std::uint64_t open() const { return open_; }
  std::string oldest() const;  // of the open streams, for a report
  const std::map<std::string, std::uint64_t>& received() const { return received_; }

 private:
  struct Where {
    std::shared_ptr<ClientStream> stream;
    std::size_t index = 0;
  };
  void submit(const std::shared_ptr<ClientStream>& stream);
  void go_on(const std::shared_ptr<ClientStream>& stream);
  void end(const std::shared_ptr<ClientStream>& stream, std::size_t index);
  void fail_all(const std::shared_ptr<ClientStream>& stream, const std::string& reason);
  void credit(const std::shared_ptr<ClientStream>& stream, std::size_t index, std::uint32_t tokens);

  World& world_;
  std::vector<std::unique_ptr<RouterProcess>>& routers_;
  std::map<std::uint64_t, std::shared_ptr<ClientStream>> streams_;  // open, by number
  std::unordered_map<cluster::SequenceId, Where> ids_;
  cluster::SequenceId next_id_ = 1;
  std::uint64_t next_stream_ = 1, open_ = 0;
  ClientCounts counts_;
  std::map<std::string, std::uint64_t> received_;  // tokens, by tenant
};

}  // namespace plimsoll::simulation
