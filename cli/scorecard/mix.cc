#include "cli/scorecard/mix.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

namespace plimsoll::cli::scorecard {

namespace {

constexpr double most_tokens = 10'000'000;
constexpr double most_tenants = 100'000;

Lengths lognormal(double median, double sigma, std::uint32_t max) {
  Lengths l;
  l.kind = Lengths::Kind::lognormal;
  l.median = median;
  l.sigma = sigma;
  l.max = max;
  return l;
}
Lengths fixed(double tokens) {
  Lengths l;
  l.median = tokens;
  return l;
}
Lengths bimodal(double low, double high, double share, std::uint32_t max) {
  Lengths l = lognormal(low, 0.4, max);
  l.kind = Lengths::Kind::bimodal;
  l.long_median = high;
  l.long_share = share;
  return l;
}
Lengths zipf(double exponent, std::uint32_t min, std::uint32_t max) {
  Lengths l;
  l.kind = Lengths::Kind::zipf;
  l.exponent = exponent;
  l.min = min;
  l.max = max;
  return l;
}
Arrivals arrivals(Arrivals::Kind kind, double rate) {
  Arrivals a;
  a.kind = kind;
  a.rate = rate;
  return a;
}

std::vector<Mix> make_mixes() {
  using Kind = Arrivals::Kind;
  const Traffic chat{"chat", 1,           false, lognormal(120, 0.9, 2048), lognormal(80, 0.7, 512),
                     {0, 4}, {0.6, 64, 4}};
  const Traffic rag{"rag",  1,         false, lognormal(900, 0.4, 4096), lognormal(60, 0.5, 256),
                    {0, 4}, {1, 96, 2}};
  const Traffic agents{"agents", 1,          false, zipf(1.3, 16, 1024), lognormal(40, 0.6, 256),
                       {0, 6},   {1, 512, 6}};
  const Traffic batch{"batch", 1, false, bimodal(200, 1200, 0.3, 4096), fixed(128), {0, 2, 0}, {}};
  const Traffic embeddings{"embeddings", 1, true, lognormal(60, 0.8, 250), fixed(0), {0, 4}, {}};
  Traffic victims = chat;
  victims.name = "victims";
  victims.weight = 2;
  const Traffic flood{"flood", 8, false, lognormal(1500, 0.2, 4096), fixed(64), {4, 1}, {}};
  Traffic some_rag = rag;
  some_rag.weight = 0.3;
  some_rag.tenants = {4, 3};
  Traffic some_agents = agents;
  some_agents.weight = 0.3;
  some_agents.tenants = {7, 3};
  return {
      {"chat",
       "short prompts and answers, few shared beginnings",
       arrivals(Kind::poisson, 2),
       {chat}},
      {"rag", "long prompts, short answers", arrivals(Kind::poisson, 1), {rag}},
      {"agents",
       "bursts of prompts with long shared beginnings",
       arrivals(Kind::gamma, 2),
       {agents}},
      {"batch", "work that comes in blocks", arrivals(Kind::on_off, 1), {batch}},
      {"embeddings", "texts for an embedding model", arrivals(Kind::poisson, 10), {embeddings}},
      {"mixed",
       "chat, rag and agents over a short day",
       arrivals(Kind::diurnal, 2),
       {chat, some_rag, some_agents}},
      {"flood",
       "chat of four tenants, and a fifth one that floods with long prompts",
       arrivals(Kind::poisson, 10),
       {victims, flood}},
  };
}

// ---- names of kinds

template <class Kind>
using Names = std::vector<std::pair<const char*, Kind>>;
const Names<Lengths::Kind> length_kinds = {{"fixed", Lengths::Kind::fixed},
                                           {"uniform", Lengths::Kind::uniform},
                                           {"lognormal", Lengths::Kind::lognormal},
                                           {"zipf", Lengths::Kind::zipf},
                                           {"bimodal", Lengths::Kind::bimodal}};
const Names<Arrivals::Kind> arrival_kinds = {{"poisson", Arrivals::Kind::poisson},
                                             {"gamma", Arrivals::Kind::gamma},
                                             {"uniform", Arrivals::Kind::uniform},
                                             {"on_off", Arrivals::Kind::on_off},
                                             {"diurnal", Arrivals::Kind::diurnal}};

template <class Kind>
const char* name_of(Kind kind, const Names<Kind>& names) {
  return std::ranges::find(names, kind, &std::pair<const char*, Kind>::second)->first;
}

// ---- reading: the first problem is thrown as an Error and caught in parse_mix

class Reader {
 public:
  Reader(const YAML::Node& node, std::string path, const std::string& file)
      : node_(node), path_(std::move(path)), file_(file) {
    if (!node_.IsMap()) throw problem(node_, path_ + " is not a map");
  }
  // Call after all fields were asked for: what is left is misspelt.
  void done() const {
    for (const auto& entry : node_) {
      const auto key = entry.first.Scalar();
      if (asked_.count(key) == 0) throw problem(entry.first, "no field " + path_ + "." + key);
    }
  }

