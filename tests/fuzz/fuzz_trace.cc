// Traffic traces: whatever the file has, requests that keep the rules, or an error that names the
// line.
#include <cstddef>
#include <cstdint>
#include <sstream>

#include "cli/scorecard/trace.h"

namespace {

void check(bool good) {
  if (!good) __builtin_trap();
}

void check(const plimsoll::Error& error) {
  check(error.code == plimsoll::ErrorCode::malformed);
  check(error.message.starts_with("trace:"));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace plimsoll::cli::scorecard;
  std::istringstream in(std::string(reinterpret_cast<const char*>(data), size));
  TraceOptions options;
  options.length_scale = 0.01;
  auto source = open_trace(in, "trace", options);
  if (!source) {
    check(source.error());
    return 0;
  }
  double last_s = 0;
  while (true) {
    auto request = (*source)->next();
    if (!request) {
      check(request.error());
      return 0;
    }
    if (!*request) return 0;
    auto& r = **request;
    check(r.at_s >= last_s);
    last_s = r.at_s;
    check(r.prompt_tokens > 0 && r.output_tokens > 0);
    fit(r, 512);
    check(r.prompt_tokens + r.output_tokens <= 512);
    check(prompt_of(r, 1, 100).size() == r.prompt_tokens);
  }
}
