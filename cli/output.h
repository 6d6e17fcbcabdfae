// What the verbs print: tables for people, JSON and YAML for programs, a progress bar for the
// patient.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace plimsoll::cli {

enum class OutputFormat { table, json, yaml };

// A document as JSON or YAML, with a line break at its end.
std::string to_text(const nlohmann::ordered_json& document, OutputFormat format);

// Left-aligned text columns and right-aligned numeric ones, two spaces between.
class Table {
 public:
  struct Column {
    std::string title;
    bool right = false;
  };
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  std::string text() const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

// "94.0 MiB"; negative values keep their sign.
std::string human_bytes(std::int64_t bytes);
// "3d 4h", "5m 12s"
std::string human_duration(double seconds);
// "2026-01-31 23:59:59Z"
std::string utc(std::uint64_t unix_seconds);

// A line on standard error that redraws itself; nothing where that is no terminal.
class ProgressBar {
 public:
  explicit ProgressBar(std::string label);
  ~ProgressBar();
  void update(std::uint64_t done, std::uint64_t total);

 private:
  std::string label_;
  bool terminal_;
  int shown_permille_ = -1;
};

}  // namespace plimsoll::cli
