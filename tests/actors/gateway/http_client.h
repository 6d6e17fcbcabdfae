// An HTTP client for tests, down at the bytes: it can be as slow, rude or wrong as a test wants.
#pragma once

#include <openssl/ssl.h>

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace plimsoll {

struct TestResponse {
  int status = 0;                              // 0: none came
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;
};

class TestHttpClient {
 public:
  // With `tls`, any certificate is accepted. `receive_buffer` bytes: 0 for the system's choice.
  explicit TestHttpClient(std::uint16_t port, bool tls = false, int receive_buffer = 0);
  ~TestHttpClient();
  TestHttpClient(const TestHttpClient&) = delete;
  TestHttpClient& operator=(const TestHttpClient&) = delete;

  bool connected() const { return fd_ >= 0; }
  bool send(std::string_view bytes);
  void end_output();  // half-close
  void close();
  void reset();  // close with a RST

  // What there is, up to `limit`; "" at the end or after the time limit.
  std::string read_some(std::size_t limit = 16384);
  // Reads until `text` was seen; all that was read.
  std::string read_until(std::string_view text);
  std::string read_all();
  // One answer, of fixed length, chunked or to the end; interim answers are skipped.
  TestResponse read_response(bool head_only = false);
  // True if the server closes within the time.
  bool closed_within(std::chrono::milliseconds limit);

  TestResponse get(const std::string& path, const std::string& headers = "");
  TestResponse post(const std::string& path, const std::string& body,
                    const std::string& headers = "");

 private:
  int fd_ = -1;
  std::unique_ptr<SSL_CTX, void (*)(SSL_CTX*)> context_;
  std::unique_ptr<SSL, void (*)(SSL*)> ssl_;
  std::string input_;
};

std::string get_text(const std::string& path, const std::string& headers = "");
std::string post_text(const std::string& path, const std::string& body,
                      const std::string& headers = "");

}  // namespace plimsoll
