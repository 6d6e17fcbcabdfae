#include "actors/gateway/http_connection.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/status.hpp>
#include <limits>

#include "actors/gateway/http_text.h"
#include "actors/gateway/openai_response.h"

namespace plimsoll {

namespace http = boost::beast::http;
using boost::system::error_code;

namespace {

// How long a client may take to notice that the connection ends, before it is cut.
constexpr auto farewell = std::chrono::seconds(1);
// How often a half-closed connection is asked whether it is a closed one.
constexpr auto probe_interval = std::chrono::seconds(1);
// How long a body may wait for memory, and how often it asks.
constexpr auto memory_patience = std::chrono::seconds(2);
constexpr auto memory_interval = std::chrono::milliseconds(20);
// What a reader takes at least, in one write timeout.
constexpr std::size_t slowest_reader_bytes = 1 << 20;

HttpResponse too_large(const HttpShared& shared) {
  const auto most = shared.most_body_bytes();
  auto what = "the body is larger than the limit of " + std::to_string(most) + " bytes";
  if (most < shared.config.body_bytes) what += ", which is what this server has memory for";
  return error_response(
      413, Error(ErrorCode::invalid_argument, std::move(what)).with_reason("body_too_large"));
}

}  // namespace

HttpResponse error_response(const Error& error) {
  return error_response(http_status(error), error);
}

HttpResponse error_response(int status, const Error& error) {
  HttpResponse response;
  response.status = status;
  response.body = error_json(error, status);
  auto wait_ms = error.retry_after_ms;
  if (wait_ms == 0 && status == 503) wait_ms = 1000;
  if (wait_ms > 0 && (status == 429 || status == 503)) {
    response.headers.emplace_back("Retry-After", std::to_string((wait_ms + 999) / 1000));
    response.headers.emplace_back("Retry-After-Ms", std::to_string(wait_ms));
  }
  if (status == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer");
  return response;
}

HttpConnection::HttpConnection(std::shared_ptr<HttpShared> shared,
                               std::unique_ptr<HttpSocket> socket, Executor executor)
    : shared_(std::move(shared)),
      socket_(std::move(socket)),
      executor_(std::move(executor)),
      charge_(shared_->ledger.account(Component::rpc, "", shared_tenant),
              charged_bytes(shared_->config)),
      changed_(executor_),
      room_(executor_),
      watchdog_(executor_) {}

bool HttpConnection::set_tenant(const TenantId& tenant) {
  tenant_ = tenant.get();
  if (place_ == tenant_) return true;
  leave_place();
  if (shared_->places.take(tenant_, shared_->connections)) {
    place_ = tenant_;
    return true;
  }
  head_.keep_alive = false;
  if (shared_->on_refused) shared_->on_refused(this);
  return false;
}

void HttpConnection::leave_place() {
  if (!place_) return;
  shared_->places.give_back(*place_);
  place_.reset();
}

void HttpConnection::become_known() {
  if (!std::exchange(is_stranger_, false)) return;
  --shared_->strangers;
  if (shared_->on_known) shared_->on_known();
}

void HttpConnection::start(std::function<void()> over) {
  is_stranger_ = true;
  ++shared_->strangers;
  spawn(&HttpConnection::serve, std::move(over));
}

void HttpConnection::start_refusing(std::function<void()> over) {
  spawn(&HttpConnection::refuse, std::move(over));
}

void HttpConnection::spawn(asio::awaitable<void> (HttpConnection::*body)(),
                           std::function<void()> over) {
  auto self = shared_from_this();
  asio::co_spawn(
      executor_, [self, body] { return (self.get()->*body)(); },
      [self, over = std::move(over)](const std::exception_ptr& failure) {
        self->close();
        if (failure) spdlog::error("event=http_connection_failed");
        over();
      });
}

void HttpConnection::cut() {
  if (!interrupt_) return close();
  interrupt_(Error(ErrorCode::unavailable, "the server is stopping")
                 .with_reason("stopping")
                 .retry_after(1000));
}

void HttpConnection::close() {
  gone_ = true;
  become_known();
  leave_place();
  socket_->close();
  changed_.cancel();
  room_.cancel();
  unwatch();
}

std::function<void()> HttpConnection::waker() {
  return [weak = weak_from_this(), executor = executor_] {
    asio::post(executor, [weak] {
      if (const auto self = weak.lock()) self->changed_.cancel();
    });
  };
}

// Until `done()`, or false at the deadline. What `done` looks at changes on the strand only, and
// whoever changes it cancels `changed_`.
template <class Predicate>
asio::awaitable<bool> HttpConnection::wait(Clock::time_point deadline, Predicate& done) {
  while (!done()) {
    if (Clock::now() >= deadline) co_return false;
    changed_.expires_at(deadline);
    error_code ignored;
    co_await changed_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
  }
  co_return true;
}

void HttpConnection::watch(Clock::duration limit) {
  watchdog_.expires_after(limit);
  watchdog_.async_wait([weak = weak_from_this(), id = ++watched_](const error_code& ec) {
    const auto self = weak.lock();
    if (ec || !self || self->watched_ != id) return;
    spdlog::debug("event=http_timeout");
    self->close();
  });
}

void HttpConnection::unwatch() {
  ++watched_;
  watchdog_.cancel();
}

asio::awaitable<void> HttpConnection::serve() {
  auto deadline = Clock::now() + shared_->config.header_timeout;
  if (!co_await handshake()) co_return;
  while (co_await read_head(deadline)) {
    become_known();
    co_await answer();
    if (gone_ || !head_.keep_alive) break;
    deadline = Clock::now() + shared_->config.idle_timeout;
  }
  if (!gone_) co_await finish();
}

asio::awaitable<void> HttpConnection::refuse() {
  discarding_ = true;
  head_.keep_alive = false;
  if (!co_await handshake()) co_return;
  const Error error =
      Error(ErrorCode::unavailable, "the server has as many connections as it takes")
          .with_reason("too_many_connections");
  const HttpResponse response = error_response(error);
  if (co_await respond(response)) co_await finish();
}

asio::awaitable<bool> HttpConnection::handshake() {
  watch(shared_->config.header_timeout);
  error_code ec;
  co_await socket_->handshake(ec);
  unwatch();
  if (ec) co_return false;
  auto self = shared_from_this();
  asio::co_spawn(
      executor_, [self] { return self->read_input(); },
      [self](const std::exception_ptr& failure) {
        if (failure) self->close();
      });
  co_return true;
}

asio::awaitable<void> HttpConnection::read_input() {
  error_code ec;
  while (!ec && !gone_) {  // what was read just before it was closed ends here, too
    const std::size_t room =
        discarding_ ? chunk_.size()
                    : std::min<std::size_t>(chunk_.size(), input_limit() - input_.size());
    if (room == 0) {
      error_code ignored;
      room_.expires_at(Clock::time_point::max());
      co_await room_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
      continue;
    }
    const asio::mutable_buffer buffer(chunk_.data(), room);
    const std::size_t n = co_await socket_->read_some(buffer, ec);
    if (!discarding_) input_.append(chunk_.data(), n);
    changed_.cancel();
  }
  input_ended_ = true;
  if (ec != asio::error::eof || !socket_->half_close()) {
    close();
    co_return;
  }
  // The peer may have gone, or wait for the rest of its answers. Whatever is written to it from
  // now on tells: one that has gone refuses it.
  changed_.cancel();
  co_await socket_->wait_for_reset();
  close();
}

bool HttpConnection::feed(error_code& ec) {
  std::size_t taken = 0;
  ec = {};
  const bool had_head = parser_->is_header_done();
  while (!ec && taken < input_.size() && !parser_->is_done() &&
         parser_->is_header_done() == had_head) {
    const asio::const_buffer buffer(input_.data() + taken, input_.size() - taken);
    const std::size_t n = parser_->put(buffer, ec);
    taken += n;
    if (n == 0) break;
  }
  if (ec == http::error::need_more) ec = {};
  const bool stuck = taken == 0 && input_.size() >= input_limit();
  input_.erase(0, taken);
  room_.cancel();
  return !stuck;
}

asio::awaitable<bool> HttpConnection::read_head(Clock::time_point deadline) {
  parser_.reset();
  head_ = {};
  wrote_ = Wrote::nothing;
  tenant_.clear();
  headers_.clear();
  status_ = 0;
  request_id_ = make_answer_id("req_");
  auto begun = [this] {
    return !input_.empty() || input_ended_ || gone_ || shared_->stopping.load();
  };
  if (!co_await wait(deadline, begun) || input_.empty() || gone_) co_return false;

  deadline = Clock::now() + shared_->config.header_timeout;
  parser_.emplace();
  parser_->header_limit(shared_->config.header_bytes);
  // read_body() has its own. (In 1.74, `none` compares as less than any length.)
  parser_->body_limit(std::numeric_limits<std::uint64_t>::max());
  while (true) {
    // A TLS greeting, or anything else that is no request, need not run into the time limit.
    const auto first = static_cast<unsigned char>(input_.front());
    if (std::isalpha(first) == 0 && first != '\r' && first != '\n') {
      Error error(ErrorCode::malformed, "this is not an HTTP request");
      co_return co_await reject(400, std::move(error));
    }
    error_code ec;
    const bool fits = feed(ec);
    if (ec == http::error::header_limit || !fits) {
      Error error(ErrorCode::invalid_argument, "the request's head is larger than the limit of " +
                                                   std::to_string(shared_->config.header_bytes) +
                                                   " bytes");
      co_return co_await reject(431, std::move(error));
    }
    if (ec) {
      Error error(ErrorCode::malformed, "malformed HTTP request: " + ec.message());
      co_return co_await reject(400, std::move(error));
    }
    if (parser_->is_header_done()) break;
    if (input_ended_ || gone_) co_return false;
    auto more = [this, had = input_.size()] {
      return input_.size() > had || input_ended_ || gone_;
    };
    if (!co_await wait(deadline, more)) {
      Error error(ErrorCode::deadline_exceeded, "the request's head took too long to arrive");
      co_return co_await reject(408, std::move(error));
    }
  }
  co_return co_await check_head();
}

asio::awaitable<bool> HttpConnection::check_head() {
  parser_->eager(true);
  const auto& request = parser_->get();
  const auto field = [&](http::field name) { return std::string(request[name]); };
  head_.method = std::string(request.method_string());
  head_.target = std::string(request.target());
  head_.path = path_of_target(head_.target);
  head_.authorization = field(http::field::authorization);
  head_.content_type = field(http::field::content_type);
  head_.content_encoding = field(http::field::content_encoding);
  head_.expect = field(http::field::expect);
  head_.http11 = request.version() == 11;
  head_.keep_alive = request.keep_alive();
  if (request.version() != 11 && request.version() != 10) {
    Error error(ErrorCode::unsupported, "this server speaks HTTP/1.1 and HTTP/1.0");
    co_return co_await reject(505, std::move(error));
  }
  if (head_.http11 && request.count(http::field::host) != 1) {
    Error error(ErrorCode::malformed, "an HTTP/1.1 request needs one Host header");
    co_return co_await reject(400, std::move(error));
  }
  const std::string coding = field(http::field::transfer_encoding);
  if (!coding.empty() && !same_word(coding, "chunked")) {
    Error error(ErrorCode::unsupported, "no Transfer-Encoding is supported but chunked");
    co_return co_await reject(501, std::move(error));
  }
  co_return true;
}

asio::awaitable<bool> HttpConnection::reject(int status, Error error) {
  head_.keep_alive = false;
  const HttpResponse response = error_response(status, error);
  const auto began = Clock::now();
  const bool sent = co_await respond(response);
  log_access(began);
  if (sent) co_await finish();
  co_return false;
}

asio::awaitable<void> HttpConnection::answer() {
  const auto began = Clock::now();
  try {
    co_await shared_->handler->answer(*this);
  } catch (const std::exception& e) {
    spdlog::error("event=http_handler_failed id={} error=\"{}\"", request_id_, e.what());
  }
  if (!gone_ && wrote_ == Wrote::nothing) {
    const Error error(ErrorCode::internal, "the server failed to answer " + request_id_);
    const HttpResponse response = error_response(error);
    co_await respond(response);
  }
  if (wrote_ != Wrote::all) close();  // cut short: the client must not take it for the whole
  log_access(began);
}

void HttpConnection::log_access(Clock::time_point began) const {
  using Milliseconds = std::chrono::duration<double, std::milli>;
  if (status_ >= 100 && status_ < 600) ++shared_->responses_total[status_ / 100];
  spdlog::debug("event=http_request id={} method={} path={} status={} ms={:.1f} tenant={}{}",
                request_id_, log_word(head_.method), log_word(head_.target), status_,
                Milliseconds(Clock::now() - began).count(), tenant_.empty() ? "-" : tenant_,
                gone_ ? " gone=true" : "");
}

asio::awaitable<bool> HttpConnection::hold(RequestLease& memory, std::uint64_t bytes) {
  const auto until = Clock::now() + memory_patience;
  auto over = [this] { return gone_; };
  while (!memory.hold(bytes)) {
    if (gone_ || Clock::now() >= until) co_return false;
    co_await wait(Clock::now() + memory_interval, over);
  }
  co_return true;
}

asio::awaitable<tl::expected<HttpBody, HttpResponse>> HttpConnection::read_body(
    const TenantId& tenant, Account& account) {
  const HttpConfig& config = shared_->config;
  const std::uint64_t most = shared_->most_body_bytes();
  HttpBody body{{}, RequestLease(shared_->memory, tenant, account)};
  const auto length = parser_->content_length();
  if (length && *length > most) co_return tl::unexpected(too_large(*shared_));
  if (!head_.expect.empty() && !parser_->is_done()) {
    if (!same_word(head_.expect, "100-continue")) {
      const Error error(ErrorCode::unsupported, "no Expect is supported but 100-continue");
      co_return tl::unexpected(error_response(417, error));
    }
    constexpr std::string_view go_on = "HTTP/1.1 100 Continue\r\n\r\n";
    if (head_.http11 && input_.empty()) {
      const std::uint64_t needed = json_text_copies * (length ? *length : 0);
      const bool held = co_await hold(body.memory, needed);
      if (held) co_await write(go_on);
    }
  }
  const auto deadline = Clock::now() + config.body_timeout;
  const std::string& text = parser_->get().body();
  while (!parser_->is_done()) {
    // One of unknown length is there twice while it grows, but not read as JSON yet.
    const std::uint64_t needed =
        json_text_copies * (length ? *length : text.size() + input_.size());
    const bool held = co_await hold(body.memory, needed);
    if (!held) {
      co_return tl::unexpected(error_response(request_memory_taken(shared_->memory, needed)));
    }
    error_code ec;
    if (!feed(ec) || ec) {
      const Error error(ErrorCode::malformed, "malformed request body: " + ec.message());
      co_return tl::unexpected(error_response(400, error));
    }
    if (text.size() > most) co_return tl::unexpected(too_large(*shared_));
    if (parser_->is_done()) break;
    if (input_ended_ || gone_) {
      const Error error(ErrorCode::malformed, "the request's body ends too early");
      co_return tl::unexpected(error_response(400, error));
    }
    auto more = [this, had = input_.size()] {
      return input_.size() > had || input_ended_ || gone_;
    };
    if (!co_await wait(deadline, more)) {
      const Error error(ErrorCode::deadline_exceeded, "the request's body took too long to arrive");
      co_return tl::unexpected(error_response(408, error));
    }
  }
  body.text = std::move(parser_->get().body());
  co_return body;
}

std::string HttpConnection::start_line(int status, std::string_view content_type) {
  // What was not read of this request would be taken for the next one.
  head_.keep_alive = head_.keep_alive && parser_ && parser_->is_done() && !shared_->stopping;
  status_ = status;
  std::string text = "HTTP/1.1 " + std::to_string(status) + " ";
  text += std::string(http::obsolete_reason(http::int_to_status(status)));
  text += "\r\nServer: plimsoll\r\nDate: " + http_date() + "\r\nX-Request-Id: " + request_id_;
  for (const auto& [name, value] : headers_) text += "\r\n" + name + ": " + value;
  if (!content_type.empty()) text += "\r\nContent-Type: " + std::string(content_type);
  if (!head_.keep_alive) text += "\r\nConnection: close";
  if (head_.keep_alive && !head_.http11) text += "\r\nConnection: keep-alive";
  return text + "\r\n";
}

asio::awaitable<bool> HttpConnection::respond(const HttpResponse& response) {
  wrote_ = Wrote::head;
  const bool empty = response.body.empty();
  std::string head = start_line(response.status, empty ? "" : response.content_type);
  for (const auto& [name, value] : response.headers) head += name + ": " + value + "\r\n";
  if (response.status != 204) {
    head += "Content-Length: " + std::to_string(response.body.size()) + "\r\n";
  }
  head += "\r\n";
  const bool with_body = head_.method != "HEAD";
  constexpr std::size_t one_packet = 16 * 1024;
  if (with_body && response.body.size() <= one_packet) head += response.body;
  bool sent = co_await write(head);
  if (sent && with_body && response.body.size() > one_packet) sent = co_await write(response.body);
  if (sent) wrote_ = Wrote::all;
  co_return sent;
}

void HttpConnection::begin_stream() {
  wrote_ = Wrote::head;
  if (!head_.http11) head_.keep_alive = false;  // HTTP/1.0 knows no chunks: the end is the end
  std::string head = start_line(200, "text/event-stream; charset=utf-8");
  head += "Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n";
  if (head_.http11) head += "Transfer-Encoding: chunked\r\n";
  pending_head_ = head + "\r\n";
}

asio::awaitable<bool> HttpConnection::write_stream(std::string_view events) {
  std::string text = std::exchange(pending_head_, {});
  if (head_.http11) text += hex_number(events.size()) + "\r\n";
  text += events;
  if (head_.http11) text += "\r\n";
  co_return co_await write(text);
}

asio::awaitable<bool> HttpConnection::end_stream() {
  const std::string_view last = head_.http11 ? "0\r\n\r\n" : "";
  const bool sent = co_await write(last);
  if (sent) wrote_ = Wrote::all;
  co_return sent;
}

asio::awaitable<bool> HttpConnection::wait_for_events(const AnswerEvents& events) {
  auto ready = [this, &events] {
    return gone_ || !events.empty() || (input_ended_ && Clock::now() >= next_probe_);
  };
  while (true) {
    co_await wait(input_ended_ ? next_probe_ : Clock::time_point::max(), ready);
    if (gone_) co_return false;
    if (!events.empty()) co_return true;
    if (input_ended_ && !co_await probe()) co_return false;
  }
}

// The peer writes no more. If it has closed altogether, it refuses what it is sent, and
// read_input() sees that; if it waits for its answer, it skips this.
asio::awaitable<bool> HttpConnection::probe() {
  next_probe_ = Clock::now() + probe_interval;
  if (wrote_ != Wrote::nothing) {
    constexpr std::string_view comment = ":\n\n";  // of server-sent events
    co_return co_await write_stream(comment);
  }
  if (!head_.http11) {  // knows no interim answers: the usual thing, a client that left
    close();
    co_return false;
  }
  constexpr std::string_view interim = "HTTP/1.1 100 Continue\r\n\r\n";  // RFC 9110, 15.2
  co_return co_await write(interim);
}

asio::awaitable<bool> HttpConnection::write(std::string_view bytes) {
  const auto limit = shared_->config.write_timeout;
  const auto deadline = Clock::now() + limit * (1 + bytes.size() / slowest_reader_bytes);
  while (!bytes.empty()) {
    if (gone_) co_return false;
    watch(std::min<Clock::duration>(limit, deadline - Clock::now()));
    error_code ec;
    const asio::const_buffer buffer(bytes.data(), bytes.size());
    const std::size_t n = co_await socket_->write_some(buffer, ec);
    unwatch();
    if (ec) {
      close();
      co_return false;
    }
    bytes.remove_prefix(n);
  }
  co_return !gone_;
}

// Lets the client read what was written: closing with input unread would reset the connection
// and take the answer along (RFC 9112, 9.6).
asio::awaitable<void> HttpConnection::finish() {
  discarding_ = true;
  input_.clear();
  room_.cancel();
  watch(farewell);
  co_await socket_->end_output();
  auto ended = [this] { return input_ended_ || gone_; };
  co_await wait(Clock::now() + farewell, ended);
  close();
}

}  // namespace plimsoll