  template <class Number>
  void number(const char* key, Number& value, double low, double high) {
    const auto node = ask(key);
    if (!node) return;
    double read = 0;
    const bool is_number = YAML::convert<double>::decode(*node, read) && std::isfinite(read);
    const bool whole = std::is_floating_point_v<Number> || read == std::floor(read);
    if (!is_number || !whole || read < low || read > high) {
      throw problem(*node, fmt::format("{}.{} is not a {} from {} to {}", path_, key,
                                       std::is_floating_point_v<Number> ? "number" : "whole number",
                                       low, high));
    }
    value = static_cast<Number>(read);
  }
  void text(const char* key, std::string& value) {
    const auto node = ask(key);
    if (!node) return;
    if (!node->IsScalar()) throw problem(*node, fmt::format("{}.{} is not a text", path_, key));
    value = node->Scalar();
  }
  void flag(const char* key, bool& value) {
    const auto node = ask(key);
    if (node && !YAML::convert<bool>::decode(*node, value)) {
      throw problem(*node, fmt::format("{}.{} is neither true nor false", path_, key));
    }
  }
  template <class Kind>
  void kind(Kind& value, const Names<Kind>& names) {
    const auto node = ask("kind");
    if (!node) return;
    std::vector<std::string> choices;
    for (const auto& [name, kind] : names) {
      choices.emplace_back(name);
      if (node->IsScalar() && node->Scalar() == name) {
        value = kind;
        return;
      }
    }
    throw problem(*node, fmt::format("{}.kind is none of {}", path_, fmt::join(choices, ", ")));
  }
  template <class Read>
  void map(const char* key, Read read) {
    const auto node = ask(key);
    if (!node) return;
    Reader inner(*node, path_ + "." + key, file_);
    read(inner);
    inner.done();
  }
  template <class Read>
  void maps(const char* key, Read read) {
    const auto node = ask(key);
    if (!node) return;
    if (!node->IsSequence()) throw problem(*node, fmt::format("{}.{} is not a list", path_, key));
    for (std::size_t i = 0; i < node->size(); ++i) {
      Reader inner((*node)[i], fmt::format("{}.{}[{}]", path_, key, i), file_);
      read(inner);
      inner.done();
    }
  }
  Error problem(const YAML::Node& node, const std::string& what) const {
    return Error(ErrorCode::invalid_argument,
                 fmt::format("{}:{}: {}", file_, node.Mark().line + 1, what));
  }
  Error problem(const std::string& what) const { return problem(node_, what); }

 private:
  std::optional<YAML::Node> ask(const char* key) {
    asked_.insert(key);
    const YAML::Node found = node_[key];
    if (!found) return std::nullopt;
    return found;
  }

