#include "actors/cache_calls.h"

#include <utility>

namespace plimsoll {

CacheAnswer refusal(Error error) {
  CacheAnswer answer;
  answer.error = std::move(error);
  return answer;
}

}  // namespace plimsoll
