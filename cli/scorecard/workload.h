// What is sent when: a stream of requests that depends on a mix (or a trace) and a seed alone.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cli/scorecard/mix.h"
#include "engine/base/result.h"

namespace plimsoll::cli::scorecard {

struct Request {
  std::uint64_t index = 0;  // 0, 1, ...
  double at_s = 0;          // since the beginning; never before the one before
  std::uint32_t traffic = 0;
  std::uint32_t tenant = 0;
  bool embed = false;
  std::uint32_t prompt_tokens = 1;
  std::uint32_t output_tokens = 1;
  // The prompt begins with these blocks, of `block_tokens` each: the same id is the same tokens, in
  // any request. The rest of it is its own.
  std::vector<std::uint64_t> blocks;
  std::uint32_t block_tokens = 0;

  bool operator==(const Request&) const = default;
};

class Source {
 public:
  Source() = default;
  virtual ~Source() = default;
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;
  // Nothing: it has ended.
  virtual Result<std::optional<Request>> next() = 0;
};

// Goes on for ever.
class MixSource final : public Source {
 public:
  // Lengths are multiplied by `length_scale`.
  MixSource(Mix mix, std::uint64_t seed, double length_scale = 1);
  Result<std::optional<Request>> next() override;

 private:
  struct Weights {
    Zipf tenants;
    Zipf prefixes;
  };
  Mix mix_;
  std::uint64_t seed_;
  double length_scale_;
  ArrivalTimes arrivals_;
  std::vector<Weights> weights_;  // of each traffic
  double total_weight_ = 0;
  std::uint64_t index_ = 0;
};

std::uint32_t scaled(std::uint32_t tokens, double scale);  // at least 1

// Makes a request fit: its answer may take half of the context, its prompt what is left. Returns
// whether it had to be cut.
bool fit(Request& request, std::uint32_t context_tokens);

// `vocabulary_tokens` > 0.
std::vector<std::int32_t> prompt_of(const Request& request, std::uint64_t seed,
                                    std::uint32_t vocabulary_tokens);
// For an embedding model: about as many tokens.
std::string text_of(const Request& request, std::uint64_t seed);

}  // namespace plimsoll::cli::scorecard
