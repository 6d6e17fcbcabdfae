#include "actors/gateway/rpc_operator.h"

#include <exception>
#include <functional>
#include <optional>
#include <type_traits>

#include "actors/cache_messages.h"
#include "actors/cache_policy.h"
#include "actors/gateway/operator_messages.h"
#include "actors/gateway/rpc_text.h"
#include "actors/memory_messages.h"

namespace plimsoll {

namespace {

// One call of Administration: `result` comes from its thread through the mailbox, the rest is on
// the loop.
template <class T>
struct Operation {
  Operation(std::shared_ptr<RpcShared> s, kj::Own<kj::PromiseFulfiller<void>> d)
      : shared(std::move(s)), done(kj::mv(d)) {
    shared->calls.fetch_add(1);
  }
  ~Operation() { shared->calls.fetch_sub(1); }
  std::shared_ptr<RpcShared> shared;
  kj::Own<kj::PromiseFulfiller<void>> done;
  std::optional<Result<T>> result;
};

// No exception leaves the thread of an operation.
template <class T>
Result<T> guarded(const std::function<Result<T>()>& work) {
  try {
    return work();
  } catch (const std::exception& e) {
    return fail(ErrorCode::internal, std::string("the operation failed: ") + e.what());
  }
}

class OperatorServer final : public schema::Operator::Server {
 public:
  OperatorServer(std::shared_ptr<RpcShared> shared, std::string api_key)
      : shared_(std::move(shared)), api_key_(std::move(api_key)) {}

  kj::Promise<void> status(StatusContext context) override {
    auto results = context.getResults();
    if (auto good = check_operator(shared_->frontend, api_key_); !good) {
      write(good.error(), results.initError());
    } else {
      write(shared_->frontend.status(), results.initStatus());
    }
    return kj::READY_NOW;
  }

  kj::Promise<void> memory(MemoryContext context) override {
    auto results = context.getResults();
    if (auto good = check_operator(shared_->frontend, api_key_); !good) {
      write(good.error(), results.initError());
      return kj::READY_NOW;
    }
    const auto report = shared_->frontend.memory();
    if (!report) {
      write(report.error(), results.initError());
    } else {
      write(*report, results.initReport());
    }
    return kj::READY_NOW;
  }

  kj::Promise<void> nodeMemory(NodeMemoryContext context) override {
    auto results = context.getResults();
    if (auto good = check_operator(shared_->frontend, api_key_); !good) {
      write(good.error(), results.initError());
      return kj::READY_NOW;
    }
    const auto nodes = shared_->frontend.node_memory();
    if (!nodes) {
      write(nodes.error(), results.initError());
    } else {
      write_each(*nodes, results.initNodes(nodes->size()));
    }
    return kj::READY_NOW;
  }

  kj::Promise<void> cluster(ClusterContext context) override {
    return run<ClusterView>(
        context, [](Administration& a) { return Result<ClusterView>(a.cluster()); },
        [](const ClusterView& view, auto results) { write(view, results.initView()); });
  }

  kj::Promise<void> cordon(CordonContext context) override {
    const auto params = context.getParams();
    return run<void>(context, [node = string_of(params.getNode()), on = params.getOn()](
                                  Administration& a) { return a.cordon(node, on); });
  }

  kj::Promise<void> drain(DrainContext context) override {
    const auto params = context.getParams();
    const std::chrono::milliseconds deadline(params.getDeadlineMs());
    return run<Administration::Drained>(
        context,
        [node = string_of(params.getNode()), deadline](Administration& a) {
          return a.drain(node, deadline);
        },
        [](const Administration::Drained& drained, auto results) {
          results.setFinished(drained.finished);
          results.setMoved(drained.moved);
          results.setCut(drained.cut);
        },
        shared_->drains);
  }

  kj::Promise<void> remove(RemoveContext context) override {
    const auto params = context.getParams();
    return run<void>(context, [node = string_of(params.getNode()), force = params.getForce()](
                                  Administration& a) { return a.remove(node, force); });
  }

  kj::Promise<void> rebalance(RebalanceContext context) override {
    return run<std::vector<Move>>(
        context,
        [dry_run = context.getParams().getDryRun()](Administration& a) {
          return a.rebalance(dry_run);
        },
        [](const std::vector<Move>& moves, auto results) {
          write_each(moves, results.initMoves(moves.size()));
        });
  }

  kj::Promise<void> createJoinToken(CreateJoinTokenContext context) override {
    const std::chrono::seconds ttl(context.getParams().getTtlSeconds());
    return run<std::string>(
        context, [ttl](Administration& a) { return a.create_join_token(ttl); },
        [](const std::string& token, auto results) { results.setToken(text_of(token)); });
  }

  kj::Promise<void> listJoinTokens(ListJoinTokensContext context) override {
    return run<std::vector<JoinTokenView>>(
        context, [](Administration& a) { return a.join_tokens(); },
        [](const std::vector<JoinTokenView>& tokens, auto results) {
          write_each(tokens, results.initTokens(tokens.size()));
        });
  }

