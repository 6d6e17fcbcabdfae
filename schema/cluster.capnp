@0xc4b1f0a86d2e9377;
# What a node and a router say to each other, one frame a message. Fields are only ever added, and
# what is not known is ignored, so that neighbours of one version apart work together; what they may
# use is settled in Hello and Welcome.

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("plimsoll::schema");
using Error = import "error.capnp".Error;
using MemoryReport = import "memory.capnp".MemoryReport;
using Cache = import "cache.capnp";

struct Frame {
  union {
    unknown @0 :Void;
    # to a router
    hello @1 :Hello;
    report @2 :Report;
    events @3 :Events;
    embedResult @4 :EmbedResult;
    # to a node
    welcome @5 :Welcome;
    refused @6 :Error;
    # Of a hello, or the end of an epoch: say hello again.
    submit @7 :Submit;
    embed @8 :Embed;
    cancel @9 :List(UInt64);
    credit @10 :Credit;
    drain @11 :UInt32;
    # The deadline, in ms.
    loadModel @12 :LoadModel;
    unloadModel @13 :Text;
    probe @14 :UInt64;
    # The router's clock, given back in the next report.
    cachePolicies @15 :List(CachePolicy);
    # Of all tenants that have one of their own.
    askCache @16 :AskCache;
    tellCache @17 :TellCache;
    # To a router.
  }
}

struct Hello {
  protocolOldest @0 :UInt16;
  protocolNewest @1 :UInt16;
  node @2 :Text;
  software @3 :Text;
  secret @4 :Text;
  # From an earlier welcome. The token counts where there is none, or it is void.
  joinToken @5 :Text;
  weight @6 :Float64;
}

struct Welcome {
  protocol @0 :UInt16;
  router @1 :Text;
  software @2 :Text;
  epoch @3 :UInt64;
  heartbeatMs @4 :UInt32;
  secret @5 :Text;
  # To come back with, after a hello with a join token.
}

struct Report {
  epoch @0 :UInt64;
  models @1 :List(EngineReport);
  draining @2 :Bool;
  pressure @3 :UInt8;
  memoryUsedBytes @4 :UInt64;
  memoryLimitBytes @5 :UInt64;
  probe @6 :UInt64;
  events @7 :List(GovernorEvent);
  # New ones of the node's memory governor, and what earlier ones have grown by.
  memory @8 :MemoryReport;
  # Every few seconds; of many rows the largest, the others summed up.
  routers @9 :UInt32;
  # That the node reports to.
}

struct GovernorEvent {
  unixSeconds @0 :Float64;
  kind @1 :UInt8;
  level @2 :UInt8;
  tenant @3 :Text;
  model @4 :Text;
  cause @5 :Text;
  bytes @6 :UInt64;
  count @7 :UInt32;
  usedBytes @8 :UInt64;
  limitBytes @9 :UInt64;
}

struct EngineReport {
  model @0 :Text;
  waiting @1 :UInt32;
  running @2 :UInt32;
  paused @3 :UInt32;
  kvBlocksTotal @4 :UInt32;
  kvBlocksUsed @5 :UInt32;
  kvBlocksCached @6 :UInt32;
  stepsTotal @7 :UInt64;
  promptTokensTotal @8 :UInt64;
  cachedPromptTokensTotal @9 :UInt64;
  generatedTokensTotal @10 :UInt64;
  preemptionsTotal @11 :UInt64;
  finishedTotal @12 :UInt64;
  refusedTotal @13 :UInt64;
  cancelledTotal @14 :UInt64;
  stepSecondsTotal @15 :Float64;
  version @16 :Text;
  # Empty while the model is being loaded.
  error @17 :Text;
  # Why it could not be loaded.
  placed @18 :Bool;
  # Loaded by LoadModel, or to be.
  restoredTokensTotal @19 :UInt64;
  # From the cache on disk.
  draftedTokensTotal @20 :UInt64;
  # Computed in advance, and of them those that were generated then.
  acceptedDraftTokensTotal @21 :UInt64;
}

