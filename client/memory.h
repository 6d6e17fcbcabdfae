// A memory report of the schema as the SDK shows it.
#pragma once

#include "client/client.h"
#include "schema/memory.capnp.h"

namespace plimsoll::client {

Memory read(schema::MemoryReport::Reader in);

}  // namespace plimsoll::client
