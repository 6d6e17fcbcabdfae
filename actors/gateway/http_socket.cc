#include "actors/gateway/http_socket.h"

#include <boost/asio/redirect_error.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/use_awaitable.hpp>

namespace plimsoll {

namespace {

using asio::ip::tcp;
using boost::system::error_code;

class PlainSocket final : public HttpSocket {
 public:
  explicit PlainSocket(tcp::socket socket) : socket_(std::move(socket)) {}

  asio::awaitable<void> handshake(error_code&) override { co_return; }

  asio::awaitable<std::size_t> read_some(asio::mutable_buffer buffer, error_code& ec) override {
    co_return co_await socket_.async_read_some(buffer,
                                               asio::redirect_error(asio::use_awaitable, ec));
  }

  asio::awaitable<std::size_t> write_some(asio::const_buffer buffer, error_code& ec) override {
    co_return co_await socket_.async_write_some(buffer,
                                                asio::redirect_error(asio::use_awaitable, ec));
  }

  asio::awaitable<void> end_output() override {
    error_code ignored;
    socket_.shutdown(tcp::socket::shutdown_send, ignored);
    co_return;
  }

  asio::awaitable<void> wait_for_reset() override {
    error_code ignored;
    co_await socket_.async_wait(tcp::socket::wait_error,
                                asio::redirect_error(asio::use_awaitable, ignored));
  }

  bool half_close() const override { return true; }

  void close() override {
    error_code ignored;
    socket_.close(ignored);
  }

 private:
  tcp::socket socket_;
};

class TlsSocket final : public HttpSocket {
 public:
  TlsSocket(tcp::socket socket, asio::ssl::context& tls) : stream_(std::move(socket), tls) {}

  asio::awaitable<void> handshake(error_code& ec) override {
    co_await stream_.async_handshake(asio::ssl::stream_base::server,
                                     asio::redirect_error(asio::use_awaitable, ec));
  }

  asio::awaitable<std::size_t> read_some(asio::mutable_buffer buffer, error_code& ec) override {
    co_return co_await stream_.async_read_some(buffer,
                                               asio::redirect_error(asio::use_awaitable, ec));
  }

  asio::awaitable<std::size_t> write_some(asio::const_buffer buffer, error_code& ec) override {
    co_return co_await stream_.async_write_some(buffer,
                                                asio::redirect_error(asio::use_awaitable, ec));
  }

  asio::awaitable<void> end_output() override {
    error_code ignored;
    co_await stream_.async_shutdown(asio::redirect_error(asio::use_awaitable, ignored));
  }

  asio::awaitable<void> wait_for_reset() override { co_return; }

  // A client's close_notify is taken as its leave: none is known that goes on reading after it.
  bool half_close() const override { return false; }

  void close() override {
    error_code ignored;
    stream_.next_layer().close(ignored);
  }

 private:
  asio::ssl::stream<tcp::socket> stream_;
};

}  // namespace

std::unique_ptr<HttpSocket> make_http_socket(tcp::socket socket, asio::ssl::context* tls) {
  if (tls == nullptr) return std::make_unique<PlainSocket>(std::move(socket));
  return std::make_unique<TlsSocket>(std::move(socket), *tls);
}

}  // namespace plimsoll
