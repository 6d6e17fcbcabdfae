// The models that were added at run time, as a router has them: their text sides are loaded on a
// thread of their own, then the router actor has the nodes load the engines.
#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "actors/directory.h"
#include "actors/frontend_impl.h"
#include "actors/messages.h"
#include "actors/model_loader.h"
#include "actors/server_config.h"
#include "engine/base/result.h"

namespace plimsoll {

class PlacedModels {
 public:
  // All that is given outlives it.
  PlacedModels(const ServerConfig& config, const ModelLoader& loader, ClusterFrontend& frontend,
               RegistryActor registry, RouterActor router);
  ~PlacedModels();
  void stop();

  // All that shall be there. Returns at once.
  void set(const std::vector<ModelPlacement>& placements);

  bool is_configured(const std::string& model) const;  // then it cannot be placed
  // Whether this machine could load the text side. Errors: those of finding and probing.
  Result<void> check(const ModelPlacement& placement) const;
  // Why the text side of a model is not there; empty: it loads still.
  std::map<std::string, std::string> missing() const;

 private:
  struct Loaded {
    ModelPlacement placement;
    std::string version;  // empty: it failed
    std::string error;
  };
  Result<std::pair<ModelConfig, ModelEntry>> find(const ModelPlacement& placement) const;
  void run();
  void bring(const std::vector<ModelPlacement>& wanted);
  Result<ModelEntry> load(const ModelPlacement& placement);
  void forget(const std::string& model) const;
  void tell_router() const;

  const ServerConfig& config_;
  const ModelLoader& loader_;
  ClusterFrontend& frontend_;
  const RegistryActor registry_;
  const RouterActor router_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<std::vector<ModelPlacement>> wanted_;  // not looked at yet
  std::map<std::string, Loaded> loaded_;               // changed by the thread only
  std::map<std::string, std::string> missing_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace plimsoll
