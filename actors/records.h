// The cluster's records as bytes and back (schema/records.capnp).
//
// What is decoded was checked as what is written is: a record that breaks a rule gives `malformed`,
// one of a newer build `unsupported`.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "actors/directory.h"
#include "cluster/lease.h"
#include "cluster/tenant.h"
#include "engine/base/result.h"

namespace plimsoll {

struct JoinToken {
  std::uint64_t created_s = 0;
  std::uint64_t expires_s = 0;
  bool operator==(const JoinToken&) const = default;
};
// A router's record as it is stored: with the lease under which it was written.
struct RouterEntry {
  RouterRecord router;
  std::uint64_t lease = 0;
  bool operator==(const RouterEntry&) const = default;
};
using UsageByTenant = std::map<std::string, cluster::Usage>;

// Errors: invalid_argument, with the parameter at fault.
Result<void> check(const cluster::Tenant& tenant);
Result<void> check(const NodeRecord& node);
Result<void> check_node_name(const std::string& name);
Result<void> check(const ModelPlacement& placement);
Result<void> check(const RouterRecord& router);

std::string encode(const cluster::Tenant& tenant);
std::string encode(const NodeRecord& node);
std::string encode(const ModelPlacement& placement);
std::string encode(const JoinToken& token);
std::string encode(const RouterEntry& entry);
std::string encode(const UsageByTenant& usage);
std::string encode(const cluster::QuotaLease& lease);
// Of a tenant as a configuration says it, to be compared: the same bytes from every build to which
// it means the same, which encode() does not promise.
std::string canonical(const cluster::Tenant& tenant);

Result<cluster::Tenant> decode_tenant(std::string_view bytes);
Result<NodeRecord> decode_node(std::string_view bytes);
Result<ModelPlacement> decode_placement(std::string_view bytes);
Result<JoinToken> decode_join_token(std::string_view bytes);
Result<RouterEntry> decode_router(std::string_view bytes);
Result<UsageByTenant> decode_usage(std::string_view bytes);
Result<cluster::QuotaLease> decode_quota_lease(std::string_view bytes);

}  // namespace plimsoll
