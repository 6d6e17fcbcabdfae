// The operator's console: a page without secrets, and the figures that it asks for.
#pragma once

#include <string>

#include "actors/frontend.h"
#include "actors/gateway/http_connection.h"
#include "engine/base/result.h"

namespace plimsoll {

// The page, with a Content-Security-Policy that lets its own script and style run and nothing
// else: no other host is asked for anything.
HttpResponse console_page();

// Of the target of GET /console/data?after=POINT&event=EVENT; what is absent is 0.
// Errors: invalid_argument.
Result<ConsoleQuery> parse_console_query(std::string_view target);
std::string console_json(const ConsoleView& view, const ClusterStatus& status);

}  // namespace plimsoll
