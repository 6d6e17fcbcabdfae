#include "client/session.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <fstream>
#include <future>
#include <iterator>
#include <mutex>
#include <random>
#include <utility>

namespace plimsoll::client {

namespace {

using Clock = std::chrono::steady_clock;
using Milliseconds = std::chrono::milliseconds;

constexpr Milliseconds first_wait{50};
constexpr Milliseconds longest_wait{2000};

double random_part() {
  static thread_local std::minstd_rand random{std::random_device{}()};
  return std::uniform_real_distribution<double>(0, 1)(random);
}

// A machine that is gone says nothing: the kernel has to ask, within some 10 s.
void keep_alive(kj::AsyncIoStream& stream) {
  const auto set = [&](int level, int option, int value) {
    stream.setsockopt(level, option, &value, sizeof(value));
  };
  // A Unix socket has no such options, and needs none.
  kj::runCatchingExceptions([&] {
    set(SOL_SOCKET, SO_KEEPALIVE, 1);
    set(IPPROTO_TCP, TCP_KEEPIDLE, 4);
    set(IPPROTO_TCP, TCP_KEEPINTVL, 2);
    set(IPPROTO_TCP, TCP_KEEPCNT, 3);
    set(IPPROTO_TCP, TCP_USER_TIMEOUT, 10'000);  // ms, of what was sent and not acknowledged
  });
}

// Answers can be large (embeddings); the server is trusted more than its clients.
capnp::ReaderOptions reader_options() {
  capnp::ReaderOptions options;
  options.traversalLimitInWords = 64 << 20;
  return options;
}

std::string joined(const std::vector<std::string>& addresses) {
  std::string all;
  for (const auto& address : addresses) all += (all.empty() ? "" : ", ") + address;
  return all;
}

}  // namespace

Error error_of(schema::Error::Reader e) {
  return Error(string_of(e.getCode()), string_of(e.getMessage()), string_of(e.getReason()),
               e.getRetryAfterMs());
}

struct Session::Link {
  Link(kj::Own<kj::AsyncIoStream> s, std::size_t address)
      : index(address),
        stream(kj::mv(s)),
        network(*stream, capnp::rpc::twoparty::Side::CLIENT, reader_options()),
        system(capnp::makeRpcClient(network)),
        watching(network.onDisconnect().then([this] { broken = true; }).eagerlyEvaluate(nullptr)) {}

  schema::Gateway::Client gateway() {
    capnp::MallocMessageBuilder message;
    auto vat = message.getRoot<capnp::rpc::twoparty::VatId>();
    vat.setSide(capnp::rpc::twoparty::Side::SERVER);
    return system.bootstrap(vat).castAs<schema::Gateway>();
  }

