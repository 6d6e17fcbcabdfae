// The picture that `plimsoll top` shows.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "client/operator.h"

namespace plimsoll::cli {

// Totals, nodes, and the tenants that get most first.
std::string top_picture(const client::ClusterView& view, std::vector<client::TenantView> tenants);

// What fits of a UTF-8 text into a window.
std::string crop(const std::string& text, std::size_t columns, std::size_t lines);

}  // namespace plimsoll::cli
