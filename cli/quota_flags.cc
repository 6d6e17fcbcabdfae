#include "cli/quota_flags.h"

#include "cli/quota_limits.h"

namespace plimsoll::cli {

using client::Quota;

Json to_json(const Quota& quota) {
  Json json;
  for (const auto& limit : quota_limits<Quota>()) json[limit.field] = limit.value(quota);
  return json;
}

void add_quota_options(CLI::App& verb, QuotaFlags& flags) {
  for (const auto& limit : quota_limits<Quota>()) {
    const std::string flag = "--" + limit.name;
    verb.add_option_function<std::string>(
            flag,
            [&flags, &limit, flag](const std::string& text) {
              Quota scratch;
              if (auto good = limit.set(scratch, text); !good) {
                throw CLI::ValidationError(flag, good.error().message);
              }
              flags[limit.name] = text;
            },
            limit.help)
        ->option_text(limit.unit)
        ->group("Limits, over the whole cluster; 0 is none");
  }
}

void set_limits(const QuotaFlags& flags, Quota& quota) {
  for (const auto& limit : quota_limits<Quota>()) {
    const auto given = flags.find(limit.name);
    if (given != flags.end()) limit.set(quota, given->second);
  }
}

}  // namespace plimsoll::cli
