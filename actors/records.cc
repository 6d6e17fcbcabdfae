#include "actors/records.h"

#include <capnp/message.h>
#include <capnp/serialize-packed.h>
#include <kj/exception.h>
#include <kj/io.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include "actors/cache_policy.h"
#include "schema/records.capnp.h"
#include "storage/disk_cache.h"

namespace plimsoll {
namespace {

constexpr std::size_t max_name_bytes = 63;
constexpr std::size_t max_model_bytes = 256;
constexpr std::size_t max_source_bytes = 4096;
constexpr std::size_t max_list = 4096;
constexpr std::size_t max_address_bytes = 1024;
constexpr std::size_t max_software_bytes = 256;
// A packed message may promise a thousandfold of its own size.
constexpr std::uint64_t max_unpacked_words = 1 << 20;

// ---- rules

bool is_name(std::string_view name, bool upper) {
  const auto is_letter_or_digit = [&](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || (upper && c >= 'A' && c <= 'Z');
  };
  return !name.empty() && name.size() <= max_name_bytes && is_letter_or_digit(name[0]) &&
         std::all_of(name.begin(), name.end(), [&](char c) {
           return is_letter_or_digit(c) || c == '_' || c == '.' || c == '-';
         });
}

bool is_model(std::string_view model) {
  return !model.empty() && model.size() <= max_model_bytes &&
         std::all_of(model.begin(), model.end(),
                     [](char c) { return static_cast<unsigned char>(c) > 0x20 && c != 0x7f; });
}

bool is_sha256(std::string_view hex) {
  return hex.size() == 64 && std::all_of(hex.begin(), hex.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

tl::unexpected<Error> refuse(const char* param, std::string message) {
  return fail(Error(ErrorCode::invalid_argument, std::move(message)).with_param(param));
}

// ---- messages

std::string bytes_of(capnp::MessageBuilder& message) {
  kj::VectorOutputStream out;
  capnp::writePackedMessage(out, message);
  const auto bytes = out.getArray().asChars();
  return std::string(bytes.begin(), bytes.size());
}

// `read` gets the record's reader and returns a Result.
template <class Record, class Read>
auto read_record(const char* what, std::string_view bytes, const Read& read)
    -> decltype(read(std::declval<typename Record::Reader>())) {
  try {
    kj::ArrayInputStream in(
        kj::arrayPtr(reinterpret_cast<const kj::byte*>(bytes.data()), bytes.size()));
    capnp::ReaderOptions options;
    options.traversalLimitInWords = max_unpacked_words;
    options.nestingLimit = 8;
    std::optional<decltype(read(std::declval<typename Record::Reader>()))> out;
    {
      capnp::PackedMessageReader message(in, options);
      out = read(message.getRoot<Record>());
    }  // throws where the rest of the message is broken
    if (!*out && out->error().code == ErrorCode::invalid_argument) {
      return fail(ErrorCode::malformed,
                  std::string("a stored ") + what + ": " + out->error().message);
    }
    return std::move(*out);
  } catch (const kj::Exception& exception) {
    return fail(ErrorCode::malformed,
                std::string("a stored ") + what + ": " + exception.getDescription().cStr());
  }
}

capnp::Text::Reader reader(const std::string& from) { return {from.c_str(), from.size()}; }
std::string text(capnp::Text::Reader from) { return {from.begin(), from.size()}; }

template <class List>
void set_texts(List list, const std::vector<std::string>& from) {
  for (unsigned i = 0; i < from.size(); ++i) list.set(i, reader(from[i]));
}
std::vector<std::string> texts(capnp::List<capnp::Text>::Reader from) {
  std::vector<std::string> out;
  for (const auto item : from) out.push_back(text(item));
  return out;
}

}  // namespace

Result<void> check(const cluster::Tenant& tenant) {
  if (!is_name(tenant.name, false)) {
    return refuse("name",
                  "a tenant's name has 1 to 63 of a-z, 0-9, '_', '.' and '-', and starts "
                  "with a letter or digit");
  }
  const auto& quota = tenant.quota;
  const std::pair<const char*, double> rates[] = {
      {"requests_per_second", quota.requests_per_second},
      {"prompt_tokens_per_second", quota.prompt_tokens_per_second},
      {"generated_tokens_per_second", quota.generated_tokens_per_second}};
  for (const auto& [name, rate] : rates) {
    if (!std::isfinite(rate) || rate < 0) {
      return refuse(name, std::string(name) + " is a number of 0 (no limit) or more");
    }
  }
  if (!std::isfinite(quota.burst_seconds) || quota.burst_seconds <= 0) {
    return refuse("burst_seconds", "burst_seconds is a number over 0");
  }
  if (quota.sequences == 0) {
    return refuse("sequences", "sequences is 1 or more; suspend a tenant that shall have none");
  }
  if (quota.models.size() > max_list ||
      !std::all_of(quota.models.begin(), quota.models.end(), is_model)) {
    return refuse("models", "models are at most 4096 names of 1 to 256 printable bytes");
  }
  for (const auto& ttl : tenant.cache.ttl_ms) {
    if (ttl && std::chrono::milliseconds(*ttl) > storage::longest_cache_ttl) {
      return refuse("ttl", "a TTL of the cache on disk is 30 days at most");
    }
  }
  for (const auto& key : tenant.keys) {
    if (!is_sha256(key.sha256)) {
      return refuse("keys", "a key is kept as the 64 lower-case hex digits of its SHA-256");
    }
  }
  if (!tenant.declared.empty() && !is_sha256(tenant.declared)) {
    return refuse("declared", "what was declared is kept as the 64 hex digits of its SHA-256");
  }
  return {};
}

Result<void> check_node_name(const std::string& name) {
  if (!is_name(name, true)) {
    return refuse("node",
                  "a node's name has 1 to 63 letters, digits, '_', '.' and '-', and starts "
                  "with a letter or digit");
  }
  return {};
}

Result<void> check(const NodeRecord& node) {
  if (auto good = check_node_name(node.name); !good) return good;
  if (!is_sha256(node.secret_sha256)) {
    return refuse("secret", "a node's secret is kept as the 64 hex digits of its SHA-256");
  }
  return {};
}

Result<void> check(const ModelPlacement& placement) {
  if (!is_model(placement.model)) {
    return refuse("model", "a model's name has 1 to 256 printable bytes and no space");
  }
  if (placement.source.empty() || placement.source.size() > max_source_bytes ||
      placement.source.find('\0') != std::string::npos) {
    return refuse("source", "a model's source is a path or a name of 1 to 4096 bytes");
  }
  if (placement.nodes.size() > max_list ||
      !std::all_of(placement.nodes.begin(), placement.nodes.end(),
                   [](const auto& node) { return is_name(node, true); })) {
    return refuse("nodes", "nodes are at most 4096 names of nodes");
  }
  return {};
}

Result<void> check(const RouterRecord& router) {
  if (auto good = check_node_name(router.name); !good) return good;
  if (router.address.size() > max_address_bytes) {
    return refuse("address", "a router's address has at most 1024 bytes");
  }
  if (router.software.size() > max_software_bytes) {
    return refuse("software", "the name of a router's software has at most 256 bytes");
  }
  if (!std::isfinite(router.tokens_per_second) || router.tokens_per_second < 0) {
    return refuse("tokens_per_second", "tokens_per_second is a number of 0 or more");
  }
  return {};
}

// ---- tenants

namespace {

void write(const cluster::Tenant& tenant, schema::TenantRecord::Builder out) {
  out.setName(reader(tenant.name));
  out.setTier(static_cast<schema::TenantRecord::Tier>(tenant.tier));
  out.setSuspended(tenant.suspended);
  out.setIsOperator(tenant.is_operator);
  out.setNoStore(tenant.cache.no_store);
  write_cache_policy(tenant.cache, out);
  auto keys = out.initKeys(tenant.keys.size());
  for (unsigned i = 0; i < tenant.keys.size(); ++i) {
    keys[i].setSha256(reader(tenant.keys[i].sha256));
    keys[i].setCreatedS(tenant.keys[i].created_s);
    keys[i].setExpiresS(tenant.keys[i].expires_s);
  }
  const auto& from = tenant.quota;
  auto quota = out.initQuota();
  quota.setRequestsPerSecond(from.requests_per_second);
  quota.setPromptTokensPerSecond(from.prompt_tokens_per_second);
  quota.setGeneratedTokensPerSecond(from.generated_tokens_per_second);
  quota.setBurstSeconds(from.burst_seconds);
  quota.setSequences(from.sequences);
  quota.setKvBytes(from.kv_bytes);
  quota.setGuaranteedBytes(from.guaranteed_bytes);
  quota.setBurstBytes(from.burst_bytes);
  quota.setCacheBytes(from.cache_bytes);
  quota.setPromptTokens(from.prompt_tokens);
  quota.setGeneratedTokens(from.generated_tokens);
  quota.setRequestTokens(from.request_tokens);
  quota.setDeadlineMs(from.deadline_ms);
  set_texts(quota.initModels(from.models.size()), from.models);
  if (!tenant.declared.empty()) out.setDeclared(reader(tenant.declared));
}

}  // namespace

std::string encode(const cluster::Tenant& tenant) {
  capnp::MallocMessageBuilder message;
  write(tenant, message.initRoot<schema::TenantRecord>());
  return bytes_of(message);
}

std::string canonical(const cluster::Tenant& tenant) {
  capnp::MallocMessageBuilder message;
  auto record = message.initRoot<schema::TenantRecord>();
  write(tenant, record);
  const auto words = capnp::canonicalize(record.asReader());
  const auto bytes = words.asChars();
  return std::string(bytes.begin(), bytes.size());
}

Result<cluster::Tenant> decode_tenant(std::string_view bytes) {
  using Record = schema::TenantRecord;
  const auto read = [](Record::Reader from) -> Result<cluster::Tenant> {
    cluster::Tenant out;
    out.name = text(from.getName());
    switch (from.getTier()) {
      case Record::Tier::GUARANTEED: out.tier = cluster::Tier::guaranteed; break;
      case Record::Tier::STANDARD: out.tier = cluster::Tier::standard; break;
      case Record::Tier::BEST_EFFORT: out.tier = cluster::Tier::best_effort; break;
      default:
        return fail(ErrorCode::unsupported,
                    "a stored tenant has a tier that this build does not know: run a newer one");
    }
    out.suspended = from.getSuspended();
    out.is_operator = from.getIsOperator();
    out.cache = read_cache_policy(from);
    out.cache.no_store = from.getNoStore();
    for (const auto key : from.getKeys()) {
      out.keys.push_back({text(key.getSha256()), key.getCreatedS(), key.getExpiresS()});
    }
    const auto quota = from.getQuota();
    out.quota.requests_per_second = quota.getRequestsPerSecond();
    out.quota.prompt_tokens_per_second = quota.getPromptTokensPerSecond();
    out.quota.generated_tokens_per_second = quota.getGeneratedTokensPerSecond();
    out.quota.burst_seconds = quota.getBurstSeconds();
    out.quota.sequences = quota.getSequences();
    out.quota.kv_bytes = quota.getKvBytes();
    out.quota.guaranteed_bytes = quota.getGuaranteedBytes();
    out.quota.burst_bytes = quota.getBurstBytes();
    out.quota.cache_bytes = quota.getCacheBytes();
    out.quota.prompt_tokens = quota.getPromptTokens();
    out.quota.generated_tokens = quota.getGeneratedTokens();
    out.quota.request_tokens = quota.getRequestTokens();
    out.quota.deadline_ms = quota.getDeadlineMs();
    out.quota.models = texts(quota.getModels());
    out.declared = text(from.getDeclared());
    if (auto good = check(out); !good) return tl::unexpected(good.error());
    return out;
  };
  return read_record<Record>("tenant", bytes, read);
}

// ---- nodes, placements, join tokens

std::string encode(const NodeRecord& node) {
  capnp::MallocMessageBuilder message;
  auto out = message.initRoot<schema::NodeRecord>();
  out.setName(reader(node.name));
  out.setSecretSha256(reader(node.secret_sha256));
  out.setCordoned(node.cordoned);
  out.setJoinedS(node.joined_s);
  out.setDrainUntilMs(node.drain_until_ms);
  return bytes_of(message);
}

Result<NodeRecord> decode_node(std::string_view bytes) {
  const auto read = [](schema::NodeRecord::Reader from) -> Result<NodeRecord> {
    NodeRecord out{text(from.getName()), text(from.getSecretSha256()), from.getCordoned(),
                   from.getJoinedS(), from.getDrainUntilMs()};
    if (auto good = check(out); !good) return tl::unexpected(good.error());
    return out;
  };
  return read_record<schema::NodeRecord>("node", bytes, read);
}

std::string encode(const ModelPlacement& placement) {
  capnp::MallocMessageBuilder message;
  auto out = message.initRoot<schema::PlacementRecord>();
  out.setModel(reader(placement.model));
  out.setSource(reader(placement.source));
  set_texts(out.initNodes(placement.nodes.size()), placement.nodes);
  return bytes_of(message);
}

Result<ModelPlacement> decode_placement(std::string_view bytes) {
  const auto read = [](schema::PlacementRecord::Reader from) -> Result<ModelPlacement> {
    ModelPlacement out{text(from.getModel()), text(from.getSource()), texts(from.getNodes())};
    if (auto good = check(out); !good) return tl::unexpected(good.error());
    return out;
  };
  return read_record<schema::PlacementRecord>("placement", bytes, read);
}

std::string encode(const JoinToken& token) {
  capnp::MallocMessageBuilder message;
  auto out = message.initRoot<schema::JoinTokenRecord>();
  out.setCreatedS(token.created_s);
  out.setExpiresS(token.expires_s);
  return bytes_of(message);
}

Result<JoinToken> decode_join_token(std::string_view bytes) {
  const auto read = [](schema::JoinTokenRecord::Reader from) -> Result<JoinToken> {
    return JoinToken{from.getCreatedS(), from.getExpiresS()};
  };
  return read_record<schema::JoinTokenRecord>("join token", bytes, read);
}

// ---- routers

std::string encode(const RouterEntry& entry) {
  capnp::MallocMessageBuilder message;
  auto out = message.initRoot<schema::RouterRecord>();
  out.setName(reader(entry.router.name));
  out.setAddress(reader(entry.router.address));
  out.setSoftware(reader(entry.router.software));
  out.setStreams(entry.router.streams);
  out.setTokensPerSecond(entry.router.tokens_per_second);
  out.setLease(entry.lease);
  return bytes_of(message);
}

Result<RouterEntry> decode_router(std::string_view bytes) {
  const auto read = [](schema::RouterRecord::Reader from) -> Result<RouterEntry> {
    RouterEntry out{{text(from.getName()), text(from.getAddress()), text(from.getSoftware()),
                     from.getStreams(), from.getTokensPerSecond()},
                    from.getLease()};
    if (auto good = check(out.router); !good) return tl::unexpected(good.error());
    return out;
  };
  return read_record<schema::RouterRecord>("router", bytes, read);
}

// ---- usage

std::string encode(const UsageByTenant& usage) {
  capnp::MallocMessageBuilder message;
  auto entries = message.initRoot<schema::UsageRecord>().initTenants(usage.size());
  unsigned i = 0;
  for (const auto& [tenant, used] : usage) {
    auto out = entries[i++];
    out.setTenant(reader(tenant));
    out.setRequests(used.requests);
    out.setPromptTokens(used.prompt_tokens);
    out.setCachedTokens(used.cached_tokens);
    out.setGeneratedTokens(used.generated_tokens);
    out.setKvByteSeconds(used.kv_byte_seconds);
    out.setCacheByteSeconds(used.cache_byte_seconds);
    out.setWeightsByteSeconds(used.weights_byte_seconds);
    auto rejections = out.initRejections(used.rejections.size());
    unsigned j = 0;
    for (const auto& [reason, count] : used.rejections) {
      rejections[j].setReason(reader(reason));
      rejections[j++].setCount(count);
    }
  }
  return bytes_of(message);
}

Result<UsageByTenant> decode_usage(std::string_view bytes) {
  const auto read = [](schema::UsageRecord::Reader from) -> Result<UsageByTenant> {
    UsageByTenant out;
    for (const auto entry : from.getTenants()) {
      auto& used = out[text(entry.getTenant())];
      used.requests = entry.getRequests();
      used.prompt_tokens = entry.getPromptTokens();
      used.cached_tokens = entry.getCachedTokens();
      used.generated_tokens = entry.getGeneratedTokens();
      used.kv_byte_seconds = entry.getKvByteSeconds();
      used.cache_byte_seconds = entry.getCacheByteSeconds();
      used.weights_byte_seconds = entry.getWeightsByteSeconds();
      for (const double value :
           {used.kv_byte_seconds, used.cache_byte_seconds, used.weights_byte_seconds}) {
        if (!std::isfinite(value) || value < 0) {
          return refuse("kv_byte_seconds", "byte-seconds are no number of 0 or more");
        }
      }
      for (const auto rejection : entry.getRejections()) {
        used.rejections[text(rejection.getReason())] = rejection.getCount();
      }
    }
    return out;
  };
  return read_record<schema::UsageRecord>("usage", bytes, read);
}

// ---- quota leases

std::string encode(const cluster::QuotaLease& lease) {
  capnp::MallocMessageBuilder message;
  auto shares = message.initRoot<schema::QuotaLeaseRecord>().initShares(lease.shares.size());
  for (unsigned i = 0; i < lease.shares.size(); ++i) {
    shares[i].setRouter(reader(lease.shares[i].router));
    shares[i].setShare(lease.shares[i].share);
    shares[i].setDemand(lease.shares[i].demand);
    shares[i].setExpiresMs(lease.shares[i].expires_ms);
  }
  return bytes_of(message);
}

Result<cluster::QuotaLease> decode_quota_lease(std::string_view bytes) {
  const auto read = [](schema::QuotaLeaseRecord::Reader from) -> Result<cluster::QuotaLease> {
    cluster::QuotaLease out;
    for (const auto share : from.getShares()) {
      out.shares.push_back(
          {text(share.getRouter()), share.getShare(), share.getDemand(), share.getExpiresMs()});
      if (!(out.shares.back().share >= 0 && out.shares.back().share <= 1) ||
          !(out.shares.back().demand >= 0) || !std::isfinite(out.shares.back().demand)) {
        return refuse("share", "a share is of 0 to 1, a demand 0 or more");
      }
    }
    return out;
  };
  return read_record<schema::QuotaLeaseRecord>("quota lease", bytes, read);
}

}  // namespace plimsoll
