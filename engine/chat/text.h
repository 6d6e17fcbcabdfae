// A string that knows, byte by byte, whether it came from the template or out of a variable.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/chat/meter.h"

namespace plimsoll::jinja {

// Python's integers have no bound; these have 128 bits, and overflow is an error.
using Int = __int128;

// Bytes up to `end` (from the run before) have one origin.
struct Run {
  std::size_t end;
  bool from_template;
};

// Immutable. UTF-8.
struct Text {
  std::string bytes;
  std::vector<Run> runs;   // ascending; neighbours differ; the last ends at bytes.size()
  std::size_t length = 0;  // in code points
  bool markup = false;     // from `safe` or `escape`: `+` escapes what it is added to
  Charge charge;

  bool is_ascii() const { return length == bytes.size(); }
  bool from_template_at(std::size_t byte) const;
};
using String = std::shared_ptr<const Text>;

String make_literal(std::string bytes);  // template text, charged to nobody

// Grows a Text, charging it as it grows.
class TextBuilder {
 public:
  explicit TextBuilder(Meter& meter) : meter_(meter), charge_(meter) {}

  void append(std::string_view bytes, bool from_template);
  void append(const Text& text) { append(text, 0, text.bytes.size()); }
  void append(const Text& text, std::size_t begin, std::size_t end);  // bytes [begin, end)

  std::size_t size() const { return bytes_.size(); }
  String finish();

 private:
  void reserve(std::size_t more);

  Meter& meter_;
  Charge charge_;
  std::string bytes_;
  std::vector<Run> runs_;
  std::size_t unpaid_work_ = 0;  // bytes appended that the meter has not counted
};

String make_text(Meter& meter, std::string_view bytes, bool from_template);
// Bytes [begin, end) of a text: the text itself where that is all of it.
String substring(Meter& meter, const String& text, std::size_t begin, std::size_t end);

}  // namespace plimsoll::jinja
