#include "tests/actors/gateway/http_client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace plimsoll {

namespace {

constexpr timeval patience{10, 0};

}  // namespace

TestHttpClient::TestHttpClient(std::uint16_t port, bool tls, int receive_buffer)
    : context_(nullptr, SSL_CTX_free), ssl_(nullptr, SSL_free) {
  fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  if (receive_buffer > 0) {
    setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
  }
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    close();
    return;
  }
  if (!tls) return;
  context_.reset(SSL_CTX_new(TLS_client_method()));
  ssl_.reset(SSL_new(context_.get()));
  SSL_set_fd(ssl_.get(), fd_);
  if (SSL_connect(ssl_.get()) != 1) close();
}

TestHttpClient::~TestHttpClient() { close(); }

bool TestHttpClient::send(std::string_view bytes) {
  while (!bytes.empty()) {
    const auto n = ssl_ ? SSL_write(ssl_.get(), bytes.data(), static_cast<int>(bytes.size()))
                        : ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n <= 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  return true;
}

void TestHttpClient::end_output() { shutdown(fd_, SHUT_WR); }

void TestHttpClient::close() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

void TestHttpClient::reset() {
  const linger now{1, 0};
  setsockopt(fd_, SOL_SOCKET, SO_LINGER, &now, sizeof now);
  close();
}

std::string TestHttpClient::read_some(std::size_t limit) {
  std::string bytes(limit, '\0');
  const auto n = ssl_ ? SSL_read(ssl_.get(), bytes.data(), static_cast<int>(limit))
                      : recv(fd_, bytes.data(), limit, 0);
  bytes.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
  return bytes;
}

std::string TestHttpClient::read_until(std::string_view text) {
  while (input_.find(text) == std::string::npos) {
    const std::string more = read_some();
    if (more.empty()) break;
    input_ += more;
  }
  const auto at = input_.find(text);
  const auto end = at == std::string::npos ? input_.size() : at + text.size();
  std::string out = input_.substr(0, end);
  input_.erase(0, end);
  return out;
}

std::string TestHttpClient::read_all() {
  std::string out = std::exchange(input_, {});
  for (std::string more = read_some(); !more.empty(); more = read_some()) out += more;
  return out;
}

TestResponse TestHttpClient::read_response(bool head_only) {
  TestResponse response;
  const std::string head = read_until("\r\n\r\n");
  if (head.size() < 13 || head.compare(0, 7, "HTTP/1.") != 0) return response;
  response.status = std::atoi(head.c_str() + 9);
  if (response.status == 100) return read_response(head_only);
  std::size_t at = head.find("\r\n") + 2;
  while (at < head.size()) {
    const auto end = head.find("\r\n", at);
    const auto colon = head.find(": ", at);
    if (colon == std::string::npos || colon > end) break;
    std::string name = head.substr(at, colon - at);
    std::transform(name.begin(), name.end(), name.begin(), ::tolower);
    response.headers[name] = head.substr(colon + 2, end - colon - 2);
    at = end + 2;
  }
  if (head_only || response.status == 204) return response;
  if (response.headers.contains("content-length")) {
    const auto length = std::stoul(response.headers["content-length"]);
    while (input_.size() < length) {
      const std::string more = read_some();
      if (more.empty()) break;
      input_ += more;
    }
    response.body = input_.substr(0, length);
    input_.erase(0, response.body.size());
  } else if (response.headers.contains("transfer-encoding")) {
    while (true) {
      const std::string line = read_until("\r\n");
      const auto length = std::strtoul(line.c_str(), nullptr, 16);
      if (line.empty() || length == 0) break;
      while (input_.size() < length + 2) {
        const std::string more = read_some();
        if (more.empty()) return response;
        input_ += more;
      }
      response.body += input_.substr(0, length);
      input_.erase(0, length + 2);
    }
    read_until("\r\n");
  } else {
    response.body = read_all();
  }
  return response;
}

bool TestHttpClient::closed_within(std::chrono::milliseconds limit) {
  const auto until = std::chrono::steady_clock::now() + limit;
  while (std::chrono::steady_clock::now() < until) {
    pollfd descriptor{fd_, POLLIN, 0};
    if (poll(&descriptor, 1, 10) > 0 && read_some().empty()) return true;
  }
  return false;
}

TestResponse TestHttpClient::get(const std::string& path, const std::string& headers) {
  if (!send(get_text(path, headers))) return {};
  return read_response();
}

TestResponse TestHttpClient::post(const std::string& path, const std::string& body,
                                  const std::string& headers) {
  send(post_text(path, body, headers));
  return read_response();
}

std::string get_text(const std::string& path, const std::string& headers) {
  return "GET " + path + " HTTP/1.1\r\nHost: localhost\r\n" + headers + "\r\n";
}

std::string post_text(const std::string& path, const std::string& body,
                      const std::string& headers) {
  return "POST " + path + " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" +
         "Content-Length: " + std::to_string(body.size()) + "\r\n" + headers + "\r\n" + body;
}

}  // namespace plimsoll
