// The operator's API as messages of the schema: what a cluster shows of itself, and what an
// operator asks of it.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "actors/administration.h"
#include "actors/frontend.h"
#include "engine/base/result.h"
#include "engine/memory/process_memory.h"
#include "schema/operator.capnp.h"

namespace plimsoll {

void write(const ClusterStatus& status, schema::Status::Builder out);
void write(const NodeMemory& memory, schema::NodeMemory::Builder out);
void write(const ClusterView& view, schema::ClusterView::Builder out);
void write(const TenantView& view, schema::TenantView::Builder out);
void write(const NodeCacheAnswer& answer, schema::NodeCacheAnswer::Builder out);
void write(const Move& move, schema::Move::Builder out);
void write(const JoinTokenView& token, schema::JoinToken::Builder out);
void write(const ModelView& model, schema::PlacedModel::Builder out);
void write(const cluster::Event& event, schema::Event::Builder out);
void write(const std::string& tenant, const cluster::Usage& usage,
           schema::TenantUsage::Builder out);

// Errors: invalid_argument (a tier this build does not know; a rate that is no number or below 0).
Result<cluster::Tier> read(schema::Tier tier);
Result<cluster::Quota> read(schema::Quota::Reader in);
Result<cluster::Tenant> read(schema::Tenant::Reader in);               // without keys
Result<cluster::EventLog::Query> read(schema::EventQuery::Reader in);  // nor a kind of event
std::vector<std::string> read(capnp::List<capnp::Text>::Reader in);

}  // namespace plimsoll
