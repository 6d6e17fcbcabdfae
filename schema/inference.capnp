@0xd3f1a2c48b7e5f01;
# The client API. Bootstrap capability: Gateway.
#
# Streaming: the caller passes a TokenSink; `push` is a streaming call, so the server waits when the
# client falls behind. Dropping the promise of `generate` cancels the generation.
#
# A client that loses its server goes on at another one: it sends the same request again, with the
# same fixed seed, and says in `resume` what it has received.

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("plimsoll::schema");
using Error = import "error.capnp".Error;

interface Gateway {
  # Every call's `error` is null when all went well; then, and only then, its other results count.

  login @0 (apiKey :Text) -> (session :Inference, error :Error);
  # An empty key is the anonymous local tenant, where the server allows one.

  administer @1 (apiKey :Text) -> (operator :import "operator.capnp".Operator, error :Error);
  # For keys that have the operator's rights.

  ping @2 () -> (version :Text, ready :Bool);
}

interface Inference {
  generate @0 (request :GenerateRequest, sink :TokenSink) -> (usage :Usage, error :Error);
  # Returns after the last `push` and `done`.

  embed @1 (model :Text, inputs :List(Text), noStore :Bool)
      -> (embeddings :List(List(Float32)), promptTokens :UInt32, error :Error, cachedTokens :UInt32);
  # noStore: as in GenerateRequest. cachedTokens: of promptTokens, those of inputs whose vectors were not
  # computed.

  models @2 () -> (models :List(Model));
}

interface TokenSink {
  push @0 (delta :Delta) -> stream;
  done @1 (choice :UInt32, reason :FinishReason) -> ();
}

struct GenerateRequest {
  model @0 :Text;
  input :union {
    messages @1 :List(Message);
    prompt @2 :Text;
    tokens @3 :List(Int32);
  }
  maxTokens @4 :UInt32 = 0;
  # 0: the rest of the context.
  temperature @5 :Float32 = 1;
  topP @6 :Float32 = 1;
  topK @7 :Int32 = 0;
  minP @8 :Float32 = 0;
  presencePenalty @9 :Float32 = 0;
  frequencyPenalty @10 :Float32 = 0;
  seed :union {
    random @11 :Void;
    fixed @12 :UInt64;
  }
  stop @13 :List(Text);
  topLogprobs @14 :Int32 = -1;
  # -1: none; n: the token's own and the n likeliest.
  choices @15 :UInt32 = 1;
  echo @16 :Bool = false;
  deadlineMs @17 :UInt32 = 0;
  ignoreEos @18 :Bool = false;
  requestId @19 :Text;
  # The client's own name for this request, the same when it goes on elsewhere: the logs have it, and
  # a request with `resume` ends an earlier one of the tenant that runs here under its name. At most
  # 128 letters, digits and "._:-"; may be empty.
  resume @20 :List(Received);
  # Empty, or one for each choice.
  noStore @21 :Bool = false;
  # Nothing that is computed for this request goes to a cache on disk.
}

struct Received {
  # What the client has of a choice. The server makes no more of it than it can see here: the choice
  # goes on behind `ids`, and its text behind the first `textBytes` bytes, to the byte.
  ids @0 :List(Int32);
  # Of all deltas, in their order.
  textBytes @1 :UInt64;
  # Of all deltas' texts, but for that of an echoed prompt.
}

struct Message {
  role @0 :Text;
  content @1 :Text;
}

struct Delta {
  choice @0 :UInt32;
  text @1 :Text;
  tokenCount @2 :UInt32;
  tokens @3 :List(Token);
  isPrompt @4 :Bool;
  ids @5 :List(Int32);
  # The tokens whose text is out with this delta, the oldest first; `tokens` are the same ones. What
  # the server holds back, since it may become part of a stop string, is not among them.
}

struct Token {
  bytes @0 :Data;
  logprob @1 :Float32;
  top @2 :List(Alternative);
  struct Alternative {
    bytes @0 :Data;
    logprob @1 :Float32;
  }
}

struct Usage {
  promptTokens @0 :UInt32;
  cachedTokens @1 :UInt32;
  completionTokens @2 :UInt32;
}

enum FinishReason {
  stop @0;
  length @1;
  cancelled @2;
  error @3;
}

struct Model {
  name @0 :Text;
  version @1 :Text;
  kind @2 :Kind;
  architecture @3 :Text;
  contextTokens @4 :UInt32;
  hidden @5 :UInt32;
  parameters @6 :UInt64;
  quantization @7 :Text;
  vocabularyTokens @8 :UInt32;
  # Token ids are below it. 0: the server does not say.
  enum Kind {
    causal @0;
    embedding @1;
  }
}
