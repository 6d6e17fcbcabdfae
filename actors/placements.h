// Which nodes shall run the models that were added at run time, and what to tell a node whose
// reports say otherwise. Pure: the router actor brings the reports and sends the orders.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "actors/messages.h"
#include "cluster/quota.h"

namespace plimsoll {

class Placements {
 public:
  using Order = std::variant<LoadModel, UnloadModel>;
  // Whether one of the nodes that shall run a model is ready with it, in the right version.
  using IsServed = std::function<bool(const PlacedModel&)>;

  static bool runs_on(const PlacedModel& placed, const std::string& node);

  void set(std::vector<PlacedModel> models);

  // What to tell a node that is neither draining nor lost, after its latest report; in this order.
  // A replica that shall be elsewhere stays until it is served there. One that failed is tried
  // again when its placement has changed. Before the first set() nothing is known, and nothing is
  // ordered.
  std::vector<Order> orders(const NodeReport& report, cluster::Time now, const IsServed& is_served);

  void forget(const std::string& node);  // its epoch is over

 private:
  // What this router knows of one model on one node.
  struct Replica {
    PlacedModel placed;      // under which it was told to load, or was first seen
    bool load_told = false;  // the last order; else to unload, if one was given at all
    std::optional<cluster::Time> told;
  };

  std::optional<std::map<std::string, PlacedModel>> wanted_;
  std::map<std::string, std::map<std::string, Replica>> replicas_;  // by node and model
};

}  // namespace plimsoll
