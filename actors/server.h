// The cluster in one process: models, engines, actors, and the Frontend that gateways use.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "actors/frontend.h"
#include "actors/model_source.h"
#include "actors/server_config.h"
#include "engine/base/result.h"
#include "engine/memory/ledger.h"

namespace plimsoll {

class Server {
 public:
  // Called while a model's weights are packed: its name, bytes done, bytes in all.
  using LoadProgress =
      std::function<void(const std::string& model, std::uint64_t done, std::uint64_t total)>;

  // Loads every model, starts the actors, and returns when the node is ready.
  // Errors: those of loading, with the model's name; resource_exhausted if a model's KV memory
  // does not hold one block.
  static Result<std::unique_ptr<Server>> start(const ServerConfig& config,
                                               LoadProgress progress = {},
                                               const ModelSource& models = model_files(),
                                               Ledger& ledger = process_ledger());
  ~Server();  // stops with a deadline of zero, if stop() was not called

  Frontend& frontend();                // lives as long as the server
  std::uint16_t cluster_port() const;  // where nodes join; 0 if they cannot

  // Takes no new request; what runs may end until shortly before ServerConfig::drain_deadline.
  void drain();
  // Drains, waits, and ends what is left after the deadline with `unavailable`: every request has
  // had its end when this returns. Gateways are to be stopped before.
  void stop(std::chrono::milliseconds deadline);

 private:
  struct Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace plimsoll
