// plimsoll ca init|issue|show: the certificates by which a cluster's machines know each other.
#include "actors/ca.h"

#include <fmt/format.h>

#include <array>
#include <chrono>
#include <ctime>
#include <nlohmann/json.hpp>

#include "cli/exit_codes.h"
#include "cli/verbs.h"

namespace plimsoll::cli {

namespace {

using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

std::uint64_t now_s() {
  return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::seconds>(
                                        std::chrono::system_clock::now().time_since_epoch())
                                        .count());
}

std::string time_text(std::uint64_t seconds) {
  const auto time = static_cast<std::time_t>(seconds);
  std::tm utc{};
  gmtime_r(&time, &utc);
  std::array<char, 32> text{};
  std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text.data();
}

// "expired", "expires soon", or "valid".
std::string validity(const CertificateInfo& info, std::uint64_t now) {
  if (now >= info.expires_s) return "expired";
  if (now < info.begins_s) return "not valid yet";
  return expires_soon(info, now) ? "expires soon" : "valid";
}

void warn(const CertificateInfo& info, std::uint64_t now) {
  if (now >= info.expires_s) {
    fmt::print(stderr, "warning: the certificate of {} expired on {}\n", info.name,
               time_text(info.expires_s));
  } else if (expires_soon(info, now)) {
    fmt::print(stderr, "warning: the certificate of {} expires on {}, in {}\n", info.name,
               time_text(info.expires_s),
               human_duration(static_cast<double>(info.expires_s - now)));
  }
}

Json to_json(const CertificateInfo& info, std::uint64_t now) {
  return {{"name", info.name},
          {"issuer", info.issuer},
          {"role", to_string(info.role)},
          {"dns", info.dns},
          {"ips", info.ips},
          {"begins", time_text(info.begins_s)},
          {"expires", time_text(info.expires_s)},
          {"validity", validity(info, now)},
          {"serial", info.serial},
          {"fingerprint_sha256", info.fingerprint_sha256}};
}

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const auto& word : words) text += (text.empty() ? "" : " ") + word;
  return text;
}

std::string text(const CertificateInfo& info, std::uint64_t now) {
  Table table({{"FIELD"}, {"VALUE"}});
  table.add({"name", info.name});
  table.add({"issuer", info.issuer});
  table.add({"role", std::string(to_string(info.role))});
  table.add({"dns", joined(info.dns)});
  table.add({"ips", joined(info.ips)});
  table.add({"begins", time_text(info.begins_s)});
  table.add({"expires", time_text(info.expires_s)});
  table.add({"validity", validity(info, now)});
  table.add({"serial", info.serial});
  table.add({"sha256", info.fingerprint_sha256});
  return table.text();
}

// Prints what was made, or the error; returns the exit code.
int report(const Result<CertificateInfo>& made, const fs::path& certificate, const fs::path& key) {
  if (!made) {
    fmt::print(stderr, "plimsoll: {}\n", made.error().message);
    return made.error().code == ErrorCode::invalid_argument ? exit_usage : exit_failure;
  }
  const std::string what = made->role == CertificateRole::authority
                               ? "CA"
                               : std::string(to_string(made->role)) + " certificate";
  fmt::print("{} of '{}', valid until {}:\n  {}\n  {}\n", what, made->name,
             time_text(made->expires_s), certificate.string(), key.string());
  warn(*made, now_s());
  return exit_ok;
}

void add_init(CLI::App& ca, Context& context) {
  auto options = std::make_shared<AuthorityOptions>();
  options->directory = "plimsoll-ca";
  auto* verb = ca.add_subcommand("init", "make a CA for one cluster, and for nothing else");
  verb->add_option("--directory", options->directory, "for ca.crt and ca.key; keep it offline")
      ->capture_default_str();
  verb->add_option("--name", options->name, "of the CA")->capture_default_str();
  verb->add_option("--days", options->days, "that it is valid")->capture_default_str();
  verb->add_flag("--force", options->force, "replace a CA; all that it issued becomes worthless");
  verb->callback([options, &context] {
    context.exit_code = report(make_authority(*options, now_s()), options->directory / "ca.crt",
                               options->directory / "ca.key");
  });
}

void add_issue(CLI::App& ca, Context& context) {
  auto options = std::make_shared<IssueOptions>();
  options->directory = "plimsoll-ca";
  options->out = ".";
  auto* verb = ca.add_subcommand("issue", "issue a certificate to a router or a node");
  verb->add_option("name", options->name, "of the router or node")->required();
  verb->add_option("--directory", options->directory, "of the CA")->capture_default_str();
  verb->add_option("--out", options->out, "folder for NAME.crt and NAME.key")
      ->capture_default_str();
  auto role = std::make_shared<std::string>("node");
  verb->add_option("--role", *role, "router or node")
      ->check(CLI::IsMember({"router", "node"}))
      ->capture_default_str();
  verb->add_option("--dns", options->dns, "a host name, beside NAME; can be given again")
      ->allow_extra_args(false);
  verb->add_option("--ip", options->ips, "an address; can be given again")->allow_extra_args(false);
  verb->add_option("--days", options->days, "that it is valid")->capture_default_str();
  verb->add_flag("--force", options->force, "replace files that are there");
  verb->callback([options, role, &context] {
    options->role = *role == "router" ? CertificateRole::router : CertificateRole::node;
    context.exit_code =
        report(issue_certificate(*options, now_s()), options->out / (options->name + ".crt"),
               options->out / (options->name + ".key"));
  });
}

void add_show(CLI::App& ca, Context& context) {
  auto file = std::make_shared<fs::path>();
  auto format = std::make_shared<OutputFormat>(OutputFormat::table);
  auto* verb = ca.add_subcommand("show", "print whom a certificate names, and until when");
  verb->add_option("file", *file, "PEM file of a certificate")->required();
  add_output_option(*verb, *format);
  verb->callback([file, format, &context] {
    const auto info = read_certificate(*file);
    if (!info) {
      fmt::print(stderr, "plimsoll: {}\n", info.error().message);
      context.exit_code = exit_failure;
      return;
    }
    const auto now = now_s();
    warn(*info, now);
    fmt::print("{}", *format != OutputFormat::table ? to_text(to_json(*info, now), *format)
                                                    : text(*info, now));
  });
}

}  // namespace

void add_ca(CLI::App& app, Context& context) {
  auto* ca = app.add_subcommand("ca", "the certificates of a cluster's machines");
  ca->require_subcommand(1);
  add_init(*ca, context);
  add_issue(*ca, context);
  add_show(*ca, context);
}

}  // namespace plimsoll::cli
