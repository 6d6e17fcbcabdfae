// The registry actor: which models there are, in which version, and how far each is. What is ready
// goes to the board.
#pragma once

#include <memory>

#include "actors/board.h"
#include "actors/messages.h"

namespace plimsoll {

RegistryActor spawn_registry(caf::actor_system& system, std::shared_ptr<Board> board);

}  // namespace plimsoll
