#include "engine/chat/text.h"

#include <algorithm>
#include <utility>

#include "engine/chat/unicode.h"

namespace plimsoll::jinja {
namespace {

std::vector<Run>::const_iterator run_at(const std::vector<Run>& runs, std::size_t byte) {
  return std::upper_bound(runs.begin(), runs.end(), byte,
                          [](std::size_t b, const Run& run) { return b < run.end; });
}

}  // namespace

bool Text::from_template_at(std::size_t byte) const {
  const auto run = run_at(runs, byte);
  return run != runs.end() && run->from_template;
}

String make_literal(std::string bytes) {
  auto text = std::make_shared<Text>();
  text->bytes = std::move(bytes);
  text->length = count_code_points(text->bytes);
  if (!text->bytes.empty()) text->runs.push_back({text->bytes.size(), true});
  return text;
}

void TextBuilder::reserve(std::size_t more) {
  const std::size_t need = bytes_.size() + more;
  meter_.check_text(need);
  unpaid_work_ += more;
  if (unpaid_work_ >= 256) meter_.work(std::exchange(unpaid_work_, 0));
  if (need <= bytes_.capacity()) return;
  const std::size_t old = bytes_.capacity();
  const std::size_t next = std::max(need, old * 2);
  charge_.add(next - old);
  bytes_.reserve(next);
}

void TextBuilder::append(std::string_view bytes, bool from_template) {
  if (bytes.empty()) return;
  reserve(bytes.size());
  bytes_ += bytes;
  if (!runs_.empty() && runs_.back().from_template == from_template) {
    runs_.back().end = bytes_.size();
  } else {
    charge_.add(2 * sizeof(Run));
    runs_.push_back({bytes_.size(), from_template});
  }
}

void TextBuilder::append(const Text& text, std::size_t begin, std::size_t end) {
  if (begin >= end) return;
  const std::string_view bytes = text.bytes;
  for (auto run = run_at(text.runs, begin); begin < end; ++run) {
    const std::size_t stop = std::min(end, run->end);
    append(bytes.substr(begin, stop - begin), run->from_template);
    begin = stop;
  }
}

String TextBuilder::finish() {
  meter_.step();
  charge_.add(sizeof(Text) + 2 * sizeof(void*));
  auto text = std::make_shared<Text>();
  text->bytes = std::move(bytes_);
  text->runs = std::move(runs_);
  text->length = count_code_points(text->bytes);
  text->charge = std::move(charge_);
  bytes_.clear();
  runs_.clear();
  charge_ = Charge(meter_);
  return text;
}

String make_text(Meter& meter, std::string_view bytes, bool from_template) {
  TextBuilder builder(meter);
  builder.append(bytes, from_template);
  return builder.finish();
}

String substring(Meter& meter, const String& text, std::size_t begin, std::size_t end) {
  if (begin == 0 && end == text->bytes.size()) return text;
  TextBuilder builder(meter);
  builder.append(*text, begin, end);
  return builder.finish();
}

}  // namespace plimsoll::jinja
