#include "actors/wire.h"

#include <capnp/message.h>
#include <capnp/serialize.h>
#include <kj/exception.h>

#include <cstring>

#include "actors/cache_messages.h"
#include "actors/cache_policy.h"
#include "actors/gateway/rpc_text.h"
#include "actors/memory_messages.h"
#include "schema/cluster.capnp.h"

namespace plimsoll::wire {
namespace {

using Finish = schema::Events::Finish;

template <class Builder, class T>
void fill(Builder list, const std::vector<T>& values) {
  for (std::size_t i = 0; i < values.size(); ++i) list.set(static_cast<unsigned>(i), values[i]);
}
template <class List, class T = std::int32_t>
std::vector<T> numbers(List list) {
  std::vector<T> out;
  out.reserve(list.size());
  for (const auto value : list) out.push_back(value);
  return out;
}

// ---- each way

void write(schema::Hello::Builder out, const Hello& in) {
  out.setProtocolOldest(in.protocols.oldest);
  out.setProtocolNewest(in.protocols.newest);
  out.setNode(text_of(in.node));
  out.setSoftware(text_of(in.software));
  out.setSecret(text_of(in.secret));
  out.setJoinToken(text_of(in.join_token));
  out.setWeight(in.weight);
}
Hello read(schema::Hello::Reader in) {
  Hello out;
  out.protocols.oldest = in.getProtocolOldest();
  out.protocols.newest = in.getProtocolNewest();
  out.node = string_of(in.getNode());
  out.software = string_of(in.getSoftware());
  out.secret = string_of(in.getSecret());
  out.join_token = string_of(in.getJoinToken());
  out.weight = in.getWeight();
  return out;
}

void write(schema::Welcome::Builder out, const Welcome& in) {
  out.setProtocol(in.protocol);
  out.setRouter(text_of(in.router));
  out.setSoftware(text_of(in.software));
  out.setEpoch(in.epoch);
  out.setHeartbeatMs(in.heartbeat_ms);
  out.setSecret(text_of(in.secret));
}
Welcome read(schema::Welcome::Reader in) {
  return {in.getProtocol(), string_of(in.getRouter()), string_of(in.getSoftware()),
          in.getEpoch(),    in.getHeartbeatMs(),       string_of(in.getSecret())};
}

void write(schema::GovernorEvent::Builder out, const cluster::Event& in) {
  out.setUnixSeconds(in.unix_seconds);
  out.setKind(static_cast<std::uint8_t>(in.kind));
  out.setLevel(static_cast<std::uint8_t>(in.level));
  out.setTenant(text_of(in.tenant));
  out.setModel(text_of(in.model));
  out.setCause(text_of(in.cause));
  out.setBytes(in.bytes);
  out.setCount(in.count);
  out.setUsedBytes(in.used_bytes);
  out.setLimitBytes(in.limit_bytes);
}
cluster::Event read(schema::GovernorEvent::Reader in) {
  cluster::Event out;
  out.unix_seconds = in.getUnixSeconds();
  out.kind = static_cast<cluster::EventKind>(in.getKind());
  out.level = static_cast<cluster::Level>(std::min<int>(in.getLevel(), 3));
  out.tenant = string_of(in.getTenant());
  out.model = string_of(in.getModel());
  out.cause = string_of(in.getCause());
  out.bytes = in.getBytes();
  out.count = in.getCount();
  out.used_bytes = in.getUsedBytes();
  out.limit_bytes = in.getLimitBytes();
  return out;
}

// A model in a report: its stats where it is ready, and how far it is.
void write(schema::Report::Builder out, const NodeReport& in) {
  out.setEpoch(in.epoch);
  out.setDraining(in.draining);
  out.setPressure(static_cast<std::uint8_t>(in.pressure));
  out.setMemoryUsedBytes(in.memory_used_bytes);
  out.setMemoryLimitBytes(in.memory_limit_bytes);
  out.setProbe(in.probe);
  out.setRouters(in.routers);
  if (in.memory) write(*in.memory, out.initMemory());
  auto events = out.initEvents(in.events.size());
  for (unsigned i = 0; i < events.size(); ++i) write(events[i], in.events[i]);
  auto models = out.initModels(in.replicas.size());
  for (unsigned i = 0; i < models.size(); ++i) {
    const auto& replica = in.replicas[i];
    auto m = models[i];
    m.setModel(text_of(replica.model));
    m.setVersion(text_of(replica.version));
    m.setError(text_of(replica.error));
    m.setPlaced(replica.placed);
    for (const auto& [name, s] : in.models) {
      if (name != replica.model) continue;
      m.setWaiting(s.waiting);
      m.setRunning(s.running);
      m.setPaused(s.paused);
      m.setKvBlocksTotal(s.kv_blocks_total);
      m.setKvBlocksUsed(s.kv_blocks_used);
      m.setKvBlocksCached(s.kv_blocks_cached);
      m.setStepsTotal(s.steps_total);
      m.setPromptTokensTotal(s.prompt_tokens_total);
      m.setCachedPromptTokensTotal(s.cached_prompt_tokens_total);
      m.setGeneratedTokensTotal(s.generated_tokens_total);
      m.setPreemptionsTotal(s.preemptions_total);
      m.setFinishedTotal(s.finished_total);
      m.setRefusedTotal(s.refused_total);
      m.setCancelledTotal(s.cancelled_total);
      m.setStepSecondsTotal(s.step_seconds_total);
      m.setRestoredTokensTotal(s.restored_tokens_total);
      m.setDraftedTokensTotal(s.drafted_tokens_total);
      m.setAcceptedDraftTokensTotal(s.accepted_draft_tokens_total);
    }
  }
}
NodeReport read(schema::Report::Reader in) {
  NodeReport out;
  out.epoch = in.getEpoch();
  out.draining = in.getDraining();
  out.pressure = static_cast<PressureLevel>(std::min<int>(in.getPressure(), 3));
  out.memory_used_bytes = in.getMemoryUsedBytes();
  out.memory_limit_bytes = in.getMemoryLimitBytes();
  out.probe = in.getProbe();
  out.routers = std::max(1U, in.getRouters());
  if (in.hasMemory()) out.memory = std::make_shared<MemoryReport>(plimsoll::read(in.getMemory()));
  for (const auto event : in.getEvents()) {
    if (out.events.size() == most_report_events) break;
    if (event.getKind() < cluster::event_kinds) out.events.push_back(read(event));
  }
  for (const auto m : in.getModels()) {
    out.replicas.push_back({string_of(m.getModel()), string_of(m.getVersion()),
                            string_of(m.getError()), m.getPlaced()});
    if (out.replicas.back().version.empty()) continue;
    EngineStats s;
    s.waiting = m.getWaiting();
    s.running = m.getRunning();
    s.paused = m.getPaused();
    s.kv_blocks_total = m.getKvBlocksTotal();
    s.kv_blocks_used = m.getKvBlocksUsed();
    s.kv_blocks_cached = m.getKvBlocksCached();
    s.steps_total = m.getStepsTotal();
    s.prompt_tokens_total = m.getPromptTokensTotal();
    s.cached_prompt_tokens_total = m.getCachedPromptTokensTotal();
    s.generated_tokens_total = m.getGeneratedTokensTotal();
    s.preemptions_total = m.getPreemptionsTotal();
    s.finished_total = m.getFinishedTotal();
    s.refused_total = m.getRefusedTotal();
    s.cancelled_total = m.getCancelledTotal();
    s.step_seconds_total = m.getStepSecondsTotal();
    s.restored_tokens_total = m.getRestoredTokensTotal();
    s.drafted_tokens_total = m.getDraftedTokensTotal();
    s.accepted_draft_tokens_total = m.getAcceptedDraftTokensTotal();
    out.models.emplace_back(out.replicas.back().model, s);
  }
  return out;
}

void write(schema::Submit::Builder out, const SubmitStream& in) {
  out.setTenant(text_of(in.tenant.get()));
  out.setModel(text_of(in.model));
  fill(out.initPrompt(in.prompt.size()), in.prompt);
  auto sampling = out.initSampling();
  sampling.setTemperature(in.sampling.temperature);
  sampling.setTopP(in.sampling.top_p);
  sampling.setTopK(in.sampling.top_k);
  sampling.setMinP(in.sampling.min_p);
  sampling.setPresencePenalty(in.sampling.presence_penalty);
  sampling.setFrequencyPenalty(in.sampling.frequency_penalty);
  sampling.setTopLogprobs(in.sampling.top_logprobs);
  const auto& bias = in.sampling.logit_bias;
  auto ids = sampling.initBiasIds(bias.size());
  auto values = sampling.initBiasValues(bias.size());
  for (unsigned i = 0; i < bias.size(); ++i) {
    ids.set(i, bias[i].first);
    values.set(i, bias[i].second);
  }
  out.setMaxNewTokens(in.max_new_tokens);
  fill(out.initStopTokens(in.stop_tokens.size()), in.stop_tokens);
  out.setDeadlineMs(in.deadline_ms);
  out.setWeight(in.weight);
  out.setCacheBytes(in.cache_bytes);
  out.setCapacityClass(static_cast<std::uint8_t>(in.capacity_class));
  out.setWorstCase(in.worst_case);
  out.setGuaranteedBytes(in.guaranteed_bytes);
  out.setEndpoint(static_cast<std::uint8_t>(in.endpoint));
  out.setNoStore(in.no_store);
  auto sequences = out.initSequences(in.sequences.size());
  for (unsigned i = 0; i < sequences.size(); ++i) {
    const auto& from = in.sequences[i];
    auto to = sequences[i];
    to.setRun(from.id.get());
    to.setSeed(from.seed);
    fill(to.initResumed(from.resumed.size()), from.resumed);
    to.setCredit(from.credit);
    to.setPromptLogprobs(from.prompt_logprobs);
  }
}
Result<Message> read(schema::Submit::Reader in) {
  SubmitStream out;
  out.tenant = TenantId(string_of(in.getTenant()));
  out.model = string_of(in.getModel());
  out.prompt = numbers(in.getPrompt());
  const auto sampling = in.getSampling();
  out.sampling.temperature = sampling.getTemperature();
  out.sampling.top_p = sampling.getTopP();
  out.sampling.top_k = sampling.getTopK();
  out.sampling.min_p = sampling.getMinP();
  out.sampling.presence_penalty = sampling.getPresencePenalty();
  out.sampling.frequency_penalty = sampling.getFrequencyPenalty();
  out.sampling.top_logprobs = sampling.getTopLogprobs();
  const auto ids = sampling.getBiasIds();
  const auto values = sampling.getBiasValues();
  if (ids.size() != values.size()) {
    return fail(ErrorCode::malformed, "a submission's bias ids and values differ in number");
  }
  for (unsigned i = 0; i < ids.size(); ++i) {
    out.sampling.logit_bias.emplace_back(ids[i], values[i]);
  }
  out.max_new_tokens = in.getMaxNewTokens();
  out.stop_tokens = numbers(in.getStopTokens());
  out.deadline_ms = in.getDeadlineMs();
  out.weight = in.getWeight();
  out.cache_bytes = in.getCacheBytes();
  if (in.getCapacityClass() < capacity_classes) {
    out.capacity_class = static_cast<CapacityClass>(in.getCapacityClass());
  }
  out.worst_case = in.getWorstCase();
  out.guaranteed_bytes = in.getGuaranteedBytes();
  if (in.getEndpoint() < endpoint_count) out.endpoint = static_cast<Endpoint>(in.getEndpoint());
  out.no_store = in.getNoStore();
  for (const auto from : in.getSequences()) {
    out.sequences.push_back({RequestId(from.getRun()), from.getSeed(), numbers(from.getResumed()),
                             from.getCredit(), from.getPromptLogprobs()});
  }
  return Message(std::move(out));
}

void write(schema::Tokens::Builder out, const std::vector<SampledToken>& in) {
  const auto count = static_cast<unsigned>(in.size());
  std::size_t tops = 0;
  bool logprobs = false;
  for (const auto& token : in) {
    tops = std::max(tops, token.top.size());
    logprobs = logprobs || token.logprob != 0;
  }
  auto ids = out.initIds(count);
  for (unsigned i = 0; i < count; ++i) ids.set(i, in[i].id);
  if (logprobs) {
    auto values = out.initLogprobs(count);
    for (unsigned i = 0; i < count; ++i) values.set(i, in[i].logprob);
  }
  if (tops == 0) return;
  const auto width = static_cast<unsigned>(tops);
  out.setTops(width);
  auto top_ids = out.initTopIds(count * width);
  auto top_values = out.initTopLogprobs(count * width);
  for (unsigned i = 0; i < count; ++i) {
    for (unsigned j = 0; j < width; ++j) {
      const bool has = j < in[i].top.size();
      top_ids.set(i * width + j, has ? in[i].top[j].id : no_token);
      top_values.set(i * width + j, has ? in[i].top[j].logprob : 0.0F);
    }
  }
}
Result<std::vector<SampledToken>> read(schema::Tokens::Reader in) {
  const auto ids = in.getIds();
  const auto logprobs = in.getLogprobs();
  const auto top_ids = in.getTopIds();
  const auto top_values = in.getTopLogprobs();
  const std::uint64_t tops = std::uint64_t{in.getTops()} * ids.size();
  if ((logprobs.size() != 0 && logprobs.size() != ids.size()) || top_ids.size() != tops ||
      top_values.size() != tops) {
    return fail(ErrorCode::malformed, "a token list and its log-probabilities differ in number");
  }
  std::vector<SampledToken> out(ids.size());
  for (unsigned i = 0; i < ids.size(); ++i) {
    out[i].id = ids[i];
    if (logprobs.size() != 0) out[i].logprob = logprobs[i];
    for (unsigned j = 0; j < in.getTops(); ++j) {
      const auto at = i * in.getTops() + j;
      if (top_ids[at] != no_token) out[i].top.push_back({top_ids[at], top_values[at]});
    }
  }
  return out;
}

void write(schema::Events::Builder out, const NodeEvents& in) {
  out.setEpoch(in.epoch);
  auto events = out.initEvents(in.events.size());
  for (unsigned i = 0; i < events.size(); ++i) {
    const auto& from = in.events[i];
    auto to = events[i];
    to.setRun(from.id.get());
    if (!from.tokens.empty()) write(to.initTokens(), from.tokens);
    if (!from.prompt.empty()) write(to.initPrompt(), from.prompt);
    if (!from.finish) continue;
    to.setFinish(static_cast<Finish>(static_cast<int>(*from.finish) + 1));
    if (from.error) write(*from.error, to.initError());
    to.setPromptTokens(from.usage.prompt_tokens);
    to.setCachedTokens(from.usage.cached_tokens);
    to.setGeneratedTokens(from.usage.generated_tokens);
    to.setPreemptions(from.usage.preemptions);
  }
}
static_assert(static_cast<int>(Finish::ERROR) == static_cast<int>(FinishReason::error) + 1);
static_assert(static_cast<int>(Finish::STOP) == static_cast<int>(FinishReason::stop) + 1);
Result<Message> read(schema::Events::Reader in) {
  NodeEvents out;
  out.epoch = in.getEpoch();
  out.events.reserve(in.getEvents().size());
  for (const auto from : in.getEvents()) {
    SequenceEvent event;
    event.id = RequestId(from.getRun());
    auto tokens = read(from.getTokens());
    if (!tokens) return fail(tokens.error());
    event.tokens = std::move(*tokens);
    auto prompt = read(from.getPrompt());
    if (!prompt) return fail(prompt.error());
    event.prompt = std::move(*prompt);
    const auto finish = static_cast<int>(from.getFinish());
    if (finish > static_cast<int>(Finish::ERROR)) {
      return fail(ErrorCode::malformed, "an unknown way to finish");
    }
    if (finish > 0) event.finish = static_cast<FinishReason>(finish - 1);
    if (from.hasError()) event.error = plimsoll::read(from.getError());
    event.usage = {from.getPromptTokens(), from.getCachedTokens(), from.getGeneratedTokens(),
                   from.getPreemptions()};
    out.events.push_back(std::move(event));
  }
  return Message(std::move(out));
}

void write(schema::Embed::Builder out, const EmbedTokens& in) {
  out.setRun(in.id.get());
  out.setTenant(text_of(in.tenant.get()));
  out.setModel(text_of(in.model));
  auto inputs = out.initInputs(in.inputs.size());
  for (unsigned i = 0; i < inputs.size(); ++i) {
    fill(inputs.init(i, in.inputs[i].size()), in.inputs[i]);
  }
  out.setDeadlineMs(in.deadline_ms);
  out.setNoStore(in.no_store);
}
EmbedTokens read(schema::Embed::Reader in) {
  EmbedTokens out;
  out.id = RequestId(in.getRun());
  out.tenant = TenantId(string_of(in.getTenant()));
  out.model = string_of(in.getModel());
  for (const auto input : in.getInputs()) out.inputs.push_back(numbers(input));
  out.deadline_ms = in.getDeadlineMs();
  out.no_store = in.getNoStore();
  return out;
}

void write(schema::EmbedResult::Builder out, const EmbedResult& in) {
  out.setRun(in.id.get());
  auto rows = out.initEmbeddings(in.embeddings.size());
  for (unsigned i = 0; i < rows.size(); ++i) {
    fill(rows.init(i, in.embeddings[i].size()), in.embeddings[i]);
  }
  out.setCachedTokens(in.cached_tokens);
  if (in.error) write(*in.error, out.initError());
}
EmbedResult read(schema::EmbedResult::Reader in) {
  EmbedResult out;
  out.id = RequestId(in.getRun());
  for (const auto row : in.getEmbeddings()) {
    out.embeddings.push_back(numbers<decltype(row), float>(row));
  }
  out.cached_tokens = in.getCachedTokens();
  if (in.hasError()) out.error = plimsoll::read(in.getError());
  return out;
}

void write(schema::AskCache::Builder out, const AskCache& in) {
  out.setId(in.id);
  auto what = out.initWhat();
  if (const auto* purge = std::get_if<storage::CachePurge>(&in.call)) {
    plimsoll::write(*purge, what.initPurge());
  } else if (const auto* order = std::get_if<SetCacheTtl>(&in.call)) {
    plimsoll::write(*order, what.initSetTtl());
  } else {
    what.setLook();
  }
}
Result<Message> read(schema::AskCache::Reader in) {
  AskCache out;
  out.id = in.getId();
  const auto what = in.getWhat();
  switch (what.which()) {
    case schema::AskCache::What::LOOK: return Message(std::move(out));
    case schema::AskCache::What::PURGE: {
      const auto purge = plimsoll::read(what.getPurge());
      if (!purge) return fail(ErrorCode::malformed, purge.error().message);
      out.call = *purge;
      return Message(std::move(out));
    }
    case schema::AskCache::What::SET_TTL: {
      const auto order = plimsoll::read(what.getSetTtl());
      if (!order) return fail(ErrorCode::malformed, order.error().message);
      out.call = *order;
      return Message(std::move(out));
    }
    case schema::AskCache::What::UNKNOWN: break;
  }
  return Message();  // of a newer neighbour
}

struct Writer {
  schema::Frame::Builder frame;
  void operator()(const std::monostate&) { frame.setUnknown(); }
  void operator()(const Hello& x) { write(frame.initHello(), x); }
  void operator()(const NodeReport& x) { write(frame.initReport(), x); }
  void operator()(const NodeEvents& x) { write(frame.initEvents(), x); }
  void operator()(const EmbedResult& x) { write(frame.initEmbedResult(), x); }
  void operator()(const Welcome& x) { write(frame.initWelcome(), x); }
  void operator()(const Refused& x) { write(x.error, frame.initRefused()); }
  void operator()(const SubmitStream& x) { write(frame.initSubmit(), x); }
  void operator()(const EmbedTokens& x) { write(frame.initEmbed(), x); }
  void operator()(const CancelSequences& x) {
    auto ids = frame.initCancel(x.ids.size());
    for (unsigned i = 0; i < ids.size(); ++i) ids.set(i, x.ids[i].get());
  }
  void operator()(const AddCredit& x) {
    auto credit = frame.initCredit();
    credit.setRun(x.id.get());
    credit.setTokens(x.tokens);
  }
  void operator()(const Drain& x) { frame.setDrain(x.deadline_ms); }
  void operator()(const LoadModel& x) {
    auto load = frame.initLoadModel();
    load.setName(text_of(x.name));
    load.setSource(text_of(x.source));
    load.setVersion(text_of(x.version));
  }
  void operator()(const UnloadModel& x) { frame.setUnloadModel(text_of(x.name)); }
  void operator()(const Probe& x) { frame.setProbe(x.clock); }
  void operator()(const SetCachePolicies& x) {
    auto policies = frame.initCachePolicies(static_cast<unsigned>(x.tenants.size()));
    unsigned i = 0;
    for (const auto& [tenant, policy] : x.tenants) {
      policies[i].setTenant(text_of(tenant));
      write_cache_policy(policy, policies[i++]);
    }
  }
  void operator()(const AskCache& x) { write(frame.initAskCache(), x); }
  void operator()(const TellCache& x) {
    auto told = frame.initTellCache();
    told.setId(x.id);
    plimsoll::write(x.answer, told.initAnswer());
  }
};

Result<Message> read(schema::Frame::Reader frame) {
  switch (frame.which()) {
    case schema::Frame::UNKNOWN: return Message();
    case schema::Frame::HELLO: return Message(read(frame.getHello()));
    case schema::Frame::REPORT: return Message(read(frame.getReport()));
    case schema::Frame::EVENTS: return read(frame.getEvents());
    case schema::Frame::EMBED_RESULT: return Message(read(frame.getEmbedResult()));
    case schema::Frame::WELCOME: return Message(read(frame.getWelcome()));
    case schema::Frame::REFUSED: return Message(Refused{plimsoll::read(frame.getRefused())});
    case schema::Frame::SUBMIT: return read(frame.getSubmit());
    case schema::Frame::EMBED: return Message(read(frame.getEmbed()));
    case schema::Frame::CANCEL: {
      CancelSequences out;
      for (const auto id : frame.getCancel()) out.ids.emplace_back(id);
      return Message(std::move(out));
    }
    case schema::Frame::CREDIT: {
      const auto credit = frame.getCredit();
      return Message(AddCredit{RequestId(credit.getRun()), credit.getTokens()});
    }
    case schema::Frame::DRAIN: return Message(Drain{frame.getDrain()});
    case schema::Frame::LOAD_MODEL: {
      const auto load = frame.getLoadModel();
      return Message(LoadModel{string_of(load.getName()), string_of(load.getSource()),
                               string_of(load.getVersion())});
    }
    case schema::Frame::UNLOAD_MODEL:
      return Message(UnloadModel{string_of(frame.getUnloadModel())});
    case schema::Frame::CACHE_POLICIES: {
      SetCachePolicies out;
      for (const auto policy : frame.getCachePolicies()) {
        out.tenants[string_of(policy.getTenant())] = read_cache_policy(policy);
      }
      return Message(std::move(out));
    }
    case schema::Frame::ASK_CACHE: return read(frame.getAskCache());
    case schema::Frame::TELL_CACHE: {
      const auto told = frame.getTellCache();
      return Message(TellCache{told.getId(), plimsoll::read(told.getAnswer())});
    }
    case schema::Frame::PROBE: return Message(Probe{frame.getProbe()});
  }
  return Message();  // of a newer neighbour
}

}  // namespace

std::string encode(const Message& message) {
  capnp::MallocMessageBuilder builder;
  std::visit(Writer{builder.initRoot<schema::Frame>()}, message);
  const auto words = capnp::messageToFlatArray(builder);
  const auto bytes = words.asBytes();
  return {reinterpret_cast<const char*>(bytes.begin()), bytes.size()};
}

Result<Message> decode(std::string_view bytes) {
  if (bytes.size() > most_frame_bytes || bytes.size() % sizeof(capnp::word) != 0) {
    return fail(ErrorCode::malformed, "a frame of " + std::to_string(bytes.size()) +
                                          " bytes: at most 64 MiB, in whole words");
  }
  // A string's bytes are aligned as malloc aligns; a view into one may not be.
  kj::Array<capnp::word> copy;
  auto* data = reinterpret_cast<const capnp::word*>(bytes.data());
  if (reinterpret_cast<std::uintptr_t>(data) % alignof(capnp::word) != 0) {
    copy = kj::heapArray<capnp::word>(bytes.size() / sizeof(capnp::word));
    std::memcpy(copy.begin(), bytes.data(), bytes.size());
    data = copy.begin();
  }
  Result<Message> out;
  const auto failed = kj::runCatchingExceptions([&] {
    capnp::ReaderOptions options;
    options.traversalLimitInWords = 2 * bytes.size() / sizeof(capnp::word) + 1024;
    options.nestingLimit = 16;
    capnp::FlatArrayMessageReader reader(kj::arrayPtr(data, bytes.size() / sizeof(capnp::word)),
                                         options);
    out = read(reader.getRoot<schema::Frame>());
  });
  KJ_IF_MAYBE (exception, failed) {
    return fail(ErrorCode::malformed,
                std::string("a frame cannot be read: ") + exception->getDescription().cStr());
  }
  return out;
}

}  // namespace plimsoll::wire
