// etcd's v3 API over its JSON gateway: calls, and the stream of a watch, at one of several members.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/result.h"
#include "storage/state_store.h"

namespace plimsoll::storage {

class EtcdClient {
 public:
  using Json = nlohmann::json;

  // Errors: invalid_argument (an endpoint, a file).
  static Result<std::unique_ptr<EtcdClient>> make(const EtcdOptions& options);
  ~EtcdClient();

  // Blocks for the time-out at most, all members together. `repeatable`: may be tried at the next
  // member although the first may have done it. A call that is not is never sent twice.
  // Errors: unavailable, not_found (lease), permission_denied, resource_exhausted, malformed,
  // internal.
  Result<Json> call(const std::string& path, const Json& body, bool repeatable);

  // Until the stream ends, `on_message` returns false, or `stop`. A silence of half a minute ends
  // it too: a connection that is dead is no different.
  void stream(const std::string& path, const Json& body, const std::stop_token& stop,
              const std::function<bool(const Json&)>& on_message);

 private:
  struct Handle;  // of curl, with its open connections
  explicit EtcdClient(EtcdOptions options);
  std::unique_ptr<Handle> take_handle();
  void give_back(std::unique_ptr<Handle> handle);

  const EtcdOptions options_;
  std::atomic<std::size_t> current_{0};  // endpoint that answered last
  std::mutex mutex_;
  std::vector<std::unique_ptr<Handle>> idle_;
};

// What etcd's JSON holds; absent or of another type: 0, "" or nothing.
std::uint64_t number_in(const nlohmann::json& object, const char* name);
std::string text_in(const nlohmann::json& object, const char* name);
std::string bytes_in(const nlohmann::json& object, const char* name);  // of base64
const nlohmann::json& child_in(const nlohmann::json& object, const char* name);
std::string base64(std::string_view bytes);

}  // namespace plimsoll::storage
