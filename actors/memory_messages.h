// A memory report as a message of the schema: to an operator, and from a node to its routers.
#pragma once

#include "engine/memory/process_memory.h"
#include "schema/memory.capnp.h"

namespace plimsoll {

void write(const MemoryReport& report, schema::MemoryReport::Builder out);
MemoryReport read(schema::MemoryReport::Reader in);

}  // namespace plimsoll
