// The exit codes of `plimsoll`, as the reference page documents them.
#pragma once

namespace plimsoll::cli {

inline constexpr int exit_ok = 0;
inline constexpr int exit_failure = 1;      // it was tried and failed
inline constexpr int exit_usage = 2;        // the command line or the configuration is wrong
inline constexpr int exit_unavailable = 3;  // no server there, or it is not ready
inline constexpr int exit_refused = 4;      // the server refused: bad input, no rights, over quota
inline constexpr int exit_interrupted = 130;

}  // namespace plimsoll::cli
