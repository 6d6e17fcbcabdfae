#include "storage/etcd_client.h"

#include <curl/curl.h>
#include <openssl/evp.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstring>
#include <utility>

namespace plimsoll::storage {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr std::size_t max_answer_bytes = 64 << 20;
constexpr std::size_t max_idle_handles = 4;
constexpr long stream_silence_s = 30;

// RPC codes of gRPC, as the gateway gives them.
enum {
  rpc_deadline = 4,
  rpc_not_found = 5,
  rpc_denied = 7,
  rpc_exhausted = 8,
  rpc_unavailable = 14,
  rpc_unauthenticated = 16
};

Error error_of(const nlohmann::json& answer, long status, const std::string& endpoint) {
  const auto code = answer.is_object() ? number_in(answer, "code") : 0;
  const auto said = answer.is_object() ? text_in(answer, "message") : std::string();
  const std::string message = "etcd at " + endpoint + ": " +
                              (said.empty() ? "HTTP status " + std::to_string(status) : said);
  switch (code) {
    case rpc_not_found: return {ErrorCode::not_found, message};
    case rpc_denied:
    case rpc_unauthenticated: return {ErrorCode::permission_denied, message};
    case rpc_exhausted: return {ErrorCode::resource_exhausted, message};
    case rpc_deadline:
    case rpc_unavailable: return {ErrorCode::unavailable, message};
    default: return {status >= 500 ? ErrorCode::unavailable : ErrorCode::internal, message};
  }
}

bool is_loopback(std::string_view endpoint) {
  auto host = endpoint.substr(std::strlen("http://"));
  host = host.substr(0, host.rfind(':'));
  const bool digits = host.find_first_not_of("0123456789.") == std::string_view::npos;
  return (digits && host.starts_with("127.")) || host == "localhost" || host == "[::1]";
}

struct Body {
  std::string_view rest;
};
std::size_t read_body(char* out, std::size_t size, std::size_t count, void* body) {
  auto& rest = static_cast<Body*>(body)->rest;
  const auto taken = std::min(size * count, rest.size());
  std::memcpy(out, rest.data(), taken);
  rest.remove_prefix(taken);
  return taken;
}

std::size_t read_answer(char* data, std::size_t size, std::size_t count, void* out) {
  auto& answer = *static_cast<std::string*>(out);
  if (answer.size() + size * count > max_answer_bytes) return 0;
  answer.append(data, size * count);
  return size * count;
}

struct Lines {
  const std::function<bool(const nlohmann::json&)>& on_message;
  std::string pending;
};
std::size_t read_lines(char* data, std::size_t size, std::size_t count, void* out) {
  auto& lines = *static_cast<Lines*>(out);
  if (lines.pending.size() + size * count > max_answer_bytes) return 0;
  lines.pending.append(data, size * count);
  std::size_t start = 0;
  for (auto end = lines.pending.find('\n'); end != std::string::npos;
       end = lines.pending.find('\n', start)) {
    const auto message = nlohmann::json::parse(
        lines.pending.begin() + static_cast<std::ptrdiff_t>(start),
        lines.pending.begin() + static_cast<std::ptrdiff_t>(end), nullptr, false);
    if (!message.is_object() || !lines.on_message(message)) return 0;
    start = end + 1;
  }
  lines.pending.erase(0, start);
  return size * count;
}

}  // namespace

struct EtcdClient::Handle {
  Handle() : easy(curl_easy_init()) {}
  ~Handle() {
    curl_easy_cleanup(easy);
    curl_slist_free_all(headers);
  }
  // A request from the start, connections kept. The body outlives it.
  void prepare(const EtcdOptions& options, const std::string& url, Body& body,
               milliseconds connect) {
    curl_easy_reset(easy);
    curl_slist_free_all(headers);
    headers = curl_slist_append(nullptr, "Content-Type: application/json");
    headers = curl_slist_append(headers, "Expect:");
    // A member without a leader says so, and does not leave a watch waiting.
    headers = curl_slist_append(headers, "Grpc-Metadata-hasleader: true");
    curl_easy_setopt(easy, CURLOPT_URL, url.c_str());
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_PROXY, "");
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(connect.count()));
    // A read function, and none to rewind: where a kept connection turns out to be dead, curl would
    // send a plain body again, and a compare-and-swap would conflict with itself.
    curl_easy_setopt(easy, CURLOPT_POST, 1L);
    curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(body.rest.size()));
    curl_easy_setopt(easy, CURLOPT_READFUNCTION, read_body);
    curl_easy_setopt(easy, CURLOPT_READDATA, &body);
    const auto file = [this](CURLoption option, const std::filesystem::path& path) {
      if (!path.empty()) curl_easy_setopt(easy, option, path.c_str());
    };
    file(CURLOPT_CAINFO, options.ca_file);
    file(CURLOPT_SSLCERT, options.certificate);
    file(CURLOPT_SSLKEY, options.key);
  }

  CURL* easy;
  curl_slist* headers = nullptr;
};