  const YAML::Node node_;
  std::string path_;
  const std::string& file_;
  std::set<std::string> asked_;
};

void read(Reader& in, Lengths& l) {
  in.kind(l.kind, length_kinds);
  in.number("median", l.median, 0, most_tokens);
  in.number("sigma", l.sigma, 0, 10);
  in.number("exponent", l.exponent, 0, 20);
  in.number("long_median", l.long_median, 1, most_tokens);
  in.number("long_share", l.long_share, 0, 1);
  in.number("min", l.min, 0, most_tokens);
  in.number("max", l.max, 1, most_tokens);
  if (l.min > l.max) throw in.problem("min is over max");
  if (l.kind == Lengths::Kind::zipf && l.min == 0) throw in.problem("min is 0; zipf begins at 1");
  const bool logarithm = l.kind == Lengths::Kind::lognormal || l.kind == Lengths::Kind::bimodal;
  if (logarithm && l.median < 1) throw in.problem("median is under 1");
}

void read(Reader& in, Arrivals& a) {
  in.kind(a.kind, arrival_kinds);
  in.number("rate", a.rate, 0.001, 100'000);
  in.number("cv", a.cv, 0.05, 20);
  in.number("on_s", a.on_s, 0.001, 1e6);
  in.number("off_s", a.off_s, 0, 1e6);
  in.number("period_s", a.period_s, 0.1, 1e7);
  in.number("depth", a.depth, 0, 1);
}

void read(Reader& in, Traffic& t) {
  in.text("name", t.name);
  in.number("weight", t.weight, 1e-6, 1e6);
  in.flag("embed", t.embed);
  in.map("prompt", [&](Reader& inner) { read(inner, t.prompt); });
  in.map("output", [&](Reader& inner) { read(inner, t.output); });
  in.map("tenants", [&](Reader& inner) {
    inner.number("first", t.tenants.first, 0, most_tenants);
    inner.number("count", t.tenants.count, 1, most_tenants);
    inner.number("skew", t.tenants.skew, 0, 20);
  });
  in.map("prefix", [&](Reader& inner) {
    inner.number("share", t.prefix.share, 0, 1);
    inner.number("tokens", t.prefix.tokens, 1, most_tokens);
    inner.number("groups", t.prefix.groups, 1, most_tenants);
    inner.number("skew", t.prefix.skew, 0, 20);
  });
}

using Json = nlohmann::ordered_json;

// Only the fields that its kind has.
Json to_json(const Lengths& l) {
  Json json{{"kind", name_of(l.kind, length_kinds)}};
  switch (l.kind) {
    case Lengths::Kind::fixed: json["median"] = l.median; break;
    case Lengths::Kind::uniform: break;
    case Lengths::Kind::zipf: json["exponent"] = l.exponent; break;
    case Lengths::Kind::bimodal:
      json["long_median"] = l.long_median;
      json["long_share"] = l.long_share;
      [[fallthrough]];
    case Lengths::Kind::lognormal:
      json["median"] = l.median;
      json["sigma"] = l.sigma;
      break;
  }
  json["min"] = l.min;
  json["max"] = l.max;
  return json;
}

Json to_json(const Arrivals& a) {
  Json json{{"kind", name_of(a.kind, arrival_kinds)}, {"rate", a.rate}};
  if (a.kind == Arrivals::Kind::gamma) json["cv"] = a.cv;
  if (a.kind == Arrivals::Kind::on_off) {
    json["on_s"] = a.on_s;
    json["off_s"] = a.off_s;
  }
  if (a.kind == Arrivals::Kind::diurnal) {
    json["period_s"] = a.period_s;
    json["depth"] = a.depth;
  }
  return json;
}

}  // namespace

const std::vector<Mix>& named_mixes() {
  static const std::vector<Mix> mixes = make_mixes();
  return mixes;
}

Result<Mix> named_mix(const std::string& name) {
  std::vector<std::string> names;
  for (const auto& mix : named_mixes()) {
    if (mix.name == name) return mix;
    names.push_back(mix.name);
  }
  return fail(ErrorCode::not_found,
              fmt::format("no mix named '{}'; there are {}", name, fmt::join(names, ", ")));
}

Result<Mix> parse_mix(const std::string& text, const std::string& file) {
  try {
    Mix mix;
    mix.name = file;
    Reader in(YAML::Load(text), "mix", file);
    in.text("name", mix.name);
    in.text("about", mix.about);
    in.map("arrivals", [&](Reader& inner) { read(inner, mix.arrivals); });
    in.maps("traffic", [&](Reader& inner) {
      auto& traffic = mix.traffic.emplace_back();
      traffic.name = fmt::format("traffic-{}", mix.traffic.size());
      read(inner, traffic);
    });
    in.done();
    if (mix.traffic.empty()) throw in.problem("mix.traffic is empty: what shall be sent?");
    return mix;
  } catch (const Error& error) {
    return fail(error);
  } catch (const YAML::Exception& e) {
    return fail(ErrorCode::malformed, fmt::format("{}:{}: {}", file, e.mark.line + 1, e.msg));
  }
}

Json to_json(const Mix& mix) {
  Json traffic = Json::array();
  for (const auto& t : mix.traffic) {
    Json json{
        {"name", t.name}, {"weight", t.weight}, {"embed", t.embed}, {"prompt", to_json(t.prompt)}};
    if (!t.embed) json["output"] = to_json(t.output);
    json["tenants"] = {
        {"first", t.tenants.first}, {"count", t.tenants.count}, {"skew", t.tenants.skew}};
    if (t.prefix.share > 0) {
      json["prefix"] = {{"share", t.prefix.share},
                        {"tokens", t.prefix.tokens},
                        {"groups", t.prefix.groups},
                        {"skew", t.prefix.skew}};
    }
    traffic.push_back(std::move(json));
  }
  return {{"name", mix.name},
          {"about", mix.about},
          {"arrivals", to_json(mix.arrivals)},
          {"traffic", traffic}};
}

std::uint32_t tenants_of(const Mix& mix) {
  std::uint32_t count = 0;
  for (const auto& t : mix.traffic) count = std::max(count, t.tenants.first + t.tenants.count);
  return count;
}

}  // namespace plimsoll::cli::scorecard
