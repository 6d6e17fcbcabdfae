#include "actors/gateway/console.h"

#include <openssl/evp.h>

#include <array>
#include <charconv>
#include <nlohmann/json.hpp>

namespace plimsoll {

extern const char* const console_html;

namespace {

using Json = nlohmann::json;

// "'sha256-...'" of what stands between the tags: how a policy names the one script it trusts.
std::string source_of(std::string_view page, std::string_view begin, std::string_view end) {
  const auto first = page.find(begin) + begin.size();
  const auto text = page.substr(first, page.find(end, first) - first);
  std::array<unsigned char, EVP_MAX_MD_SIZE> hash{};
  unsigned int length = 0;
  EVP_Digest(text.data(), text.size(), hash.data(), &length, EVP_sha256(), nullptr);
  std::array<unsigned char, 2 * EVP_MAX_MD_SIZE> base64{};
  EVP_EncodeBlock(base64.data(), hash.data(), static_cast<int>(length));
  return std::string("'sha256-") + reinterpret_cast<const char*>(base64.data()) + "'";
}

Json to_json(const HistoryPoint& point) {
  Json components = Json::object();
  for (int i = 0; i < component_count; ++i) {
    const auto bytes = point.components[static_cast<std::size_t>(i)];
    if (bytes > 0) components[std::string(to_string(static_cast<Component>(i)))] = bytes;
  }
  if (point.unattributed_bytes > 0) components["unattributed"] = point.unattributed_bytes;
  Json tenants = Json::array();
  for (const auto& [name, bytes] : point.tenants) tenants.push_back({name, bytes});
  Json disk_kinds = Json::object();
  Json disk_hits = Json::object();
  for (std::size_t i = 0; i < storage::cache_kind_count; ++i) {
    const std::string kind(to_string(static_cast<storage::CacheKind>(i)));
    if (point.disk_bytes[i] > 0) disk_kinds[kind] = point.disk_bytes[i];
    if (point.disk_hit_percent[i]) disk_hits[kind] = *point.disk_hit_percent[i];
  }
  Json disk_tenants = Json::array();
  for (const auto& [name, bytes] : point.disk_tenants) disk_tenants.push_back({name, bytes});
  Json out = {{"id", point.id},
              {"t", point.unix_seconds},
              {"level", static_cast<int>(point.pressure)},
              {"used", point.used_bytes},
              {"limit", point.limit_bytes},
              {"waiting", point.waiting},
              {"running", point.running},
              {"tokens", point.tokens_per_second},
              {"mapped", point.mapped_bytes},
              {"components", std::move(components)},
              {"tenants", std::move(tenants)},
              {"others", point.other_tenants_bytes},
              {"disk",
               {{"kinds", std::move(disk_kinds)},
                {"hits", std::move(disk_hits)},
                {"tenants", std::move(disk_tenants)},
                {"others", point.other_disk_tenants_bytes}}}};
  if (point.stall_percent) out["stall"] = *point.stall_percent;
  return out;
}

Json to_json(const cluster::Event& event) {
  return {{"id", event.id},
          {"t", event.unix_seconds},
          {"node", event.node},
          {"kind", std::string(to_string(event.kind))},
          {"level", static_cast<int>(event.level)},
          {"tenant", event.tenant},
          {"model", event.model},
          {"cause", event.cause},
          {"bytes", event.bytes},
          {"count", event.count}};
}

Json to_json(const NodeStatus& node) {
  std::uint32_t waiting = 0;
  std::uint32_t running = 0;
  Json models = Json::array();
  for (const auto& [name, stats] : node.models) {
    waiting += stats.waiting;
    running += stats.running;
    models.push_back(name);
  }
  return {{"name", node.name},
          {"state", node.state},
          {"level", static_cast<int>(node.pressure)},
          {"used", node.memory_used_bytes},
          {"limit", node.memory_limit_bytes},
          {"waiting", waiting},
          {"running", running},
          {"tokens", node.tokens_per_second},
          {"models", std::move(models)}};
}

}  // namespace

HttpResponse console_page() {
  static const std::string policy = [] {
    return "default-src 'none'; script-src " + source_of(console_html, "<script>", "</script>") +
           "; style-src " + source_of(console_html, "<style>", "</style>") +
           "; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
           "frame-ancestors 'none'";
  }();
  HttpResponse response;
  response.body = console_html;
  response.content_type = "text/html; charset=utf-8";
  response.headers = {{"Content-Security-Policy", policy},
                      {"X-Content-Type-Options", "nosniff"},
                      {"Referrer-Policy", "no-referrer"},
                      {"Cache-Control", "no-cache"}};
  return response;
}

Result<ConsoleQuery> parse_console_query(std::string_view target) {
  ConsoleQuery query;
  const auto mark = target.find('?');
  if (mark == std::string_view::npos) return query;
  for (std::string_view rest = target.substr(mark + 1); !rest.empty();) {
    const auto field = rest.substr(0, rest.find('&'));
    rest.remove_prefix(std::min(rest.size(), field.size() + 1));
    const auto equals = std::min(field.find('='), field.size());
    const auto name = field.substr(0, equals);
    std::uint64_t* out = name == "after"   ? &query.after_point
                         : name == "event" ? &query.after_event
                                           : nullptr;
    const char* const end = field.data() + field.size();
    const char* const begin = std::min(end, field.data() + equals + 1);
    if (out == nullptr) {
      return fail(ErrorCode::invalid_argument, "the query may have 'after' and 'event'");
    }
    if (const auto read = std::from_chars(begin, end, *out);
        begin == end || read.ec != std::errc() || read.ptr != end) {
      return fail(Error(ErrorCode::invalid_argument, "'" + std::string(name) + "' must be a number")
                      .with_param(std::string(name)));
    }
  }
  return query;
}

std::string console_json(const ConsoleView& view, const ClusterStatus& status) {
  Json points = Json::array();
  for (const auto& point : view.points) points.push_back(to_json(point));
  Json events = Json::array();
  for (const auto& event : view.events) events.push_back(to_json(event));
  Json nodes = Json::array();
  for (const auto& node : status.nodes) nodes.push_back(to_json(node));
  const Json out = {{"version", status.version},
                    {"uptime", status.uptime_seconds},
                    {"interval", history_interval.count()},
                    {"points", std::move(points)},
                    {"events", std::move(events)},
                    {"nodes", std::move(nodes)}};
  return out.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace plimsoll
