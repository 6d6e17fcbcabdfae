// One HTTP/1.x connection: requests one after the other, each with a limit on its size and on its
// time, and answers in one piece or streamed.
//
// Everything runs on the connection's strand. One coroutine does nothing but read, so that the
// peer's leave is seen while an answer is being made, and so that pipelined requests wait their
// turn; the other reads requests out of the bytes and has them answered.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "actors/frontend.h"
#include "actors/gateway/bounded_json.h"
#include "actors/gateway/connection_places.h"
#include "actors/gateway/http_events.h"
#include "actors/gateway/http_socket.h"
#include "actors/request_memory.h"
#include "actors/server_config.h"
#include "engine/base/result.h"
#include "engine/memory/ledger.h"

namespace plimsoll {

class HttpConnection;

// Answers one request through the connection it came on.
class HttpHandler {
 public:
  virtual ~HttpHandler() = default;
  virtual asio::awaitable<void> answer(HttpConnection& connection) = 0;
};

// What all connections of a gateway share.
struct HttpShared {
  HttpShared(const HttpConfig& c, Ledger& l, RequestMemory& m)
      : config(c), ledger(l), memory(m), places(c.connections) {}
  // The largest body that is taken: what reading it needs can be had.
  std::uint64_t most_body_bytes() const {
    return std::min(config.body_bytes, memory.most_bytes() / json_text_copies);
  }

  const HttpConfig config;
  Ledger& ledger;
  HttpHandler* handler = nullptr;
  RequestMemory& memory;  // for bodies, what parsers make of them, answers in one piece
  std::atomic<bool> stopping{false};
  ConnectionPlaces places;
  // A connection got no place: it is to end, and does not count any more.
  std::function<void(HttpConnection*)> on_refused;
  // A connection has said for the first time what it wants, or has gone.
  std::function<void()> on_known;
  std::atomic<std::uint32_t> strangers{0};  // connections that have not yet
  std::atomic<std::uint32_t> connections{0};
  std::atomic<std::uint64_t> connections_refused_total{0};
  std::array<std::atomic<std::uint64_t>, 6> responses_total{};  // by the status's first digit
};

struct HttpHead {
  std::string method;
  std::string target;  // as it came
  std::string path;    // without the query, percent-decoded
  std::string authorization, content_type, content_encoding, expect;
  bool http11 = true;
  bool keep_alive = true;
};

struct HttpResponse {
  int status = 200;
  std::string body;
  std::string content_type = "application/json";
  std::vector<std::pair<std::string, std::string>> headers;
};
// With Retry-After where the error says when to come again.
HttpResponse error_response(const Error& error);
HttpResponse error_response(int status, const Error& error);

struct HttpBody {
  std::string text;
  RequestLease memory;  // for reading it as JSON
};

class HttpConnection : public std::enable_shared_from_this<HttpConnection> {
 public:
  using Clock = std::chrono::steady_clock;
  using Executor = asio::strand<asio::io_context::executor_type>;

  HttpConnection(std::shared_ptr<HttpShared> shared, std::unique_ptr<HttpSocket> socket,
                 Executor executor);

  // Of one, beside bodies and answers.
  static std::uint64_t charged_bytes(const HttpConfig& config) {
    constexpr std::uint64_t frames = 12_KiB;  // of its coroutines, and what sockets and timers have
    return sizeof(HttpConnection) + config.header_bytes + frames +
           (config.listen.tls_key.empty() ? 0 : 96_KiB);
  }

  // Serves until the peer or the gateway ends it; `over` is called last, on the strand.
  void start(std::function<void()> over);
  // Tells the client that there are too many already.
  void start_refusing(std::function<void()> over);
  // On the strand, both:
  void stop_when_idle() { changed_.cancel(); }  // `shared.stopping` is set before
  void cut();  // ends the answer in progress with an error, or closes
  void close();

  // For the handler, while it answers.
  const HttpHead& head() const { return head_; }
  HttpShared& shared() { return *shared_; }
  // Whose request it is. False: that tenant has too many connections, and this one ends with the
  // answer.
  bool set_tenant(const TenantId& tenant);
  const std::string& request_id() const { return request_id_; }