  kj::Promise<void> revokeJoinToken(RevokeJoinTokenContext context) override {
    return run<void>(context, [id = string_of(context.getParams().getId())](Administration& a) {
      return a.revoke_join_token(id);
    });
  }

  kj::Promise<void> listTenants(ListTenantsContext context) override {
    return run<std::vector<TenantView>>(
        context, [](Administration& a) { return a.tenants(); },
        [](const std::vector<TenantView>& tenants, auto results) {
          write_each(tenants, results.initTenants(tenants.size()));
        });
  }

  kj::Promise<void> showTenant(ShowTenantContext context) override {
    return run<TenantView>(
        context,
        [name = string_of(context.getParams().getName())](Administration& a) {
          return a.tenant(name);
        },
        [](const TenantView& tenant, auto results) { write(tenant, results.initTenant()); });
  }

  kj::Promise<void> createTenant(CreateTenantContext context) override {
    return run<std::string>(
        context,
        [tenant = read(context.getParams().getTenant())](Administration& a) -> Result<std::string> {
          if (!tenant) return fail(tenant.error());
          return a.create_tenant(*tenant);
        },
        [](const std::string& key, auto results) { results.setApiKey(text_of(key)); });
  }

  kj::Promise<void> setQuota(SetQuotaContext context) override {
    const auto params = context.getParams();
    return run<void>(context,
                     [tenant = string_of(params.getTenant()),
                      quota = read(params.getQuota())](Administration& a) -> Result<void> {
                       if (!quota) return fail(quota.error());
                       return a.set_quota(tenant, *quota);
                     });
  }

  kj::Promise<void> setTier(SetTierContext context) override {
    const auto params = context.getParams();
    return run<void>(context,
                     [tenant = string_of(params.getTenant()),
                      tier = read(params.getTier())](Administration& a) -> Result<void> {
                       if (!tier) return fail(tier.error());
                       return a.set_tier(tenant, *tier);
                     });
  }

  kj::Promise<void> setNoStore(SetNoStoreContext context) override {
    const auto params = context.getParams();
    return run<void>(context, [tenant = string_of(params.getTenant()), on = params.getOn()](
                                  Administration& a) { return a.set_no_store(tenant, on); });
  }

  kj::Promise<void> suspend(SuspendContext context) override {
    const auto params = context.getParams();
    return run<void>(context, [tenant = string_of(params.getTenant()), on = params.getOn()](
                                  Administration& a) { return a.suspend(tenant, on); });
  }

  kj::Promise<void> rotateKey(RotateKeyContext context) override {
    const auto params = context.getParams();
    const std::chrono::seconds grace(params.getGraceSeconds());
    return run<std::string>(
        context,
        [tenant = string_of(params.getTenant()), grace](Administration& a) {
          return a.rotate_key(tenant, grace);
        },
        [](const std::string& key, auto results) { results.setApiKey(text_of(key)); });
  }

  kj::Promise<void> usage(UsageContext context) override {
    using Usages = std::map<std::string, cluster::Usage>;
    return run<Usages>(
        context, [](Administration& a) { return a.usage(); },
        [](const Usages& usages, auto results) {
          auto out = results.initUsage(usages.size());
          unsigned i = 0;
          for (const auto& [tenant, usage] : usages) write(tenant, usage, out[i++]);
        });
  }

  kj::Promise<void> setCacheQuota(SetCacheQuotaContext context) override {
    const auto params = context.getParams();
    std::optional<std::uint64_t> bytes;
    if (params.getBytes() != default_cache_bytes) bytes = params.getBytes();
    return run<void>(context, [tenant = string_of(params.getTenant()), bytes](Administration& a) {
      return a.set_cache_quota(tenant, bytes);
    });
  }

  kj::Promise<void> setCacheTtl(SetCacheTtlContext context) override {
    const auto params = context.getParams();
    return run<NodeCacheAnswers>(
        context,
        [tenant = string_of(params.getTenant()), node = string_of(params.getNode()),
         order = read(params.getTtl())](Administration& a) -> Result<NodeCacheAnswers> {
          if (!order) return fail(order.error());
          if (tenant.empty()) return a.ask_caches(*order, node);
          if (auto set = a.set_cache_ttl(tenant, order->kind, order->ttl); !set) {
            return fail(std::move(set.error()));
          }
          return NodeCacheAnswers();
        },
        write_answers);
  }

  kj::Promise<void> purgeCache(PurgeCacheContext context) override {
    const auto params = context.getParams();
    return run<NodeCacheAnswers>(
        context,
        [what = read(params.getWhat()),
         node = string_of(params.getNode())](Administration& a) -> Result<NodeCacheAnswers> {
          if (!what) return fail(what.error());
          return a.ask_caches(*what, node);
        },
        write_answers, shared_->purges);
  }

  kj::Promise<void> lookAtCache(LookAtCacheContext context) override {
    return run<NodeCacheAnswers>(
        context,
        [node = string_of(context.getParams().getNode())](Administration& a) {
          return a.ask_caches(LookAtCache(), node);
        },
        write_answers);
  }

