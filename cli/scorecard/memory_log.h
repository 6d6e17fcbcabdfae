// Where a cluster's memory was while a run went on, from samples of it.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "client/client.h"
#include "client/operator.h"

namespace plimsoll::cli::scorecard {

// A quantity over time. Each sample holds until the next one.
class Gauge {
 public:
  void add(double at_s, double value);
  double first() const { return first_; }
  double last() const { return last_; }
  double peak() const { return peak_; }
  double integral() const { return integral_; }  // value-seconds
  double mean() const { return at_s_ > begin_s_ ? integral_ / (at_s_ - begin_s_) : last_; }

 private:
  bool any_ = false;
  double begin_s_ = 0, at_s_ = 0;
  double first_ = 0, last_ = 0, peak_ = 0, integral_ = 0;
};

class MemoryLog {
 public:
  // `nodes_used_bytes`: of all nodes, as they report it; 0: none has yet.
  void add(double at_s, const client::Memory& memory, std::uint64_t nodes_used_bytes);

  struct Tenant {
    Gauge bytes;  // charged to it, of all components
    Gauge kv;
    void add(double at_s, double all, double of_kv) {
      bytes.add(at_s, all);
      kv.add(at_s, of_kv);
    }
  };
  std::uint64_t samples() const { return samples_; }
  const Gauge& rss() const { return rss_; }
  const Gauge& anonymous() const { return anonymous_; }
  const Gauge& nodes_used() const { return nodes_used_; }
  const Gauge& unattributed() const { return unattributed_; }
  const std::map<std::string, Gauge>& components() const { return components_; }  // anonymous
  const std::map<std::string, Tenant>& tenants() const { return tenants_; }       // and `shared`

 private:
  std::uint64_t samples_ = 0;
  double first_s_ = 0;
  Gauge rss_, anonymous_, nodes_used_, unattributed_;
  std::map<std::string, Gauge> components_;
  std::map<std::string, Tenant> tenants_;
};

}  // namespace plimsoll::cli::scorecard