  // Reads the body, after "100 Continue" where the client waits for it, and once there is memory
  // for it: waits a little for that. Errors come as the response to give. The connection ends after
  // an answer whose body was not read.
  asio::awaitable<tl::expected<HttpBody, HttpResponse>> read_body(const TenantId& tenant,
                                                                  Account& account);

  // False from any of these: the peer is gone, and what runs for it should be cancelled.
  asio::awaitable<bool> respond(const HttpResponse& response);
  void begin_stream();  // 200 text/event-stream; goes out with the first events
  asio::awaitable<bool> write_stream(std::string_view events);
  asio::awaitable<bool> end_stream();
  asio::awaitable<bool> wait_for_events(const AnswerEvents& events);

  // Replaces the headers that the next answer has beside its own.
  using Headers = std::vector<std::pair<std::string, std::string>>;
  void set_headers(Headers headers) { headers_ = std::move(headers); }

  // What cut() calls while an answer is being made.
  void set_interrupt(std::function<void(const Error&)> interrupt) {
    interrupt_ = std::move(interrupt);
  }
  // Wakes wait_for_events(); from any thread, as long as the gateway lives.
  std::function<void()> waker();

 private:
  using Parser = boost::beast::http::request_parser<boost::beast::http::string_body>;
  enum class Wrote : std::uint8_t { nothing, head, all };

  void spawn(asio::awaitable<void> (HttpConnection::*body)(), std::function<void()> over);
  asio::awaitable<void> serve();
  asio::awaitable<void> refuse();
  asio::awaitable<bool> handshake();
  asio::awaitable<void> read_input();
  asio::awaitable<bool> read_head(Clock::time_point deadline);
  asio::awaitable<bool> check_head();
  asio::awaitable<bool> reject(int status, Error error);
  asio::awaitable<void> answer();
  asio::awaitable<bool> hold(RequestLease& memory, std::uint64_t bytes);
  asio::awaitable<bool> probe();
  asio::awaitable<bool> write(std::string_view bytes);
  asio::awaitable<void> finish();
  void leave_place();
  void become_known();
  template <class Predicate>
  asio::awaitable<bool> wait(Clock::time_point deadline, Predicate& done);

  // Gives the parser what was read. False if it needs more at once than the input may hold.
  bool feed(boost::system::error_code& ec);
  std::string start_line(int status, std::string_view content_type);
  std::size_t input_limit() const { return std::max(shared_->config.header_bytes, 1024U); }
  void watch(Clock::duration limit);
  void unwatch();
  void log_access(Clock::time_point began) const;

  std::shared_ptr<HttpShared> shared_;
  std::unique_ptr<HttpSocket> socket_;
  Executor executor_;
  Charge charge_;
  asio::steady_timer changed_;   // cancelled when something that wait() looks at has changed
  asio::steady_timer room_;      // cancelled when there is room for input again
  asio::steady_timer watchdog_;  // closes the socket when a write takes too long
  std::uint64_t watched_ = 0;    // which write the watchdog is for

  std::array<char, 16 * 1024> chunk_;
  std::string input_;         // read and not yet understood
  bool discarding_ = false;   // input is thrown away: the connection is being closed
  bool input_ended_ = false;  // the peer writes no more
  bool gone_ = false;         // the peer, or the connection itself

  Clock::time_point next_probe_;  // of a peer that has ended its output: has it gone?

  std::optional<Parser> parser_;
  HttpHead head_;
  std::function<void(const Error&)> interrupt_;
  Wrote wrote_ = Wrote::nothing;
  int status_ = 0;            // of the answer
  std::string pending_head_;  // of a stream: goes out with its first events
  bool is_stranger_ = false;  // it counts as one
  std::string tenant_, request_id_;
  std::optional<std::string> place_;  // the tenant whose connection it is, from request to request
  Headers headers_;
};

}  // namespace plimsoll
