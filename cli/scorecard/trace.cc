#include "cli/scorecard/trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <nlohmann/json.hpp>
#include <string_view>

namespace plimsoll::cli::scorecard {

namespace {

constexpr std::size_t longest_line = 1 << 20;
constexpr std::uint64_t most_tokens = 10'000'000;
constexpr std::uint32_t mooncake_block_tokens = 512;
constexpr std::string_view azure_header = "TIMESTAMP,ContextTokens,GeneratedTokens";

struct Row {
  double time_s = 0;  // from any beginning
  std::uint32_t prompt_tokens = 0;
  std::uint32_t output_tokens = 0;
  std::vector<std::uint64_t> blocks;
};

tl::unexpected<Error> malformed(std::string message) {
  return fail(ErrorCode::malformed, std::move(message));
}

// A number of just so many digits, taken from the front.
bool take_digits(std::string_view& text, std::size_t digits, int& value) {
  if (text.size() < digits) return false;
  const auto [end, error] = std::from_chars(text.data(), text.data() + digits, value);
  if (error != std::errc{} || end != text.data() + digits || text[0] == '-') return false;
  text.remove_prefix(digits);
  return true;
}
bool take(std::string_view& text, char c) {
  if (text.empty() || text[0] != c) return false;
  text.remove_prefix(1);
  return true;
}

// "2023-11-16 18:17:03.9799600", "2024-05-10 00:00:00.009930+00:00"; in seconds.
std::optional<double> parse_time(std::string_view text) {
  int year = 0, month = 0, day = 0, hour = 0, minute = 0, second = 0;
  if (!take_digits(text, 4, year) || !take(text, '-') || !take_digits(text, 2, month) ||
      !take(text, '-') || !take_digits(text, 2, day) || !(take(text, ' ') || take(text, 'T')) ||
      !take_digits(text, 2, hour) || !take(text, ':') || !take_digits(text, 2, minute) ||
      !take(text, ':') || !take_digits(text, 2, second)) {
    return std::nullopt;
  }
  const std::chrono::year_month_day date{std::chrono::year(year),
                                         std::chrono::month(static_cast<unsigned>(month)),
                                         std::chrono::day(static_cast<unsigned>(day))};
  if (!date.ok() || hour > 23 || minute > 59 || second > 60) return std::nullopt;
  double fraction = 0;
  if (take(text, '.')) {
    double place = 0.1;
    std::size_t digits = 0;
    for (int digit = 0; digits < 9 && take_digits(text, 1, digit); ++digits, place /= 10) {
      fraction += digit * place;
    }
    if (digits == 0) return std::nullopt;
  }
  int offset_minutes = 0;
  if (!take(text, 'Z') && !text.empty()) {
    const int sign = text[0] == '-' ? -1 : 1;
    int hours = 0, minutes = 0;
    if (!(take(text, '+') || take(text, '-')) || !take_digits(text, 2, hours) || !take(text, ':') ||
        !take_digits(text, 2, minutes)) {
      return std::nullopt;
    }
    offset_minutes = sign * (hours * 60 + minutes);
  }
  if (!text.empty()) return std::nullopt;
  const std::int64_t days = std::chrono::sys_days(date).time_since_epoch().count();
  return static_cast<double>(days * 86400 + (hour * 60 + minute - offset_minutes) * 60 + second) +
         fraction;
}

std::optional<std::uint32_t> parse_tokens(std::string_view text) {
  std::uint32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value > most_tokens) {
    return std::nullopt;
  }
  return value;
}

Result<Row> parse_azure(std::string_view line) {
  const auto first = line.find(',');
  const auto second = first == std::string_view::npos ? first : line.find(',', first + 1);
  if (second == std::string_view::npos) {
    return malformed(fmt::format("not the three columns {}", azure_header));
  }
  Row row;
  const auto time = parse_time(line.substr(0, first));
  if (!time) return malformed("TIMESTAMP is not like 2023-11-16 18:17:03.9799600");
  const auto prompt = parse_tokens(line.substr(first + 1, second - first - 1));
  const auto output = parse_tokens(line.substr(second + 1));
  if (!prompt || !output) {
    return malformed(fmt::format("{} is not a whole number up to {}",
                                 prompt ? "GeneratedTokens" : "ContextTokens", most_tokens));
  }
  row.time_s = *time;
  row.prompt_tokens = *prompt;
  row.output_tokens = *output;
  return row;
}

Result<Row> parse_mooncake(std::string_view line) {
  const auto json = nlohmann::json::parse(line, nullptr, false);
  if (!json.is_object()) return malformed("not a JSON object");
  Row row;
  const auto time = json.find("timestamp");
  constexpr double latest_ms = 1e15;
  if (time == json.end() || !time->is_number() || !(time->get<double>() >= 0) ||
      time->get<double>() > latest_ms) {
    return malformed("timestamp is not a number of milliseconds");
  }
  row.time_s = time->get<double>() / 1000;
  for (const auto& [key, field] : {std::pair{"input_length", &row.prompt_tokens},
                                   std::pair{"output_length", &row.output_tokens}}) {
    const auto value = json.find(key);
    if (value == json.end() || !value->is_number_unsigned() ||
        value->get<std::uint64_t>() > most_tokens) {
      return malformed(fmt::format("{} is not a whole number up to {}", key, most_tokens));
    }
    *field = value->get<std::uint32_t>();
  }
  const auto ids = json.find("hash_ids");
  if (ids == json.end()) return row;
  if (!ids->is_array()) return malformed("hash_ids is not a list");
  for (const auto& id : *ids) {
    if (!id.is_number_unsigned())
      return malformed("hash_ids has something that is no whole number");
    row.blocks.push_back(id.get<std::uint64_t>());
  }
  return row;
}

class TraceSource final : public Source {
 public:
  TraceSource(std::istream& in, std::string file, const TraceOptions& options)
      : in_(in),
        file_(std::move(file)),
        options_(options),
        tenants_(options.tenants.count, options.tenants.skew) {}

