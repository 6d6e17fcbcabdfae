#include "actors/gateway/rpc_gateway.h"

#include <capnp/rpc-twoparty.h>
#include <kj/async-io.h>
#include <kj/compat/tls.h>
#include <kj/debug.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>

#include <algorithm>
#include <deque>
#include <fstream>
#include <future>
#include <iterator>
#include <optional>
#include <thread>

#include "actors/gateway/connection_places.h"
#include "actors/gateway/listen_address.h"
#include "actors/gateway/rpc_session.h"

namespace plimsoll {

namespace {

// A message may not be larger: it is held in memory while it arrives.
constexpr std::uint64_t message_words = 512 * 1024;  // 4 MiB
// The send buffer decides how far a streaming call runs ahead of its client.
constexpr int send_buffer_bytes = 4 * 1024;
// What a connection costs beside its calls: socket buffers and protocol state.
constexpr std::uint64_t connection_bytes = 64_KiB;
constexpr auto login_timeout = 10 * kj::SECONDS;
// Who got no place has heard so by then, and goes; of more than so many the first goes at once.
constexpr auto refusal_time = 1 * kj::SECONDS;
constexpr std::size_t refused_at_once = 64;

std::string read_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

kj::Own<kj::TlsContext> make_tls(const ListenConfig& listen) {
  kj::TlsKeypair keypair{
      kj::TlsPrivateKey(kj::StringPtr(read_file(listen.tls_key).c_str())),
      kj::TlsCertificate(kj::StringPtr(read_file(listen.tls_certificate).c_str()))};
  kj::TlsContext::Options options;
  options.useSystemTrustStore = false;
  options.defaultKeypair = keypair;
  return kj::heap<kj::TlsContext>(kj::mv(options));
}

// A client whose machine is gone says nothing: the kernel has to ask, within half a minute.
void keep_alive(kj::AsyncIoStream& stream) {
  const auto set = [&](int level, int option, int value) {
    stream.setsockopt(level, option, &value, sizeof value);
  };
  // A Unix socket has no such options, and needs none.
  kj::runCatchingExceptions([&] {
    set(SOL_SOCKET, SO_KEEPALIVE, 1);
    set(IPPROTO_TCP, TCP_KEEPIDLE, 15);
    set(IPPROTO_TCP, TCP_KEEPINTVL, 5);
    set(IPPROTO_TCP, TCP_KEEPCNT, 3);
  });
}

std::string text_of(const kj::Exception& e) { return {e.getDescription().cStr()}; }

// One client. Lives until it disconnects.
struct Connection {
  Connection(kj::Own<kj::AsyncIoStream> s, std::shared_ptr<RpcShared> shared, RpcLogin on_login)
      : stream(kj::mv(s)),
        network(*stream, capnp::rpc::twoparty::Side::SERVER, options()),
        charge(shared->ledger.account(Component::rpc, "", shared_tenant), connection_bytes),
        system(capnp::makeRpcServer(network,
                                    make_rpc_bootstrap(std::move(shared), std::move(on_login)))) {}

  static capnp::ReaderOptions options() {
    capnp::ReaderOptions options;
    options.traversalLimitInWords = message_words;
    return options;
  }

  kj::Own<kj::AsyncIoStream> stream;
  capnp::TwoPartyVatNetwork network;
  Charge charge;
  capnp::RpcSystem<capnp::rpc::twoparty::VatId> system;
};

// What a client is to the gateway. Its capabilities may outlive the connection by a little.
struct Guest : std::enable_shared_from_this<Guest> {
  bool logged_in = false;
  bool counted = true;               // among the connections
  std::optional<std::string> place;  // whose it takes
  kj::Own<kj::PromiseFulfiller<void>> go;
};

// Everything that lives on the loop's thread.
class Loop final : kj::TaskSet::ErrorHandler {
 public:
  Loop(kj::AsyncIoContext& io, const RpcConfig& config, std::shared_ptr<RpcShared> shared)
      : io_(io), config_(config), shared_(std::move(shared)), tasks_(*this) {}

