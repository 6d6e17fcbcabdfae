// What traffic is made of: named mixes, or one's own in YAML.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "cli/scorecard/distribution.h"
#include "engine/base/result.h"

namespace plimsoll::cli::scorecard {

// Tenants are numbers: the keys that the run is given are dealt out to them in turn.
struct Tenants {
  std::uint32_t first = 0;
  std::uint32_t count = 1;
  double skew = 1;  // of their Zipf weights; 0: all alike

  bool operator==(const Tenants&) const = default;
};

// A beginning that prompts have in common, before their own part.
struct SharedPrefix {
  double share = 0;  // of the requests that have one
  std::uint32_t tokens = 256;
  std::uint32_t groups = 1;  // how many different ones there are
  double skew = 1;           // of their Zipf weights

  bool operator==(const SharedPrefix&) const = default;
};

struct Traffic {
  std::string name;
  double weight = 1;   // its part of the requests, beside the other traffic's
  bool embed = false;  // for an embedding model, without an answer
  Lengths prompt;      // without the shared prefix
  Lengths output;
  Tenants tenants;
  SharedPrefix prefix;

  bool operator==(const Traffic&) const = default;
};

struct Mix {
  std::string name;
  std::string about;
  Arrivals arrivals;
  std::vector<Traffic> traffic;

  bool operator==(const Mix&) const = default;
};

const std::vector<Mix>& named_mixes();
// Errors: not_found, naming the choices.
Result<Mix> named_mix(const std::string& name);
// YAML, or JSON, as to_json() writes it; what is absent has its default. Errors: malformed or
// invalid_argument, with `file` and the line.
Result<Mix> parse_mix(const std::string& text, const std::string& file);
nlohmann::ordered_json to_json(const Mix& mix);

std::uint32_t tenants_of(const Mix& mix);  // one more than the highest number

}  // namespace plimsoll::cli::scorecard
