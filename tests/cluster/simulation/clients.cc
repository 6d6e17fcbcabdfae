#include "tests/cluster/simulation/clients.h"

#include <algorithm>

#include "tests/cluster/simulation/router_process.h"

namespace plimsoll::simulation {
namespace {

constexpr std::uint32_t first_credit = 16;
constexpr std::uint32_t most_attempts = 30;

}  // namespace

void Clients::ask(const Wish& wish, std::function<void()> then) {
  auto stream = std::make_shared<ClientStream>();
  stream->number = next_stream_++;
  stream->tenant = wish.tenant;
  stream->model = wish.model;
  stream->prompt_tokens = wish.prompt_tokens;
  stream->most_generated = wish.length;
  stream->prefix = wish.prefix;
  stream->deadline = world_.now() + wish.deadline_s;
  stream->router = wish.router;
  stream->slow = wish.slow;
  stream->attempts = wish.retries ? 0 : most_attempts;
  stream->then = std::move(then);
  for (std::uint32_t i = 0; i < wish.sequences; ++i) {
    const auto length = wish.length - static_cast<std::uint32_t>(world_.below(wish.length / 2 + 1));
    stream->sequences.push_back({world_.below(~0ULL), length, 0, 0, false});
  }
  ++counts_.streams;
  ++open_;
  streams_[stream->number] = stream;
  if (wish.cancel_after > 0) {
    world_.in(wish.cancel_after, [this, stream] {
      stream->cancelled = true;
      for (const auto& sequence : stream->sequences) {
        if (!sequence.ended && ids_.contains(sequence.id)) {
          routers_[stream->router]->cancel(sequence.id);
        }
      }
    });
  }
  constexpr double grace_s = 6;  // of the router, and for what is on its way
  world_.in(wish.deadline_s + grace_s, [this, stream] {
    for (const auto& sequence : stream->sequences) {
      world_.require(sequence.ended || !ids_.contains(sequence.id),
                     "stream {} of router {} goes on after its deadline", stream->number,
                     stream->router);
    }
  });
  submit(stream);
}

void Clients::submit(const std::shared_ptr<ClientStream>& stream) {
  if (!routers_[stream->router]->up()) return go_on(stream);
  for (std::size_t i = 0; i < stream->sequences.size(); ++i) {
    auto& sequence = stream->sequences[i];
    if (sequence.ended) continue;
    sequence.id = next_id_++;
    ids_[sequence.id] = {stream, i};
  }
  routers_[stream->router]->submit(stream);
}

// At another router, behind what was received; or not at all.
void Clients::go_on(const std::shared_ptr<ClientStream>& stream) {
  for (auto& sequence : stream->sequences) {
    ids_.erase(sequence.id);
    sequence.id = 0;
  }
  const double delay = world_.between(0.05, 0.5);
  world_.in(delay, [this, stream] {
    if (!streams_.contains(stream->number)) return;
    if (stream->cancelled || world_.now() >= stream->deadline) {
      return fail_all(stream, stream->cancelled ? "cancelled" : "deadline");
    }
    for (std::size_t i = 1; i <= routers_.size(); ++i) {
      const std::size_t other = (stream->router + i) % routers_.size();
      if (!routers_[other]->up()) continue;
      stream->router = other;
      ++counts_.resumed;
      return submit(stream);
    }
    go_on(stream);
  });
}

void Clients::tokens(cluster::SequenceId id, const std::vector<std::int32_t>& tokens) {
  const auto it = ids_.find(id);
  if (it == ids_.end()) return;  // an attempt that it has left
  const auto [stream, index] = it->second;
  auto& sequence = stream->sequences[index];
  for (const auto token : tokens) {
    world_.require(sequence.received < sequence.length, "stream {} gets more tokens than its {}",
                   stream->number, sequence.length);
    world_.require(token == token_at(sequence.seed, sequence.received),
                   "stream {} gets a wrong token at {}: lost, doubled or out of order",
                   stream->number, sequence.received);
    ++sequence.received;
  }
  counts_.tokens += tokens.size();
  received_[stream->tenant] += tokens.size();
  const auto count = static_cast<std::uint32_t>(tokens.size());
  if (count == 0) return;
  if (!stream->slow) return credit(stream, index, count);
  world_.in(world_.exponential(0.5), [this, stream = stream, index = index, count, id] {
    if (stream->sequences[index].id == id) credit(stream, index, count);
  });
}

void Clients::credit(const std::shared_ptr<ClientStream>& stream, std::size_t index,
                     std::uint32_t tokens) {
  routers_[stream->router]->add_credit(stream->sequences[index].id, tokens);
}

void Clients::ended(cluster::SequenceId id, End how) {
  const auto it = ids_.find(id);
  if (it == ids_.end()) return;
  const auto [stream, index] = it->second;
  auto& sequence = stream->sequences[index];
  const char* reason = nullptr;
  switch (how) {
    case End::complete:
      world_.require(sequence.received == sequence.length,
                     "stream {} is told it is complete at {} of {}", stream->number,
                     sequence.received, sequence.length);
      ++counts_.complete;
      return end(stream, index);
    case End::cancelled:
      world_.require(stream->cancelled, "stream {} was cancelled, not by its client",
                     stream->number);
      reason = "cancelled";
      break;
    case End::deadline:
      world_.require(world_.now() >= stream->deadline - 0.01, "stream {} ends before its deadline",
                     stream->number);
      reason = "deadline";
      break;
    case End::exhausted:
      world_.require(
          sequence.received == 0 || stream->cancelled || world_.now() >= stream->deadline - 0.01,
          "stream {} is cut after {} tokens for want of room", stream->number, sequence.received);
      reason = "exhausted";
      break;
    case End::node_lost: reason = "node_lost"; break;
    case End::no_node: reason = "no_node"; break;
    case End::stopped: return;  // the whole router stops: its clients go on together
  }
  ++counts_.failed;
  ++counts_.reasons[reason];
  world_.trace("stream {} ends at {} of {}: {}", stream->number, sequence.received, sequence.length,
               reason);
  end(stream, index);
}

void Clients::end(const std::shared_ptr<ClientStream>& stream, std::size_t index) {
  auto& sequence = stream->sequences[index];
  ids_.erase(sequence.id);
  sequence.ended = true;
  const bool all = std::ranges::all_of(stream->sequences, [](const auto& s) { return s.ended; });
  if (!all) return;
  streams_.erase(stream->number);
  --open_;
  if (stream->then) stream->then();
}

void Clients::fail_all(const std::shared_ptr<ClientStream>& stream, const std::string& reason) {
  for (std::size_t i = 0; i < stream->sequences.size(); ++i) {
    if (stream->sequences[i].ended) continue;
    ++counts_.failed;
    ++counts_.reasons[reason];
    end(stream, i);
  }
}

void Clients::refused(const std::shared_ptr<ClientStream>& stream, std::uint32_t attempt,
                      const char* reason, double retry_after_s) {
  if (attempt != stream->attempts || !streams_.contains(stream->number)) return;
  ++counts_.refused;
  ++counts_.reasons[reason];
  for (const auto& sequence : stream->sequences) ids_.erase(sequence.id);
  const bool begun =
      std::ranges::any_of(stream->sequences, [](const auto& s) { return s.received > 0; });
  const bool over = !begun && stream->attempts >= most_attempts;
  if (over || retry_after_s <= 0 || stream->cancelled || world_.now() >= stream->deadline) {
    return fail_all(stream, reason);
  }
  ++stream->attempts;
  world_.in(retry_after_s, [this, stream] {
    if (streams_.contains(stream->number)) submit(stream);
  });
}

void Clients::router_gone(std::size_t router) {
  std::vector<std::shared_ptr<ClientStream>> theirs;
  for (const auto& [number, stream] : streams_) {
    const bool there =
        stream->router == router && std::ranges::any_of(stream->sequences, [this](const auto& s) {
          return !s.ended && ids_.contains(s.id);
        });
    if (there) theirs.push_back(stream);
  }
  for (const auto& stream : theirs) go_on(stream);
}

std::string Clients::oldest() const {
  if (streams_.empty()) return "none";
  const auto& stream = *streams_.begin()->second;
  return fmt::format("stream {} of {} at router {}, {} of {} tokens", stream.number, stream.tenant,
                     stream.router, stream.sequences.front().received,
                     stream.sequences.front().length);
}

}  // namespace plimsoll::simulation
