// Nodes, and the tokens that let them join.
#include <chrono>

#include "actors/directory_impl.h"
#include "actors/secrets.h"

namespace plimsoll {
namespace {

constexpr std::size_t max_join_tokens = 1000;
constexpr std::size_t token_id_characters = 12;

Error no_node(const std::string& name) {
  return {ErrorCode::not_found, "no node named '" + name + "' has joined"};
}

}  // namespace
Result<std::string> Directory::create_join_token(std::uint64_t now_s, std::uint64_t ttl_s) {
  if (ttl_s == 0 || ttl_s > Impl::max_token_ttl_s) {
    return fail(Error(ErrorCode::invalid_argument, "a join token lasts 1 second to 30 days")
                    .with_param("ttl"));
  }
  const auto tokens = join_tokens();
  if (!tokens) return fail(tokens.error());
  if (tokens->size() >= max_join_tokens) {
    return fail(ErrorCode::resource_exhausted,
                std::to_string(max_join_tokens) + " join tokens wait to be used; revoke some");
  }
  const auto token = make_secret("plj-");
  if (!token) return token;
  // The lease only sweeps up: what counts is the time in the record.
  const auto lease = impl_->store->grant(std::chrono::seconds(ttl_s));
  if (!lease) return fail(lease.error());
  const auto put = impl_->store->put(Impl::tokens_prefix + sha256_hex(*token),
                                     encode(JoinToken{now_s, now_s + ttl_s}), 0, *lease);
  if (!put) return fail(put.error());
  return token;
}

Result<std::vector<Directory::JoinTokenInfo>> Directory::join_tokens() const {
  const auto entries = impl_->store->list(Impl::tokens_prefix);
  if (!entries) return fail(entries.error());
  std::vector<JoinTokenInfo> out;
  for (const auto& entry : *entries) {
    const auto token = decode_join_token(entry.value);
    // One that cannot be read admits nobody; it is shown so that it can be revoked.
    out.push_back({entry.key.substr(Impl::tokens_prefix.size(), token_id_characters),
                   token ? token->expires_s : 0});
  }
  return out;
}

Result<void> Directory::revoke_join_token(const std::string& id) {
  const auto entries = impl_->store->list(Impl::tokens_prefix);
  if (!entries) return fail(entries.error());
  for (const auto& entry : *entries) {
    if (entry.key.substr(Impl::tokens_prefix.size(), token_id_characters) == id) {
      return impl_->store->remove(entry.key);
    }
  }
  return fail(ErrorCode::not_found, "no join token '" + id + "'; it may be spent or expired");
}

Result<std::string> Directory::admit_node(const std::string& node, const std::string& token,
                                          std::uint64_t now_s) {
  const Error refused(ErrorCode::permission_denied,
                      "the join token is unknown, spent or expired; make a new one");
  const Error exists(ErrorCode::already_exists, "a node named '" + node +
                                                    "' has joined before; remove it first, or "
                                                    "give this one another name");
  if (auto good = check_node_name(node); !good) return fail(good.error());
  const auto token_key = Impl::tokens_prefix + sha256_hex(token);
  const auto entry = impl_->store->get(token_key);
  if (!entry) return fail(entry.error());
  if (!*entry) return fail(refused);
  const auto record = decode_join_token((*entry)->value);
  if (!record) return fail(record.error());
  if (now_s >= record->expires_s) return fail(refused);
  const auto taken = impl_->store->get(DirectoryView::nodes_prefix + node);
  if (!taken) return fail(taken.error());
  if (*taken) return fail(exists);

  const auto secret = make_secret("pln-");
  if (!secret) return secret;
  // Spent first: a crash in between costs a token, and lets nobody in twice.
  const auto spent = impl_->store->remove(token_key, (*entry)->revision);
  if (!spent) return fail(is_conflict(spent.error()) ? refused : spent.error());
  const auto put =
      impl_->put_new(DirectoryView::nodes_prefix + node,
                     encode(NodeRecord{node, sha256_hex(*secret), false, now_s}), exists);
  if (!put) return fail(put.error());
  return secret;
}

Result<std::string> Directory::welcome_node(const std::string& node, std::uint64_t now_s) {
  if (auto good = check_node_name(node); !good) return fail(good.error());
  const auto secret = make_secret("pln-");
  if (!secret) return secret;
  const auto welcomed = impl_->update<NodeRecord>(
      DirectoryView::nodes_prefix + node, decode_node,
      [&](std::optional<NodeRecord>& record) -> Result<void> {
        if (!record) record = NodeRecord{.name = node, .secret_sha256 = {}, .joined_s = now_s};
        record->secret_sha256 = sha256_hex(*secret);
        return {};
      });
  if (!welcomed) return fail(welcomed.error());
  return secret;
}

bool Directory::check_node(const std::string& node, std::string_view secret) const {
  return impl_->view.check_node(node, secret);
}

std::vector<NodeRecord> Directory::nodes() const { return impl_->view.nodes(); }

Result<void> Directory::set_cordoned(const std::string& node, bool cordoned) {
  const auto changed =
      impl_->change<NodeRecord>(DirectoryView::nodes_prefix + node, decode_node, no_node(node),
                                [&](NodeRecord& record) -> Result<void> {
                                  record.cordoned = cordoned;
                                  return {};
                                });
  if (!changed) return fail(changed.error());
  return {};
}

Result<void> Directory::set_drain(const std::string& node, std::uint64_t until_ms) {
  const auto changed =
      impl_->change<NodeRecord>(DirectoryView::nodes_prefix + node, decode_node, no_node(node),
                                [&](NodeRecord& record) -> Result<void> {
                                  record.drain_until_ms = until_ms;
                                  return {};
                                });
  if (!changed) return fail(changed.error());
  return {};
}

Result<void> Directory::remove_node(const std::string& node) {
  return impl_->remove(DirectoryView::nodes_prefix + node, no_node(node));
}

}  // namespace plimsoll
