// The kinds of stores, for tests of what must hold with each.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "storage/state_store.h"

namespace plimsoll::storage {

// A store, empty, and what it needs to live.
struct Opened {
  std::shared_ptr<void> needs;
  std::unique_ptr<StateStore> store;
};
struct Kind {
  std::string name;
  std::function<Opened()> open;  // no store: skip
  std::chrono::milliseconds short_lease;
};
void PrintTo(const Kind& kind, std::ostream* out);

std::vector<Kind> kinds_of_store();

}  // namespace plimsoll::storage