  Result<void> open() {
    auto line = next_line();
    if (!line) return fail(line.error());
    if (!*line) return fail(malformed_here("the file is empty"));
    mooncake_ = line_[0] == '{';
    held_ = mooncake_;
    const std::string_view text(line_);
    if (!mooncake_ && text.substr(text.starts_with("\xEF\xBB\xBF") ? 3 : 0) != azure_header) {
      return fail(malformed_here(
          fmt::format("neither the header {} of an Azure trace nor a JSON object, as in a Mooncake "
                      "trace",
                      azure_header)));
    }
    return {};
  }

  Result<std::optional<Request>> next() override {
    if (!std::exchange(held_, false)) {
      auto line = next_line();
      if (!line) return fail(line.error());
      if (!*line) return std::nullopt;
    }
    auto row = mooncake_ ? parse_mooncake(line_) : parse_azure(line_);
    if (!row) return fail(malformed_here(row.error().message));
    if (index_ == 0) start_s_ = row->time_s;
    Request request;
    now_s_ = std::max(now_s_, (row->time_s - start_s_) / options_.speed);
    request.at_s = now_s_;
    request.index = index_;
    request.prompt_tokens = scaled(row->prompt_tokens, options_.length_scale);
    request.output_tokens = scaled(row->output_tokens, options_.length_scale);
    Draws draws(options_.seed, Purpose::tenant, index_);
    request.tenant = options_.tenants.first + tenants_.draw(draws);
    if (!row->blocks.empty()) {
      request.blocks = std::move(row->blocks);
      request.block_tokens = scaled(mooncake_block_tokens, options_.length_scale);
    }
    ++index_;
    return request;
  }

 private:
  Error malformed_here(const std::string& message) const {
    return Error(ErrorCode::malformed, fmt::format("{}:{}: {}", file_, number_, message));
  }

  // The next one that is not empty, into line_; false at the end.
  Result<bool> next_line() {
    while (true) {
      line_.clear();
      ++number_;
      auto* buffer = in_.rdbuf();
      int c = buffer->sbumpc();
      if (c == std::char_traits<char>::eof()) return false;
      for (; c != std::char_traits<char>::eof() && c != '\n'; c = buffer->sbumpc()) {
        if (line_.size() == longest_line) {
          return fail(
              malformed_here(fmt::format("the line is longer than {} bytes", longest_line)));
        }
        line_ += static_cast<char>(c);
      }
      if (line_.ends_with('\r')) line_.pop_back();
      if (!line_.empty()) return true;
    }
  }

  std::istream& in_;
  const std::string file_;
  const TraceOptions options_;
  const Zipf tenants_;
  bool mooncake_ = false;
  bool held_ = false;  // line_ was read to tell the format
  std::string line_;
  std::uint64_t number_ = 0;
  std::uint64_t index_ = 0;
  double start_s_ = 0;
  double now_s_ = 0;
};

}  // namespace

Result<std::unique_ptr<Source>> open_trace(std::istream& in, const std::string& file,
                                           const TraceOptions& options) {
  auto source = std::make_unique<TraceSource>(in, file, options);
  if (auto opened = source->open(); !opened) return fail(opened.error());
  return source;
}

}  // namespace plimsoll::cli::scorecard
