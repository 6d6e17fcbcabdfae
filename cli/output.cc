#include "cli/output.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <unistd.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <set>

namespace plimsoll::cli {

namespace {

// Columns a UTF-8 string takes, counting each code point as one: names and numbers need no more.
std::size_t width(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
}

// Whether YAML reads the text as a string without quotes, whatever the version of the reader.
bool is_plain(const std::string& text) {
  static const std::set<std::string> words = {"true", "false", "yes",  "no", "on",
                                              "off",  "null",  "none", "y",  "n"};
  std::string lower;
  for (const char c : text) lower += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return !text.empty() && std::isalpha(static_cast<unsigned char>(text[0])) != 0 &&
         words.count(lower) == 0 && std::all_of(text.begin(), text.end(), [](unsigned char c) {
           return std::isalnum(c) != 0 || c == '_' || c == '-' || c == '.' || c == '/' || c == '@';
         });
}

void emit(const nlohmann::ordered_json& value, YAML::Emitter& out) {
  if (value.is_object() && !value.empty()) {
    out << YAML::BeginMap;
    for (const auto& [key, item] : value.items()) {
      out << YAML::Key;
      emit(key, out);
      out << YAML::Value;
      emit(item, out);
    }
    out << YAML::EndMap;
  } else if (value.is_array() && !value.empty()) {
    out << YAML::BeginSeq;
    for (const auto& item : value) emit(item, out);
    out << YAML::EndSeq;
  } else if (value.is_string()) {
    const auto& text = value.get_ref<const std::string&>();
    if (!is_plain(text)) out << YAML::DoubleQuoted;
    out << text;
  } else if (value.is_structured()) {
    out << YAML::Flow << (value.is_array() ? YAML::BeginSeq : YAML::BeginMap)
        << (value.is_array() ? YAML::EndSeq : YAML::EndMap);
  } else if (value.is_null()) {
    out << YAML::Null;
  } else {
    out << value.dump();  // numbers, true and false are written alike in both
  }
}

}  // namespace

std::string to_text(const nlohmann::ordered_json& document, OutputFormat format) {
  if (format != OutputFormat::yaml) return document.dump(2) + "\n";
  YAML::Emitter out;
  emit(document, out);
  return std::string(out.c_str(), out.size()) + "\n";
}

std::string Table::text() const {
  std::vector<std::size_t> widths;
  for (const auto& column : columns_) widths.push_back(width(column.title));
  for (const auto& row : rows_) {
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], width(row[i]));
  }
  std::string out;
  const auto line = [&](auto&& cell) {
    std::string text;
    for (std::size_t i = 0; i < columns_.size(); ++i) {
      const std::string& value = cell(i);
      const std::string padding(widths[i] - width(value), ' ');
      text += columns_[i].right ? padding + value : value + padding;
      text += "  ";
    }
    text.erase(text.find_last_not_of(' ') + 1);
    out += text + "\n";
  };
  line([&](std::size_t i) -> const std::string& { return columns_[i].title; });
  for (const auto& row : rows_) {
    line([&](std::size_t i) -> const std::string& { return row[i]; });
  }
  return out;
}

std::string human_bytes(std::int64_t bytes) {
  static constexpr const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  int unit = 0;
  while (std::abs(value) >= 1024 && unit < 4) {
    value /= 1024;
    ++unit;
  }
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.1f} {}", value, units[unit]);
}

std::string human_duration(double seconds) {
  const auto s = static_cast<std::int64_t>(seconds);
  if (s >= 86400) return fmt::format("{}d {}h", s / 86400, s % 86400 / 3600);
  if (s >= 3600) return fmt::format("{}h {}m", s / 3600, s % 3600 / 60);
  if (s >= 60) return fmt::format("{}m {}s", s / 60, s % 60);
  return fmt::format("{}s", s);
}

std::string utc(std::uint64_t unix_seconds) {
  return fmt::format("{:%Y-%m-%d %H:%M:%SZ}", fmt::gmtime(static_cast<std::time_t>(unix_seconds)));
}

ProgressBar::ProgressBar(std::string label)
    : label_(std::move(label)), terminal_(isatty(STDERR_FILENO) == 1) {}

ProgressBar::~ProgressBar() {
  if (terminal_ && shown_permille_ >= 0) std::fputs("\r\033[K", stderr);
}

void ProgressBar::update(std::uint64_t done, std::uint64_t total) {
  if (!terminal_ || total == 0) return;
  const int permille = static_cast<int>(std::min(done, total) * 1000 / total);
  if (permille == shown_permille_) return;
  shown_permille_ = permille;
  constexpr int cells = 30;
  const int full = permille * cells / 1000;
  std::string bar;
  for (int i = 0; i < cells; ++i) bar += i < full ? "█" : "░";
  fmt::print(stderr, "\r{} {} {:3}%  {} / {}\033[K", label_, bar, permille / 10,
             human_bytes(static_cast<std::int64_t>(done)),
             human_bytes(static_cast<std::int64_t>(total)));
}

}  // namespace plimsoll::cli
