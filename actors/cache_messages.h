// Calls to a node's cache on disk and its answers as messages of the schema (schema/cache.capnp).
#pragma once

#include "actors/cache_calls.h"
#include "engine/base/result.h"
#include "schema/cache.capnp.h"

namespace plimsoll {

void write(const storage::CachePurge& what, schema::CachePurge::Builder out);
void write(const SetCacheTtl& order, schema::CacheTtl::Builder out);
void write(const CacheAnswer& answer, schema::CacheAnswer::Builder out);

// Errors: invalid_argument, with the parameter at fault.
Result<storage::CacheKind> read_cache_kind(capnp::Text::Reader name);
Result<storage::CachePurge> read(schema::CachePurge::Reader in);
Result<SetCacheTtl> read(schema::CacheTtl::Reader in);
// Rows of a kind that is not known here are left out.
CacheAnswer read(schema::CacheAnswer::Reader in);

}  // namespace plimsoll