struct Submit {
  tenant @0 :Text;
  model @1 :Text;
  prompt @2 :List(Int32);
  sampling @3 :Sampling;
  maxNewTokens @4 :UInt32;
  stopTokens @5 :List(Int32);
  deadlineMs @6 :UInt32;
  weight @7 :Float64;
  sequences @8 :List(Sequence);
  struct Sequence {
    run @0 :UInt64;
    seed @1 :UInt64;
    resumed @2 :List(Int32);
    credit @3 :UInt32;
    promptLogprobs @4 :Bool;
  }
  cacheBytes @9 :UInt64 = 0xffffffffffffffff;
  # Of the KV in this model's prefix tree, what the tenant may have put there.
  endpoint @10 :UInt8;
  # That it came by: 1 chat completions, 2 completions. For the node's ledger.
  capacityClass @11 :UInt8;
  # 0 low latency, 1 batch, 2 long context: whose headroom it may take.
  worstCase @12 :Bool;
  # It starts only where its longest generation fits.
  guaranteedBytes @13 :UInt64;
  # Of KV, that the tenant has on this node for this model whatever others do.
  noStore @14 :Bool;
  # What is computed for it goes to no cache on disk.
}

struct Sampling {
  temperature @0 :Float32;
  topP @1 :Float32;
  topK @2 :Int32;
  minP @3 :Float32;
  presencePenalty @4 :Float32;
  frequencyPenalty @5 :Float32;
  topLogprobs @6 :Int32;
  biasIds @7 :List(Int32);
  biasValues @8 :List(Float32);
}

struct Events {
  epoch @0 :UInt64;
  events @1 :List(Event);
  struct Event {
    run @0 :UInt64;
    tokens @1 :Tokens;
    prompt @2 :Tokens;
    # Once, where its log-probabilities were asked for.
    finish @3 :Finish;
    error @4 :Error;
    promptTokens @5 :UInt32;
    cachedTokens @6 :UInt32;
    generatedTokens @7 :UInt32;
    preemptions @8 :UInt32;
  }
  enum Finish {
    none @0;
    stop @1;
    length @2;
    cancelled @3;
    error @4;
  }
}

struct Tokens {
  ids @0 :List(Int32);
  logprobs @1 :List(Float32);
  tops @2 :UInt32;
  # Alternatives of each token; where they differ in number, the missing ones have id -1.
  topIds @3 :List(Int32);
  topLogprobs @4 :List(Float32);
}

struct Credit {
  run @0 :UInt64;
  tokens @1 :UInt32;
}

struct Embed {
  run @0 :UInt64;
  tenant @1 :Text;
  model @2 :Text;
  inputs @3 :List(List(Int32));
  deadlineMs @4 :UInt32;
  noStore @5 :Bool;
  # As in Submit.
}

struct EmbedResult {
  epoch @0 :UInt64;
  run @1 :UInt64;
  embeddings @2 :List(List(Float32));
  error @3 :Error;
  cachedTokens @4 :UInt32;
  # Of the inputs, those whose vectors were not computed.
}

struct CachePolicy {
  # What a tenant may have in the node's cache on disk. All ones: as the node is configured.
  tenant @0 :Text;
  bytes @1 :UInt64 = 0xffffffffffffffff;
  prefixTtlMs @2 :UInt32 = 0xffffffff;
  embeddingTtlMs @3 :UInt32 = 0xffffffff;
  tokensTtlMs @4 :UInt32 = 0xffffffff;
}

struct AskCache {
  id @0 :UInt64;
  # The answer has it too.
  what :union {
    unknown @1 :Void;
    look @2 :Void;
    purge @3 :Cache.CachePurge;
    setTtl @4 :Cache.CacheTtl;
  }
}

struct TellCache {
  id @0 :UInt64;
  answer @1 :Cache.CacheAnswer;
}

struct LoadModel {
  name @0 :Text;
  source @1 :Text;
  version @2 :Text;
  # That the file must have; empty: any.
}
