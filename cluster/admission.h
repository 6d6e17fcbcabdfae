// Whether a tenant may start more work: a cap on its concurrent sequences, and a token bucket for
// its requests where one is configured. State is bounded by the number of configured tenants.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>

namespace plimsoll::cluster {

struct TenantLimits {
  std::uint32_t sequences = 64;    // waiting and running
  double requests_per_second = 0;  // 0: no limit
  double burst = 1;                // requests that may come at once
};

struct AdmissionDecision {
  enum class Verdict : std::uint8_t { admitted, unknown_tenant, sequences, rate };
  Verdict verdict = Verdict::admitted;
  std::chrono::milliseconds retry_after{0};  // with `rate`: when the bucket has a token again
};

class Admission {
 public:
  using Time = std::chrono::duration<double>;  // since any fixed moment; never runs backwards

  explicit Admission(std::map<std::string, TenantLimits> tenants);

  // One request that starts `sequences`: all of them, or none. What was admitted is given back
  // with release().
  AdmissionDecision admit(const std::string& tenant, std::uint32_t sequences, Time now);
  void release(const std::string& tenant, std::uint32_t sequences);

  std::uint32_t sequences(const std::string& tenant) const;
  std::uint32_t limit(const std::string& tenant) const;

 private:
  struct Tenant {
    TenantLimits limits;
    std::uint32_t sequences = 0;
    double tokens = 0;
    Time filled{0};  // when `tokens` was last brought up to date
  };
  std::map<std::string, Tenant> tenants_;
};

}  // namespace plimsoll::cluster