  // Throws kj::Exception if the address cannot be listened on.
  std::uint16_t listen() {
    auto address =
        io_.provider->getNetwork()
            .parseAddress(kj::StringPtr(config_.listen.host.c_str()), config_.listen.port)
            .wait(io_.waitScope);
    receiver_ = address->listen();
    if (!config_.listen.tls_certificate.empty()) tls_ = make_tls(config_.listen);
    accepting_ = accept().eagerlyEvaluate(
        [](kj::Exception&& e) { spdlog::error("event=rpc_accept error=\"{}\"", text_of(e)); });
    return static_cast<std::uint16_t>(receiver_->getPort());
  }

  // Done when no call is in progress, or the deadline has passed.
  kj::Promise<void> stop(std::chrono::milliseconds deadline) {
    accepting_ = nullptr;
    receiver_ = nullptr;
    auto& timer = io_.provider->getTimer();
    return wait_idle(timer.now() + deadline.count() * kj::MILLISECONDS);
  }

 private:
  kj::Promise<void> wait_idle(kj::TimePoint deadline) {
    auto& timer = io_.provider->getTimer();
    if (shared_->calls.load() == 0 || timer.now() >= deadline) return kj::READY_NOW;
    return timer.afterDelay(10 * kj::MILLISECONDS).then([this, deadline] {
      return wait_idle(deadline);
    });
  }

  kj::Promise<void> accept() {
    return receiver_->accept().then([this](kj::Own<kj::AsyncIoStream> stream) {
      if (connections_ >= config_.connections) {
        spdlog::warn("event=rpc_refused reason=connections limit={}", config_.connections);
      } else {
        const int bytes = send_buffer_bytes;
        stream->setsockopt(SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
        keep_alive(*stream);
        ++connections_;
        auto guest = std::make_shared<Guest>();
        tasks_.add(serve(kj::mv(stream), guest).attach(kj::defer([this, guest] { left(*guest); })));
      }
      return accept();
    });
  }

  kj::Promise<void> serve(kj::Own<kj::AsyncIoStream> stream, std::shared_ptr<Guest> guest) {
    if (tls_.get() == nullptr) return run(kj::mv(stream), std::move(guest));
    auto& timer = io_.provider->getTimer();
    return timer.timeoutAfter(login_timeout, tls_->wrapServer(kj::mv(stream)))
        .then([this, guest = std::move(guest)](kj::Own<kj::AsyncIoStream> secured) {
          return run(kj::mv(secured), guest);
        });
  }

  // Until the client leaves; one that has not logged in in time, or got no place, is sent away.
  kj::Promise<void> run(kj::Own<kj::AsyncIoStream> stream, std::shared_ptr<Guest> guest) {
    auto going = kj::newPromiseAndFulfiller<void>();
    guest->go = kj::mv(going.fulfiller);
    auto connection = kj::heap<Connection>(
        kj::mv(stream), shared_,
        [this, guest](const TenantId* tenant) { return logged_in(*guest, tenant); });
    auto& timer = io_.provider->getTimer();
    auto stranger = timer.afterDelay(login_timeout).then([guest]() -> kj::Promise<void> {
      if (guest->logged_in) return kj::NEVER_DONE;
      return kj::READY_NOW;
    });
    auto& network = connection->network;
    return network.onDisconnect()
        .exclusiveJoin(kj::mv(stranger))
        .exclusiveJoin(kj::mv(going.promise))
        .attach(kj::mv(connection));
  }

  // A connection is of the tenant who logs in first, whoever else it carries.
  Result<void> logged_in(Guest& guest, const TenantId* tenant) {
    if (tenant != nullptr && !guest.place && guest.counted) {
      if (places_.take(tenant->get(), connections_)) {
        guest.place = tenant->get();
      } else {
        refuse(guest);
      }
    }
    if (!guest.counted) return fail(too_many_connections_of_the_tenant());
    guest.logged_in = true;
    return {};
  }

  // It counts no more, and is closed when it has heard it.
  void refuse(Guest& guest) {
    guest.counted = false;
    --connections_;
    refused_.push_back(&guest);
    if (refused_.size() > refused_at_once) {
      refused_.front()->go->fulfill();
      refused_.pop_front();
    }
    tasks_.add(
        io_.provider->getTimer().afterDelay(refusal_time).then([weak = guest.weak_from_this()] {
          if (const auto guest = weak.lock()) guest->go->fulfill();
        }));
  }

  void left(Guest& guest) {
    if (guest.counted) --connections_;
    if (guest.place) places_.give_back(*guest.place);
    if (const auto at = std::find(refused_.begin(), refused_.end(), &guest); at != refused_.end()) {
      refused_.erase(at);
    }
  }

  // A connection's end, by its own fault or not, concerns no other.
  void taskFailed(kj::Exception&& e) override {
    spdlog::debug("event=rpc_connection_failed error=\"{}\"", text_of(e));
  }

  kj::AsyncIoContext& io_;
  RpcConfig config_;
  std::shared_ptr<RpcShared> shared_;
  kj::Own<kj::TlsContext> tls_;
  kj::Own<kj::ConnectionReceiver> receiver_;
  std::uint32_t connections_ = 0;
  ConnectionPlaces places_{config_.connections};
  std::deque<Guest*> refused_;  // that have not gone yet
  kj::TaskSet tasks_;
  kj::Promise<void> accepting_ = nullptr;
};

}  // namespace

struct RpcGateway::Impl {
  std::shared_ptr<RpcShared> shared;
  std::thread thread;
  std::uint16_t port = 0;
  // Set once, by stop(): how long the loop may wait for calls in progress.
  std::chrono::milliseconds deadline{0};
  kj::Own<kj::CrossThreadPromiseFulfiller<void>> stop;

