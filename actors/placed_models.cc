#include "actors/placed_models.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

namespace plimsoll {

PlacedModels::PlacedModels(const ServerConfig& config, const ModelLoader& loader,
                           ClusterFrontend& frontend, RegistryActor registry, RouterActor router)
    : config_(config),
      loader_(loader),
      frontend_(frontend),
      registry_(std::move(registry)),
      router_(std::move(router)),
      thread_([this] { run(); }) {}

PlacedModels::~PlacedModels() { stop(); }

void PlacedModels::stop() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void PlacedModels::set(const std::vector<ModelPlacement>& placements) {
  {
    const std::lock_guard lock(mutex_);
    wanted_ = placements;
    std::map<std::string, std::string> missing;
    for (const auto& placement : placements) {
      const auto it = loaded_.find(placement.model);
      const bool same = it != loaded_.end() && it->second.placement.source == placement.source;
      if (!same) missing[placement.model].clear();
      if (same && it->second.version.empty()) missing[placement.model] = it->second.error;
    }
    missing_ = std::move(missing);
  }
  changed_.notify_all();
}

std::map<std::string, std::string> PlacedModels::missing() const {
  const std::lock_guard lock(mutex_);
  return missing_;
}

Result<std::pair<ModelConfig, ModelEntry>> PlacedModels::find(
    const ModelPlacement& placement) const {
  if (is_configured(placement.model)) {
    return fail(ErrorCode::already_exists,
                "model '" + placement.model + "' is served from the configuration");
  }
  if (!config_.find_model) {
    return fail(ErrorCode::unsupported, "this router's models are fixed at its start");
  }
  auto model = config_.find_model(placement.source);
  if (!model) return fail(std::move(model.error()));
  model->name = placement.model;
  auto entry = loader_.probe(*model);
  if (!entry) return fail(std::move(entry.error()));
  return std::pair(std::move(*model), std::move(*entry));
}

Result<void> PlacedModels::check(const ModelPlacement& placement) const {
  auto found = find(placement);
  if (!found) return fail(std::move(found.error()));
  return {};
}

bool PlacedModels::is_configured(const std::string& model) const {
  return std::ranges::count(config_.models, model, &ModelConfig::name) != 0;
}

void PlacedModels::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stopping_ || wanted_; });
    if (stopping_) return;
    const auto wanted = *std::exchange(wanted_, {});
    lock.unlock();
    bring(wanted);
    lock.lock();
  }
}

void PlacedModels::bring(const std::vector<ModelPlacement>& wanted) {
  std::vector<std::string> gone;
  for (const auto& [model, loaded] : loaded_) {
    const auto it = std::ranges::find(wanted, model, &ModelPlacement::model);
    if (it == wanted.end() || it->source != loaded.placement.source) gone.push_back(model);
  }
  for (const auto& model : gone) {
    frontend_.remove_model(model);
    const std::lock_guard lock(mutex_);
    loaded_.erase(model);
  }
  tell_router();  // first: what is not placed any more needs no version
  for (const auto& model : gone) forget(model);
  for (const auto& placement : wanted) {
    if (const auto it = loaded_.find(placement.model); it != loaded_.end()) {
      const std::lock_guard lock(mutex_);
      it->second.placement = placement;  // other nodes
      continue;
    }
    Loaded loaded{placement, {}, {}};
    if (auto entry = load(placement)) {
      loaded.version = entry->version;
      caf::anon_send(router_, *entry);
      caf::anon_send(registry_, std::move(*entry));
    } else {
      loaded.error = entry.error().message;
      spdlog::error("event=model_failed model={} source=\"{}\" reason=\"{}\"", placement.model,
                    placement.source, to_string(entry.error()));
    }
    const std::lock_guard lock(mutex_);
    missing_.erase(placement.model);
    if (loaded.version.empty()) missing_[placement.model] = loaded.error;
    loaded_.insert_or_assign(placement.model, std::move(loaded));
    if (stopping_) return;
  }
  tell_router();
}

Result<ModelEntry> PlacedModels::load(const ModelPlacement& placement) {
  auto found = find(placement);
  if (!found) return fail(std::move(found.error()));
  auto& [model, entry] = *found;
  auto text = loader_.read_text(model, entry);
  if (!text) return fail(std::move(text.error()));
  frontend_.add_model(placement.model, loader_.serve_text(entry, std::move(*text)));
  entry.state = ModelState::ready;
  return std::move(entry);
}

void PlacedModels::forget(const std::string& model) const {
  ModelEntry entry;
  entry.name = model;
  entry.state = ModelState::gone;
  caf::anon_send(router_, entry);
  caf::anon_send(registry_, std::move(entry));
}

void PlacedModels::tell_router() const {
  SetPlacements message;
  for (const auto& [model, loaded] : loaded_) {
    if (loaded.version.empty()) continue;
    const auto& placement = loaded.placement;
    message.models.push_back({{model, placement.source, loaded.version}, placement.nodes});
  }
  caf::anon_send(router_, std::move(message));
}

}  // namespace plimsoll
