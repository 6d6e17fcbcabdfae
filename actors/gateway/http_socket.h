// A connection's bytes, plain or under TLS: the one place that knows which.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <cstddef>
#include <memory>

namespace plimsoll {

namespace asio = boost::asio;

// All calls on the connection's strand; at most one read and one write at a time. Errors come
// through `ec`, never as exceptions.
class HttpSocket {
 public:
  virtual ~HttpSocket() = default;

  virtual asio::awaitable<void> handshake(boost::system::error_code& ec) = 0;
  virtual asio::awaitable<std::size_t> read_some(asio::mutable_buffer buffer,
                                                 boost::system::error_code& ec) = 0;
  virtual asio::awaitable<std::size_t> write_some(asio::const_buffer buffer,
                                                  boost::system::error_code& ec) = 0;
  // Tells the peer that nothing more is written.
  virtual asio::awaitable<void> end_output() = 0;
  // Ends when the peer refuses what was written to it (a reset), or on close().
  virtual asio::awaitable<void> wait_for_reset() = 0;
  // Whether a peer may end its output and still wait for an answer.
  virtual bool half_close() const = 0;
  virtual void close() = 0;  // ends every operation; may be called again
};

// `tls` nullptr: plain.
std::unique_ptr<HttpSocket> make_http_socket(asio::ip::tcp::socket socket, asio::ssl::context* tls);

}  // namespace plimsoll