  void run(RpcConfig config, std::promise<Result<void>>& started) {
    auto io = kj::setupAsyncIo();
    Loop loop(io, config, shared);
    auto stopping = kj::newPromiseAndCrossThreadFulfiller<void>();
    stop = kj::mv(stopping.fulfiller);
    auto failure = kj::runCatchingExceptions([&] { port = loop.listen(); });
    KJ_IF_MAYBE (e, failure) {
      started.set_value(fail(ErrorCode::unavailable, "cannot listen on " + config.listen.host +
                                                         ":" + std::to_string(config.listen.port) +
                                                         ": " + text_of(*e)));
      return;
    }
    started.set_value({});
    auto mail = shared->mailbox.run().eagerlyEvaluate(nullptr);
    stopping.promise.then([&] { return loop.stop(deadline); }).wait(io.waitScope);
    shared->mailbox.close();
  }
};

Result<std::unique_ptr<RpcGateway>> RpcGateway::start(const RpcConfig& config, Frontend& frontend,
                                                      Ledger& ledger) {
  if (auto good = check_listen_address(config.listen, "rpc"); !good) return fail(good.error());
  auto impl = std::make_unique<Impl>();
  impl->shared = std::make_shared<RpcShared>(frontend, ledger);
  std::promise<Result<void>> started;
  auto result = started.get_future();
  impl->thread = std::thread([&started, config, impl = impl.get()] { impl->run(config, started); });
  if (auto done = result.get(); !done) {
    impl->thread.join();
    return fail(done.error());
  }
  spdlog::info("event=rpc_listening host={} port={} tls={}", config.listen.host, impl->port,
               !config.listen.tls_certificate.empty());
  return std::unique_ptr<RpcGateway>(new RpcGateway(std::move(impl)));
}

std::uint64_t RpcGateway::connection_bytes() { return plimsoll::connection_bytes; }

std::uint32_t RpcGateway::fitting_connections(const RpcConfig& config, std::uint64_t limit_bytes) {
  constexpr std::uint64_t least = 16;
  const auto most = limit_bytes / 64 / connection_bytes();
  return static_cast<std::uint32_t>(
      std::min<std::uint64_t>(config.connections, std::max(most, least)));
}

RpcGateway::RpcGateway(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

RpcGateway::~RpcGateway() { stop(std::chrono::milliseconds(0)); }

std::uint16_t RpcGateway::port() const { return impl_->port; }

void RpcGateway::stop(std::chrono::milliseconds deadline) {
  if (!impl_->thread.joinable()) return;
  impl_->deadline = deadline;
  impl_->stop->fulfill();
  impl_->thread.join();
  impl_->shared->operations.stop();
  impl_->shared->drains.stop();
  impl_->shared->purges.stop();
}

}  // namespace plimsoll