Result<std::unique_ptr<EtcdClient>> EtcdClient::make(const EtcdOptions& options) {
  static const auto initialised = curl_global_init(CURL_GLOBAL_DEFAULT);
  if (initialised != CURLE_OK) return fail(ErrorCode::internal, "curl does not start");
  const auto refuse = [](std::string message) {
    return fail(ErrorCode::invalid_argument, std::move(message));
  };
  if (options.endpoints.empty()) return refuse("etcd: no endpoint is given");
  if (options.prefix.empty()) return refuse("etcd: the prefix of the keys is empty");
  for (const auto& endpoint : options.endpoints) {
    if (endpoint.starts_with("https://")) continue;
    if (!endpoint.starts_with("http://")) {
      return refuse("etcd: the endpoint '" + endpoint + "' is not https://HOST:PORT");
    }
    if (!is_loopback(endpoint)) {
      return refuse("etcd: '" + endpoint +
                    "' would send the cluster's records in the clear; use "
                    "https, or http on a loopback address");
    }
  }
  for (const auto& file : {options.ca_file, options.certificate, options.key}) {
    std::error_code error;
    if (!file.empty() && !std::filesystem::is_regular_file(file, error)) {
      return refuse("etcd: there is no file " + file.string());
    }
  }
  return std::unique_ptr<EtcdClient>(new EtcdClient(options));
}

EtcdClient::EtcdClient(EtcdOptions options) : options_(std::move(options)) {}
EtcdClient::~EtcdClient() = default;

std::unique_ptr<EtcdClient::Handle> EtcdClient::take_handle() {
  const std::lock_guard lock(mutex_);
  if (idle_.empty()) return std::make_unique<Handle>();
  auto handle = std::move(idle_.back());
  idle_.pop_back();
  return handle;
}

void EtcdClient::give_back(std::unique_ptr<Handle> handle) {
  const std::lock_guard lock(mutex_);
  if (idle_.size() < max_idle_handles) idle_.push_back(std::move(handle));
}

Result<EtcdClient::Json> EtcdClient::call(const std::string& path, const Json& body,
                                          bool repeatable) {
  const auto deadline = Clock::now() + options_.timeout;
  const auto text = body.dump();
  auto handle = take_handle();
  Error last(ErrorCode::unavailable, "etcd: no endpoint answers");
  const auto members = options_.endpoints.size();
  for (std::size_t attempt = 0; attempt < members; ++attempt) {
    const auto at = current_.load();
    const auto& endpoint = options_.endpoints[at];
    const auto left = std::chrono::duration_cast<milliseconds>(deadline - Clock::now());
    if (left <= milliseconds::zero()) break;
    // The members after this one get their part of the time.
    const auto part = std::max(milliseconds(1), left / static_cast<int>(members - attempt));

    Body sent{text};
    std::string answer;
    handle->prepare(options_, endpoint + "/v3/" + path, sent, part);
    curl_easy_setopt(handle->easy, CURLOPT_TIMEOUT_MS,
                     static_cast<long>((repeatable ? part : left).count()));
    curl_easy_setopt(handle->easy, CURLOPT_WRITEFUNCTION, read_answer);
    curl_easy_setopt(handle->easy, CURLOPT_WRITEDATA, &answer);
    const auto result = curl_easy_perform(handle->easy);
    bool may_be_done = true;
    if (result == CURLE_OK) {
      long status = 0;
      curl_easy_getinfo(handle->easy, CURLINFO_RESPONSE_CODE, &status);
      auto json = Json::parse(answer, nullptr, false);
      if (status == 200 && json.is_object()) {
        give_back(std::move(handle));
        return json;
      }
      last = status == 200 ? Error(ErrorCode::malformed, "etcd at " + endpoint + ": no JSON object")
                           : error_of(json, status, endpoint);
      if (last.code != ErrorCode::unavailable) break;
    } else {
      curl_off_t ready_us = 0;
      curl_easy_getinfo(handle->easy, CURLINFO_PRETRANSFER_TIME_T, &ready_us);
      may_be_done = ready_us != 0;
      last =
          Error(ErrorCode::unavailable, "etcd at " + endpoint + ": " + curl_easy_strerror(result));
    }
    if (may_be_done && !repeatable) {
      last.message += "; the change may have been made";
      break;
    }
    auto expected = at;
    current_.compare_exchange_strong(expected, (at + 1) % members);
  }
  give_back(std::move(handle));
  return fail(std::move(last));
}

