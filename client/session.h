// The SDK's hold on a cluster: a thread with an event loop, and a connection to one of several
// servers. When that one is lost, the next call has another.
#pragma once

#include <capnp/rpc-twoparty.h>
#include <kj/async-io.h>
#include <kj/compat/tls.h>

#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>

#include "client/client.h"
#include "schema/inference.capnp.h"
#include "schema/operator.capnp.h"

namespace plimsoll::client {

inline std::string string_of(capnp::Text::Reader text) { return {text.begin(), text.size()}; }
inline kj::StringPtr text_of(const std::string& text) { return {text.c_str(), text.size()}; }
Error error_of(schema::Error::Reader error);

class Session {
 public:
  // What a call leaves for the thread that waits.
  struct Outcome {
    std::optional<Error> error;
    // Takes over the error of a call's results; false if there is one.
    template <class Results>
    bool good(const Results& results) {
      if (results.hasError()) error = error_of(results.getError());
      return !error;
    }
  };
  using Call = std::function<kj::Promise<void>(schema::Inference::Client, Outcome&)>;
  using OperatorCall = std::function<kj::Promise<void>(schema::Operator::Client, Outcome&)>;

  // Whether a call may run again after it failed in a way that passes: once the servers may have
  // heard it, only one that changes nothing.
  enum class Repeat : std::uint8_t { no, yes };

  explicit Session(Options options);  // does not connect
  ~Session();

  // The thread's loop runs `call`, connected; all of these wait for it, and throw Error.
  void connect();  // tries each address once
  void run(const Call& call, Repeat repeat = Repeat::yes);
  void run_as_operator(const OperatorCall& call, Repeat repeat = Repeat::no);
  // Until `stop`: then, and only between two attempts, it returns. The time for which attempts go
  // on begins anew when `progress()` has changed.
  void run(const Call& call, const std::stop_token& stop,
           const std::function<std::uint64_t()>& progress);

 private:
  struct Link;
  struct Attempt {
    std::optional<Error> error;
    bool sent = false;  // a server may have heard it
    bool passing = false;
  };
  using LinkCall = std::function<kj::Promise<void>(Link&, Outcome&)>;

  Attempt attempt(const LinkCall& call);
  void repeat(const LinkCall& call, Repeat repeat, const std::stop_token& stop,
              const std::function<std::uint64_t()>& progress);

  // On the loop's thread:
  kj::Promise<void> connected();
  kj::Promise<void> open_any(std::size_t tried);
  kj::Promise<void> open(std::size_t index);
  void leave(const std::shared_ptr<Link>& link);
  kj::TlsContext& tls_context();

  const Options options_;
  std::thread thread_;
  const kj::Executor* executor_ = nullptr;
  kj::Own<kj::CrossThreadPromiseFulfiller<void>> quit_;

  // Touched on the loop's thread only:
  kj::AsyncIoContext* io_ = nullptr;
  kj::Own<kj::TlsContext> tls_;
  std::shared_ptr<Link> link_;  // for the next call; those that run keep theirs
  bool connecting_ = false;
  kj::Own<kj::ForkedPromise<void>> attempt_;  // the latest
  std::optional<Error> login_error_;
  std::size_t next_ = 0;  // the address to begin with
};

}  // namespace plimsoll::client
