// A node's answer of the schema, from its cache on disk, as the SDK shows it.
#pragma once

#include "client/operator.h"
#include "schema/operator.capnp.h"

namespace plimsoll::client {

NodeCache read(schema::NodeCacheAnswer::Reader in);
void write(const CachePurge& in, schema::CachePurge::Builder out);
// Absent: as the nodes are configured.
void write(const std::string& kind, const std::optional<std::chrono::milliseconds>& ttl,
           schema::CacheTtl::Builder out);

}  // namespace plimsoll::client
