// What several verbs show, as documents: JSON's or YAML's fields have their units in their names.
#pragma once

#include <nlohmann/json.hpp>
#include <vector>

#include "client/operator.h"

namespace plimsoll::cli {

using Json = nlohmann::ordered_json;

Json to_json(const client::ClusterNode& node);
Json to_json(const std::vector<client::ClusterNode>& nodes);
Json to_json(const client::ClusterView& view);
Json to_json(const client::TenantView& view);
Json to_json(const std::vector<client::TenantView>& tenants);

}  // namespace plimsoll::cli