  kj::Promise<void> listModels(ListModelsContext context) override {
    return run<std::vector<ModelView>>(
        context, [](Administration& a) { return a.models(); },
        [](const std::vector<ModelView>& models, auto results) {
          write_each(models, results.initModels(models.size()));
        });
  }

  kj::Promise<void> loadModel(LoadModelContext context) override {
    const auto params = context.getParams();
    return run<void>(context,
                     [name = string_of(params.getName()), source = string_of(params.getSource()),
                      nodes = read(params.getNodes())](Administration& a) {
                       return a.load_model(name, source, nodes);
                     });
  }

  kj::Promise<void> unloadModel(UnloadModelContext context) override {
    return run<void>(context, [name = string_of(context.getParams().getName())](Administration& a) {
      return a.unload_model(name);
    });
  }

  kj::Promise<void> events(EventsContext context) override {
    return run<std::vector<cluster::Event>>(
        context,
        [query = read(context.getParams().getQuery())](
            Administration& a) -> Result<std::vector<cluster::Event>> {
          if (!query) return fail(query.error());
          return a.events(*query);
        },
        [](const std::vector<cluster::Event>& events, auto results) {
          write_each(events, results.initEvents(events.size()));
        });
  }

  kj::Promise<void> placeModel(PlaceModelContext context) override {
    const auto params = context.getParams();
    return run<void>(context, [name = string_of(params.getName()), nodes = read(params.getNodes())](
                                  Administration& a) { return a.place_model(name, nodes); });
  }

 private:
  using NodeCacheAnswers = std::vector<NodeCacheAnswer>;
  static constexpr auto write_answers = [](const NodeCacheAnswers& answers, auto results) {
    auto out = results.initNodes(static_cast<unsigned>(answers.size()));
    for (unsigned i = 0; i < answers.size(); ++i) write(answers[i], out[i]);
  };

  template <class T, class List>
  static void write_each(const std::vector<T>& values, List out) {
    for (unsigned i = 0; i < values.size(); ++i) write(values[i], out[i]);
  }

  // Runs `work(Administration&)`, which returns a Result<T>, on a thread that may block, and then
  // `write_result(T, results)` on the loop. `work` holds copies of the call's parameters.
  template <class T, class Context, class Work, class Write>
  kj::Promise<void> run(Context& context, Work work, Write write_result, CallThread& thread) {
    context.releaseParams();
    auto* administration = shared_->frontend.administration();
    if (auto good = check_operator(shared_->frontend, api_key_); !good) {
      write(good.error(), context.getResults().initError());
      return kj::READY_NOW;
    }
    if (administration == nullptr) {
      write(Error(ErrorCode::unsupported, "this server runs no cluster that could be administered"),
            context.getResults().initError());
      return kj::READY_NOW;
    }
    context.allowCancellation();
    auto paf = kj::newPromiseAndFulfiller<void>();
    auto operation = std::make_shared<Operation<T>>(shared_, kj::mv(paf.fulfiller));
    const bool taken = thread.post([operation, administration, work = std::move(work)] {
      auto result =
          std::make_shared<Result<T>>(guarded<T>([&] { return Result<T>(work(*administration)); }));
      operation->shared->mailbox.post([operation, result] {
        if (operation->done.get() == nullptr) return;
        operation->result = std::move(*result);
        operation->done->fulfill();
      });
    });
    if (!taken) {
      write(Error(ErrorCode::resource_exhausted, "too many operations wait already; try again")
                .retry_after(1000),
            context.getResults().initError());
      return kj::READY_NOW;
    }
    return paf.promise
        .then([context, operation, write_result]() mutable {
          auto results = context.getResults();
          if (!*operation->result) {
            write(operation->result->error(), results.initError());
          } else if constexpr (!std::is_void_v<T>) {
            write_result(**operation->result, results);
          }
        })
        .attach(kj::defer([operation] { operation->done = nullptr; }));
  }
  template <class T, class Context, class Work, class Write>
  kj::Promise<void> run(Context& context, Work work, Write write_result) {
    return run<T>(context, std::move(work), std::move(write_result), shared_->operations);
  }
  template <class T, class Context, class Work>
  kj::Promise<void> run(Context& context, Work work) {
    return run<T>(
        context, std::move(work), [](auto...) {}, shared_->operations);
  }

  std::shared_ptr<RpcShared> shared_;
  const std::string api_key_;
};

}  // namespace

Result<void> check_operator(const Frontend& frontend, const std::string& api_key) {
  const auto caller = frontend.authenticate(api_key);
  if (!caller) return fail(caller.error());
  if (caller->is_operator) return {};
  return fail(ErrorCode::permission_denied,
              "tenant '" + caller->tenant.get() + "' has no operator's rights");
}

schema::Operator::Client make_rpc_operator(std::shared_ptr<RpcShared> shared, std::string api_key) {
  return kj::heap<OperatorServer>(std::move(shared), std::move(api_key));
}

}  // namespace plimsoll
