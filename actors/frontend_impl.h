// The Frontend that the gateways of a process use: in front of its router actor.
#pragma once

#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "actors/directory.h"
#include "actors/frontend.h"
#include "actors/requests.h"
#include "actors/server_config.h"

namespace plimsoll {

// Who may come in.
struct Access {
  const Directory* directory = nullptr;  // whose keys count; null: there are none
  bool open = true;  // who has no key, or one that is not known, is the operator "local"
};

class ClusterFrontend final : public Frontend {
 public:
  // One model's text side, and what kind of requests it takes.
  struct Served {
    std::shared_ptr<const TextModel> text;
    ModelKind kind = ModelKind::causal;
    std::string version;
    Charge memory;  // the tokenizer's
  };

  // `system`, `services`, the directory and the administration outlive the frontend and every
  // request that it started.
  ClusterFrontend(caf::actor_system& system, RequestServices& services,
                  std::map<std::string, Served> models, Access access = {});
  void set_administration(Administration* administration) { administration_ = administration; }

  // A model that came or went at run time.
  void add_model(const std::string& name, Served served);
  void remove_model(const std::string& name);

  Result<Caller> authenticate(std::string_view api_key) const override;
  Result<void> admits(const Caller& caller) const override;
  RequestMemory& request_memory() override { return services_.memory; }
  std::shared_ptr<GenerationStream> generate(const Caller& caller, GenerateRequest request,
                                             std::shared_ptr<GenerationListener> listener) override;
  std::function<void()> embed(const Caller& caller, EmbedRequest request,
                              EmbedCallback callback) override;
  std::vector<ModelCard> models() const override;
  bool ready() const override;
  ClusterStatus status() const override;
  Result<MemoryReport> memory() const override;
  Result<std::vector<NodeMemory>> node_memory() const override;
  std::string metrics() const override;
  ConsoleView console(const ConsoleQuery& query) const override;
  Administration* administration() override { return administration_; }

 private:
  RequestId next_id(std::uint32_t choices);
  // Whether the tenant's record says that nothing of it goes to a cache on disk.
  bool stores_nothing(const TenantId& tenant) const;
  Result<std::shared_ptr<const Served>> find(const std::string& model, ModelKind kind) const;

  caf::actor_system& system_;
  RequestServices& services_;
  const Access access_;
  Administration* administration_ = nullptr;
  mutable std::mutex models_mutex_;
  std::map<std::string, std::shared_ptr<const Served>> models_;
  const std::chrono::steady_clock::time_point started_;
  std::atomic<std::uint64_t> next_id_;
  mutable std::mutex report_mutex_;  // one reading of the kernel's files at a time
};

}  // namespace plimsoll
