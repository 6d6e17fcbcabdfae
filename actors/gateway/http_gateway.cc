#include "actors/gateway/http_gateway.h"

#include <spdlog/spdlog.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <thread>

#include "actors/gateway/http_api.h"
#include "actors/gateway/http_connection.h"
#include "actors/gateway/listen_address.h"

namespace plimsoll {

using asio::ip::tcp;
using boost::system::error_code;

namespace {

constexpr int io_threads = 2;
constexpr int socket_buffer_bytes = 64 * 1024;
// For the error that tells a client why its answer is cut.
constexpr auto last_words = std::chrono::milliseconds(250);
// Connections that are told that there are too many, at once; those told for longest are closed.
constexpr std::uint32_t refused_at_once = 64;

Result<std::optional<asio::ssl::context>> make_tls(const ListenConfig& listen) {
  std::optional<asio::ssl::context> tls;
  if (listen.tls_certificate.empty()) return tls;
  tls.emplace(asio::ssl::context::tls_server);
  tls->set_options(asio::ssl::context::default_workarounds | asio::ssl::context::no_tlsv1 |
                   asio::ssl::context::no_tlsv1_1);
  SSL_CTX_set_mode(tls->native_handle(), SSL_MODE_RELEASE_BUFFERS);
  error_code ec;
  tls->use_certificate_chain_file(listen.tls_certificate.string(), ec);
  if (ec) {
    return fail(ErrorCode::invalid_argument, "http.tls_certificate: no PEM certificate in " +
                                                 listen.tls_certificate.string() + ": " +
                                                 ec.message());
  }
  tls->use_private_key_file(listen.tls_key.string(), asio::ssl::context::pem, ec);
  if (ec) {
    return fail(ErrorCode::invalid_argument, "http.tls_key: no PEM key for " +
                                                 listen.tls_certificate.string() + " in " +
                                                 listen.tls_key.string() + ": " + ec.message());
  }
  return tls;
}

}  // namespace

struct HttpGateway::Impl {
  Impl(const HttpConfig& config, Frontend& frontend, Ledger& ledger)
      : shared(std::make_shared<HttpShared>(config, ledger, frontend.request_memory())),
        api(frontend, *shared) {
    shared->handler = &api;
    shared->on_refused = [this](HttpConnection* connection) {
      const std::lock_guard lock(mutex);
      refused(connection);
    };
    shared->on_known = [this] { asio::post(acceptor.get_executor(), [this] { known.cancel(); }); };
  }

  std::shared_ptr<HttpShared> shared;
  HttpApi api;
  std::optional<asio::ssl::context> tls;
  asio::io_context io{io_threads};
  asio::executor_work_guard<asio::io_context::executor_type> work{io.get_executor()};
  tcp::acceptor acceptor{asio::make_strand(io)};
  asio::steady_timer known{acceptor.get_executor()};  // cancelled when there may be fewer strangers
  bool waits_for_strangers = true;
  std::uint16_t port = 0;
  std::vector<std::thread> threads;

  struct Open {
    HttpConnection::Executor executor;
    std::weak_ptr<HttpConnection> connection;
    bool refused = false;  // counted in `refusing`
  };
  std::mutex mutex;
  std::condition_variable changed;
  std::map<HttpConnection*, Open> connections;
  std::deque<HttpConnection*> refusing;  // that are being told so, for the longest first

  Result<void> listen() {
    const auto& listen = shared->config.listen;
    const auto failed = [&](const error_code& ec) {
      return fail(ErrorCode::unavailable, "cannot listen on " + listen.host + ":" +
                                              std::to_string(listen.port) + ": " + ec.message());
    };
    error_code ec;
    tcp::resolver resolver(io);
    const auto found =
        resolver.resolve(listen.host, std::to_string(listen.port), tcp::resolver::passive, ec);
    if (ec || found.empty()) {
      return fail(ErrorCode::invalid_argument, "http.listen: no address for " + listen.host);
    }
    const tcp::endpoint endpoint = found.begin()->endpoint();
    acceptor.open(endpoint.protocol(), ec);
    if (!ec) acceptor.set_option(tcp::acceptor::reuse_address(true), ec);
    // Connections inherit these. Left alone, the kernel lets a reader that takes nothing hold
    // megabytes of ours.
    if (!ec) acceptor.set_option(asio::socket_base::send_buffer_size(socket_buffer_bytes), ec);
    if (!ec) acceptor.set_option(asio::socket_base::receive_buffer_size(socket_buffer_bytes), ec);
    if (!ec) acceptor.bind(endpoint, ec);
    if (!ec) acceptor.listen(tcp::acceptor::max_listen_connections, ec);
    if (ec) return failed(ec);
    port = acceptor.local_endpoint().port();
    return {};
  }

  // Whose a connection is, it says itself. One that opens a thousand at once would fill all places
  // before it is known: they wait in the kernel's queue, until those before them are. Where these
  // say nothing, others are not held up for them again.
  asio::awaitable<void> wait_for_strangers() {
    const auto most = shared->config.connections / 4;
    const auto patience = std::chrono::milliseconds(500);
    const auto until = std::chrono::steady_clock::now() + patience;
    known.expires_at(until);
    while (waits_for_strangers && shared->strangers >= most && acceptor.is_open()) {
      error_code ignored;
      co_await known.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
      waits_for_strangers = std::chrono::steady_clock::now() < until;
    }
    if (shared->strangers < most) waits_for_strangers = true;
  }

