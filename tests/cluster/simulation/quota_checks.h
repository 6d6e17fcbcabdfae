// What all routers together let through, held against each tenant's quota.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "cluster/quota.h"
#include "tests/cluster/simulation/world.h"

namespace plimsoll::simulation {

class QuotaChecks {
 public:
  QuotaChecks(World& world, std::size_t routers) : world_(world), routers_(routers) {}

  void set_tenant(const cluster::Tenant& tenant);
  // A router acts on this share until then; `until` is a moment of the world.
  void share(std::size_t router, const std::string& tenant, double share, double until);
  void admitted(std::size_t router, const std::string& tenant, const cluster::Ask& ask);
  void holds(std::size_t router, const std::string& tenant, std::uint32_t sequences);
  void router_gone(std::size_t router);  // what it held and its shares went with it

 private:
  // A bucket of the whole quota: how much more than its rate was let through lately.
  struct Excess {
    double amount = 0, at = 0;
    void add(double tokens, double rate, double now);
  };
  struct Part {  // of one router
    double share = 0, until = 0;
    bool started = false;
    std::uint32_t held = 0;
    std::uint32_t uncovered = 0;  // of them, from before its lease ran out
  };
  struct Tenant {
    cluster::Quota quota;
    bool changed = false;  // the quota did: rates and caps are not held against it any more
    double first_shares = 0;
    double largest_prompt = 0;
    std::uint32_t most_at_once = 1;
    Excess requests, prompt;
    std::vector<Part> parts;
  };
  void lapse(Part& part) const;
  void check_sequences(const std::string& name, Tenant& tenant);

  World& world_;
  std::size_t routers_;
  std::map<std::string, Tenant> tenants_;
};

}  // namespace plimsoll::simulation