  const std::size_t index;  // of its address
  kj::Own<kj::AsyncIoStream> stream;
  capnp::TwoPartyVatNetwork network;
  capnp::RpcSystem<capnp::rpc::twoparty::VatId> system;
  kj::Maybe<schema::Inference::Client> inference;
  bool broken = false;
  kj::Promise<void> watching;
};

Session::Session(Options options) : options_(std::move(options)) {
  if (options_.addresses.empty()) throw Error("invalid_argument", "no address is given");
  next_ = static_cast<std::size_t>(random_part() * static_cast<double>(options_.addresses.size()));
  std::promise<void> started;
  thread_ = std::thread([this, &started] {
    auto context = kj::setupAsyncIo();
    io_ = &context;
    executor_ = &kj::getCurrentThreadExecutor();
    auto end = kj::newPromiseAndCrossThreadFulfiller<void>();
    quit_ = kj::mv(end.fulfiller);
    started.set_value();
    end.promise.wait(context.waitScope);
    attempt_ = nullptr;
    link_ = nullptr;
    tls_ = nullptr;
  });
  started.get_future().wait();
}

Session::~Session() {
  quit_->fulfill();
  thread_.join();
}

// ---- attempts

void Session::connect() {
  const auto made = attempt([](Link&, Outcome&) -> kj::Promise<void> { return kj::READY_NOW; });
  if (made.error) throw *made.error;
}

void Session::run(const Call& call, Repeat repeat) {
  const LinkCall on_link = [&](Link& link, Outcome& outcome) {
    return call(KJ_ASSERT_NONNULL(link.inference), outcome);
  };
  this->repeat(on_link, repeat, {}, [] { return 0; });
}

void Session::run(const Call& call, const std::stop_token& stop,
                  const std::function<std::uint64_t()>& progress) {
  const LinkCall on_link = [&](Link& link, Outcome& outcome) {
    return call(KJ_ASSERT_NONNULL(link.inference), outcome);
  };
  repeat(on_link, Repeat::yes, stop, progress);
}

void Session::run_as_operator(const OperatorCall& call, Repeat repeat) {
  const LinkCall on_link = [&](Link& link, Outcome& outcome) {
    auto request = link.gateway().administerRequest();
    request.setApiKey(text_of(options_.api_key));
    return request.send().then([&](auto response) -> kj::Promise<void> {
      if (!outcome.good(response)) return kj::READY_NOW;
      return call(response.getOperator(), outcome);
    });
  };
  this->repeat(on_link, repeat, {}, [] { return 0; });
}

void Session::repeat(const LinkCall& call, Repeat repeat, const std::stop_token& stop,
                     const std::function<std::uint64_t()>& progress) {
  const auto patience = Milliseconds(options_.retry_ms);
  auto give_up = Clock::now() + patience;
  auto wait = first_wait;
  auto done = progress();
  while (true) {
    const auto made = attempt(call);
    if (!made.error) return;
    if (!made.passing || (made.sent && repeat == Repeat::no)) throw *made.error;
    if (const auto now_done = progress(); now_done != done) {
      done = now_done;
      give_up = Clock::now() + patience;
      wait = first_wait;
    }
    // Clients that lost the same server, or were refused together, do not come back together.
    const auto pause =
        Milliseconds(made.error->retry_after_ms) +
        Milliseconds(static_cast<std::int64_t>(random_part() * static_cast<double>(wait.count())));
    if (Clock::now() + pause >= give_up) throw *made.error;
    std::mutex mutex;
    std::unique_lock lock(mutex);
    std::condition_variable_any never;
    never.wait_for(lock, stop, pause, [] { return false; });
    if (stop.stop_requested()) return;
    wait = std::min(2 * wait, longest_wait);
  }
}

Session::Attempt Session::attempt(const LinkCall& call) {
  Attempt out;
  Outcome outcome;
  std::string server;  // that may have heard of it
  const auto failure = kj::runCatchingExceptions([&] {
    executor_->executeSync([&]() -> kj::Promise<void> {
      return connected().then([&]() -> kj::Promise<void> {
        if (login_error_) {
          outcome.error = login_error_;
          return kj::READY_NOW;
        }
        if (!link_) return KJ_EXCEPTION(DISCONNECTED, "lost again");
        auto link = link_;
        server = options_.addresses[link->index];
        return call(*link, outcome)
            .then(
                [this, link, &outcome] {
                  // Another server may be better off.
                  const bool others = options_.addresses.size() > 1;
                  if (others && outcome.error && outcome.error->code == "unavailable") leave(link);
                },
                [this, link](kj::Exception&& e) {
                  if (e.getType() == kj::Exception::Type::DISCONNECTED) leave(link);
                  kj::throwFatalException(kj::mv(e));
                });
      });
    });
  });
  out.sent = !server.empty();
  KJ_IF_MAYBE (e, failure) {
    out.passing = e->getType() == kj::Exception::Type::DISCONNECTED ||
                  e->getType() == kj::Exception::Type::OVERLOADED;
    if (!out.passing) {
      out.error = Error("internal", e->getDescription().cStr());
    } else if (out.sent) {
      out.error = Error("unavailable", "lost the server at " + server);
    } else {
      out.error = Error("unavailable", "no server answers at " + joined(options_.addresses));
    }
  } else if (outcome.error) {
    out.error = std::move(outcome.error);
    out.passing = out.error->code == "unavailable" ||
                  (out.error->code == "resource_exhausted" && out.error->retry_after_ms > 0);
  }
  return out;
}

// ---- connections

// Calls that come while a connection is being made share it.
kj::Promise<void> Session::connected() {
  if (link_ && link_->broken) leave(link_);
  if (link_) return kj::READY_NOW;
  if (connecting_) return attempt_->addBranch();
  connecting_ = true;
  login_error_ = std::nullopt;
  attempt_ = kj::heap(kj::evalNow([this] { return open_any(0); })
                          .then([this] { connecting_ = false; },
                                [this](kj::Exception&& e) {
                                  connecting_ = false;
                                  kj::throwFatalException(kj::mv(e));
                                })
                          .fork());
  return attempt_->addBranch();
}

// One address after the other, until one is there.
kj::Promise<void> Session::open_any(std::size_t tried) {
  const std::size_t count = options_.addresses.size();
  return open((next_ + tried) % count)
      .catch_([this, tried, count](kj::Exception&& e) -> kj::Promise<void> {
        if (tried + 1 < count) return open_any(tried + 1);
        return kj::mv(e);
      });
}

kj::Promise<void> Session::open(std::size_t index) {
  const std::string& address = options_.addresses[index];
  auto stream =
      io_->provider->getNetwork()
          .parseAddress(text_of(address), 8081)
          .then([](kj::Own<kj::NetworkAddress> address) {
            auto connected = address->connect();
            return connected.attach(kj::mv(address));
          })
          .then([this, &address](
                    kj::Own<kj::AsyncIoStream> plain) -> kj::Promise<kj::Own<kj::AsyncIoStream>> {
            keep_alive(*plain);
            if (options_.ca_file.empty()) return kj::mv(plain);
            const std::string host = address.substr(0, address.rfind(':'));
            return tls_context().wrapClient(kj::mv(plain), text_of(host));
          });
  auto ready = stream.then([this, index](kj::Own<kj::AsyncIoStream> opened) {
    auto link = std::make_shared<Link>(kj::mv(opened), index);
    auto request = link->gateway().loginRequest();
    request.setApiKey(text_of(options_.api_key));
    return request.send().then([this, link](auto response) {
      if (response.hasError()) {
        login_error_ = error_of(response.getError());
      } else {
        link->inference = response.getSession();
        link_ = link;
      }
    });
  });
  return io_->provider->getTimer().timeoutAfter(options_.connect_timeout_ms * kj::MILLISECONDS,
                                                kj::mv(ready));
}

// The next call begins with another address.
void Session::leave(const std::shared_ptr<Link>& link) {
  if (link != link_) return;
  next_ = (link->index + 1) % options_.addresses.size();
  link_ = nullptr;
}

kj::TlsContext& Session::tls_context() {
  if (tls_.get() == nullptr) {
    std::ifstream in(options_.ca_file, std::ios::binary);
    const std::string pem{std::istreambuf_iterator<char>(in), {}};
    KJ_REQUIRE(!pem.empty(), "cannot read the CA file", options_.ca_file.c_str());
    const kj::TlsCertificate authority(text_of(pem));
    kj::TlsContext::Options tls_options;
    tls_options.useSystemTrustStore = false;
    tls_options.trustedCertificates = kj::arrayPtr(&authority, 1);
    tls_ = kj::heap<kj::TlsContext>(kj::mv(tls_options));
  }
  return *tls_;
}

}  // namespace plimsoll::client