  asio::awaitable<void> accept() {
    while (acceptor.is_open()) {
      co_await wait_for_strangers();
      const auto strand = asio::make_strand(io);
      tcp::socket socket(strand);
      error_code ec;
      co_await acceptor.async_accept(socket, asio::redirect_error(asio::use_awaitable, ec));
      if (!acceptor.is_open()) break;
      if (!ec) {
        admit(std::move(socket), strand);
        continue;
      }
      // Out of descriptors, say: others need the time to end.
      spdlog::warn("event=http_accept_failed error=\"{}\"", ec.message());
      asio::steady_timer pause(acceptor.get_executor(), std::chrono::milliseconds(100));
      co_await pause.async_wait(asio::redirect_error(asio::use_awaitable, ec));
    }
  }

  void admit(tcp::socket socket, const HttpConnection::Executor& executor) {
    const bool full = shared->connections >= shared->config.connections;
    {
      // Those that are told so take a moment to end.
      const std::lock_guard lock(mutex);
      if (connections.size() >= shared->config.connections + 2 * refused_at_once) return;
    }
    error_code ignored;
    socket.set_option(tcp::no_delay(true), ignored);
    socket.set_option(asio::socket_base::keep_alive(true), ignored);
    auto connection = std::make_shared<HttpConnection>(
        shared, make_http_socket(std::move(socket), tls ? &*tls : nullptr), executor);
    ++shared->connections;
    {
      const std::lock_guard lock(mutex);
      connections.insert({connection.get(), {executor, connection}});
      if (full) refused(connection.get());
    }
    auto over = [this, key = connection.get()] {
      const std::lock_guard lock(mutex);
      const auto open = connections.find(key);
      if (open->second.refused) {
        std::erase(refusing, key);
      } else {
        --shared->connections;
      }
      connections.erase(open);
      changed.notify_all();
    };
    if (full) {
      spdlog::warn("event=http_refused reason=connections limit={}", shared->config.connections);
      connection->start_refusing(std::move(over));
    } else {
      connection->start(std::move(over));
    }
  }

  // Under `mutex`. It counts no more; where too many are on their way out, who has been for longest
  // has heard it.
  void refused(HttpConnection* connection) {
    ++shared->connections_refused_total;
    --shared->connections;
    connections.at(connection).refused = true;
    refusing.push_back(connection);
    if (refusing.size() <= refused_at_once) return;
    const auto& longest = connections.at(refusing.front());
    refusing.pop_front();
    asio::post(longest.executor, [weak = longest.connection] {
      if (const auto self = weak.lock()) self->close();
    });
  }

  // On each connection's strand.
  void for_each_connection(void (HttpConnection::*what)()) {
    const std::lock_guard lock(mutex);
    for (const auto& [key, connection] : connections) {
      asio::post(connection.executor, [weak = connection.connection, what] {
        if (const auto self = weak.lock()) (self.get()->*what)();
      });
    }
  }

  void stop(std::chrono::milliseconds deadline) {
    const auto until = std::chrono::steady_clock::now() + deadline;
    shared->stopping = true;
    asio::post(acceptor.get_executor(), [this] {
      error_code ignored;
      acceptor.close(ignored);
      known.cancel();
    });
    for_each_connection(&HttpConnection::stop_when_idle);
    {
      std::unique_lock lock(mutex);
      changed.wait_until(lock, until, [&] { return connections.empty(); });
      if (!connections.empty()) {
        spdlog::info("event=http_cut connections={}", connections.size());
      }
    }
    for_each_connection(&HttpConnection::cut);
    {
      std::unique_lock lock(mutex);
      changed.wait_for(lock, last_words, [&] { return connections.empty(); });
    }
    // Also those that were accepted meanwhile; each ends as soon as it is told.
    std::unique_lock lock(mutex);
    while (!connections.empty()) {
      lock.unlock();
      for_each_connection(&HttpConnection::close);
      lock.lock();
      changed.wait_for(lock, std::chrono::milliseconds(20), [&] { return connections.empty(); });
    }
    lock.unlock();
    work.reset();
    for (auto& thread : threads) thread.join();
    threads.clear();
  }
};

Result<std::unique_ptr<HttpGateway>> HttpGateway::start(const HttpConfig& config,
                                                        Frontend& frontend, Ledger& ledger) {
  if (auto good = check_listen_address(config.listen, "http"); !good) return fail(good.error());
  auto impl = std::make_unique<Impl>(config, frontend, ledger);
  auto tls = make_tls(config.listen);
  if (!tls) return fail(tls.error());
  impl->tls = std::move(*tls);
  if (auto listening = impl->listen(); !listening) return fail(listening.error());
  asio::co_spawn(
      impl->acceptor.get_executor(), [impl = impl.get()] { return impl->accept(); },
      asio::detached);
  for (int i = 0; i < io_threads; ++i) {
    impl->threads.emplace_back([impl = impl.get()] { impl->io.run(); });
  }
  spdlog::info("event=http_listening host={} port={} tls={}", config.listen.host, impl->port,
               impl->tls.has_value());
  return std::unique_ptr<HttpGateway>(new HttpGateway(std::move(impl)));
}

std::uint64_t HttpGateway::connection_bytes(const HttpConfig& config) {
  return HttpConnection::charged_bytes(config);
}

std::uint32_t HttpGateway::fitting_connections(const HttpConfig& config,
                                               std::uint64_t limit_bytes) {
  constexpr std::uint64_t least = 64;
  const auto most = limit_bytes / 16 / HttpConnection::charged_bytes(config);
  return static_cast<std::uint32_t>(
      std::min<std::uint64_t>(config.connections, std::max(most, least)));
}

HttpGateway::HttpGateway(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

HttpGateway::~HttpGateway() { stop(std::chrono::milliseconds(0)); }

std::uint16_t HttpGateway::port() const { return impl_->port; }

void HttpGateway::stop(std::chrono::milliseconds deadline) {
  if (!impl_->threads.empty()) impl_->stop(deadline);
}

}  // namespace plimsoll