void EtcdClient::stream(const std::string& path, const Json& body, const std::stop_token& stop,
                        const std::function<bool(const Json&)>& on_message) {
  const auto at = current_.load();
  const auto text = body.dump();
  Body sent{text};
  Lines lines{on_message, {}};
  Handle handle;
  handle.prepare(options_, options_.endpoints[at] + "/v3/" + path, sent, options_.timeout);
  curl_easy_setopt(handle.easy, CURLOPT_LOW_SPEED_LIMIT, 1L);
  curl_easy_setopt(handle.easy, CURLOPT_LOW_SPEED_TIME, stream_silence_s);
  curl_easy_setopt(handle.easy, CURLOPT_WRITEFUNCTION, read_lines);
  curl_easy_setopt(handle.easy, CURLOPT_WRITEDATA, &lines);
  CURLM* multi = curl_multi_init();
  curl_multi_add_handle(multi, handle.easy);
  {
    const std::stop_callback wake(stop, [multi] { curl_multi_wakeup(multi); });
    int running = 1;
    while (!stop.stop_requested() && curl_multi_perform(multi, &running) == CURLM_OK &&
           running > 0) {
      if (curl_multi_poll(multi, nullptr, 0, 1000, nullptr) != CURLM_OK) break;
    }
  }
  curl_multi_remove_handle(multi, handle.easy);
  curl_multi_cleanup(multi);
  // The next one, of a watch or a call, tries the next member.
  auto expected = at;
  if (!stop.stop_requested()) {
    current_.compare_exchange_strong(expected, (at + 1) % options_.endpoints.size());
  }
}

// ---- JSON

const nlohmann::json& child_in(const nlohmann::json& object, const char* name) {
  static const nlohmann::json nothing;
  if (!object.is_object()) return nothing;
  const auto found = object.find(name);
  return found == object.end() ? nothing : *found;
}

std::string text_in(const nlohmann::json& object, const char* name) {
  const auto& value = child_in(object, name);
  return value.is_string() ? value.get<std::string>() : std::string();
}

std::uint64_t number_in(const nlohmann::json& object, const char* name) {
  const auto& value = child_in(object, name);
  if (value.is_number_unsigned()) return value.get<std::uint64_t>();
  const auto text = text_in(object, name);  // 64 bits are more than JSON's numbers hold
  std::uint64_t number = 0;
  std::from_chars(text.data(), text.data() + text.size(), number);
  return number;
}

std::string base64(std::string_view bytes) {
  std::string out(4 * ((bytes.size() + 2) / 3) + 1, '\0');
  EVP_EncodeBlock(reinterpret_cast<unsigned char*>(out.data()),
                  reinterpret_cast<const unsigned char*>(bytes.data()),
                  static_cast<int>(bytes.size()));
  out.pop_back();
  return out;
}

std::string bytes_in(const nlohmann::json& object, const char* name) {
  const auto text = text_in(object, name);
  std::string out(3 * (text.size() / 4) + 3, '\0');
  const int size = EVP_DecodeBlock(reinterpret_cast<unsigned char*>(out.data()),
                                   reinterpret_cast<const unsigned char*>(text.data()),
                                   static_cast<int>(text.size()));
  if (size < 0) return {};
  const auto padding = text.size() - std::min(text.size(), text.find_last_not_of('=') + 1);
  out.resize(static_cast<std::size_t>(size) - std::min<std::size_t>(padding, size));
  return out;
}

}  // namespace plimsoll::storage
