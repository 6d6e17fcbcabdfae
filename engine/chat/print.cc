#include "engine/chat/print.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "engine/chat/macro.h"
#include "engine/chat/unicode.h"

namespace plimsoll::jinja {
namespace {

std::string hex(char32_t c, int digits) {
  static constexpr char alphabet[] = "0123456789abcdef";
  std::string out(static_cast<std::size_t>(digits), '0');
  for (int i = digits - 1; i >= 0; --i, c >>= 4)
    out[static_cast<std::size_t>(i)] = alphabet[c & 15];
  return out;
}

std::string quote(Meter& meter, const Text& text) {
  meter.work(4 * text.bytes.size());
  meter.check_text(text.bytes.size());
  const bool has_single = text.bytes.find('\'') != std::string::npos;
  const bool has_double = text.bytes.find('"') != std::string::npos;
  const char mark = has_single && !has_double ? '"' : '\'';
  std::string out(1, mark);
  for (std::size_t at = 0; at < text.bytes.size();) {
    const std::size_t begin = at;
    const char32_t c = decode(text.bytes, at);
    if (c == static_cast<char32_t>(mark) || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (is_printable(c)) {
      out.append(text.bytes, begin, at - begin);
    } else {
      out += c < 0x100 ? "\\x" + hex(c, 2) : c < 0x10000 ? "\\u" + hex(c, 4) : "\\U" + hex(c, 8);
    }
  }
  return out += mark;
}

class Repr {
 public:
  Repr(Meter& meter, TextBuilder& out) : meter_(meter), out_(out) {}

  void write(const Value& value) {
    meter_.step();
    value.visit([this](const auto& v) { write_one(v); });
  }

 private:
  void put(std::string_view text) { out_.append(text, false); }

  void write_one(const Undefined&) { put("Undefined"); }
  void write_one(const None&) { put("None"); }
  void write_one(bool b) { put(b ? "True" : "False"); }
  void write_one(Int i) { put(to_string(i)); }
  void write_one(double d) { put(to_string(d)); }
  void write_one(const String& s) {
    put(s->markup ? "Markup(" + quote(meter_, *s) + ")" : quote(meter_, *s));
  }
  void write_one(const SequencePtr& list) {
    put(list->is_tuple ? "(" : "[");
    for (std::size_t i = 0; i < list->items.size(); ++i) {
      if (i > 0) put(", ");
      write(list->items[i]);
    }
    if (list->is_tuple && list->items.size() == 1) put(",");
    put(list->is_tuple ? ")" : "]");
  }
  void write_one(const DictPtr& dict) { write_entries(dict->entries); }
  void write_one(const Range& range) {
    put("range(" + to_string(range.start) + ", " + to_string(range.stop));
    if (range.step != 1) put(", " + to_string(range.step));
    put(")");
  }
  void write_one(const DictView& view) {
    const Value value(view);
    put(type_name(value));
    put("(");
    write(Value(iterate(meter_, value)));
    put(")");
  }
  void write_one(const std::shared_ptr<Iterator>& it) {
    put("<" + std::string(it->name) + " object>");  // Python adds the address
  }
  void write_one(Namespace* ns) {
    const Nesting nesting(meter_, depth_);  // a namespace may hold itself
    put("<Namespace {");
    bool first = true;
    for (const auto& [name, value] : ns->attributes) {
      if (!first) put(", ");
      first = false;
      put("'" + name + "': ");
      write(value);
    }
    put("}>");
  }
  void write_one(const Macro* macro) { put("<Macro '" + macro->name + "'>"); }
  void write_one(const std::shared_ptr<const Method>& method) {
    put("<built-in method " + std::string(method->name) + " of " +
        std::string(type_name(method->self)) + " object>");
  }
  void write_one(Function) { put("<function>"); }
  void write_one(const std::shared_ptr<Loop>& loop) {
    put("<LoopContext " + std::to_string(loop->index0 + 1) + "/" +
        std::to_string(loop->count(meter_)) + ">");
  }

  template <class Entries>
  void write_entries(const Entries& entries) {
    put("{");
    bool first = true;
    for (const auto& [key, value] : entries) {
      if (!first) put(", ");
      first = false;
      write(key);
      put(": ");
      write(value);
    }
    put("}");
  }

  Meter& meter_;
  TextBuilder& out_;
  std::size_t depth_ = 0;
};

class JsonWriter {
 public:
  JsonWriter(Meter& meter, const JsonStyle& style, TextBuilder& out)
      : meter_(meter), style_(style), out_(out) {}

  void write(const Value& value) {
    meter_.step();
    if (value.is_string()) {
      write_string(value.text().bytes);
    } else if (value.is_none()) {
      put("null");
    } else if (const auto* b = value.get_if<bool>()) {
      put(*b ? "true" : "false");
    } else if (const auto* i = value.get_if<Int>()) {
      put(to_string(*i));
    } else if (const auto* d = value.get_if<double>()) {
      put(number(*d));
    } else if (const Sequence* list = value.sequence()) {
      write_list(*list);
    } else if (const Dict* dict = value.dict()) {
      write_dict(*dict);
    } else {
      fail_render("Object of type " + std::string(type_name(value)) + " is not JSON serializable");
    }
  }

 private:
  void put(std::string_view text) { out_.append(text, false); }

  static std::string number(double d) {
    if (std::isnan(d)) return "NaN";
    if (std::isinf(d)) return d > 0 ? "Infinity" : "-Infinity";
    return to_string(d);
  }

  void write_string(std::string_view text) {
    meter_.work(2 * text.size());
    put("\"");
    std::size_t plain = 0;  // start of what needs no escape
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t begin = at;
      const char32_t c = decode(text, at);
      const std::string escaped = escape(c);
      if (escaped.empty()) continue;
      put(text.substr(plain, begin - plain));
      put(escaped);
      plain = at;
    }
    put(text.substr(plain));
    put("\"");
  }

  std::string escape(char32_t c) const {
    switch (c) {
      case '"': return "\\\"";
      case '\\': return "\\\\";
      case '\n': return "\\n";
      case '\r': return "\\r";
      case '\t': return "\\t";
      case '\b': return "\\b";
      case '\f': return "\\f";
      default: break;
    }
    if (c < 0x20 || (style_.ensure_ascii && c >= 0x7F && c < 0x10000)) return "\\u" + hex(c, 4);
    if (style_.ensure_ascii && c >= 0x10000) {
      return "\\u" + hex(0xD800 + ((c - 0x10000) >> 10), 4) + "\\u" +
             hex(0xDC00 + ((c - 0x10000) & 0x3FF), 4);
    }
    return {};
  }

  void new_line(std::size_t level) {
    if (!style_.indent) return;
    put("\n");
    for (std::size_t i = 0; i < level; ++i) put(*style_.indent);
  }

  void write_list(const Sequence& list) {
    if (list.items.empty()) return put("[]");
    put("[");
    ++level_;
    for (std::size_t i = 0; i < list.items.size(); ++i) {
      if (i > 0) put(style_.item_separator);
      new_line(level_);
      write(list.items[i]);
    }
    new_line(--level_);
    put("]");
  }

  void write_dict(const Dict& dict) {
    if (dict.entries.empty()) return put("{}");
    std::vector<const std::pair<Value, Value>*> entries;
    Charge charge(meter_);
    charge.add(dict.entries.size() * sizeof entries[0]);
    entries.reserve(dict.entries.size());
    for (const auto& entry : dict.entries) entries.push_back(&entry);
    if (style_.sort_keys) {
      std::stable_sort(entries.begin(), entries.end(), [this](const auto* a, const auto* b) {
        return less(meter_, a->first, b->first);
      });
    }
    put("{");
    ++level_;
    for (std::size_t i = 0; i < entries.size(); ++i) {
      if (i > 0) put(style_.item_separator);
      new_line(level_);
      write_key(entries[i]->first);
      put(style_.key_separator);
      write(entries[i]->second);
    }
    new_line(--level_);
    put("}");
  }

  void write_key(const Value& key) {
    if (key.is_string()) return write_string(key.text().bytes);
    if (key.is_none()) return put("\"null\"");
    if (const auto* b = key.get_if<bool>()) return put(*b ? "\"true\"" : "\"false\"");
    if (const auto* i = key.get_if<Int>()) return put("\"" + to_string(*i) + "\"");
    if (const auto* d = key.get_if<double>()) return put("\"" + number(*d) + "\"");
    fail_render("keys must be str, int, float, bool or None, not " + std::string(type_name(key)));
  }

  Meter& meter_;
  const JsonStyle& style_;
  TextBuilder& out_;
  std::size_t level_ = 0;
};

}  // namespace

std::string to_string(Int value) {
  const bool negative = value < 0;
  auto rest = static_cast<unsigned __int128>(value);
  if (negative) rest = -rest;
  std::string digits;
  do {
    digits += static_cast<char>('0' + static_cast<int>(rest % 10));
    rest /= 10;
  } while (rest != 0);
  if (negative) digits += '-';
  std::reverse(digits.begin(), digits.end());
  return digits;
}

std::string to_string(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  std::array<char, 32> buffer;
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value,
                                 std::chars_format::scientific);
  std::string text(buffer.data(), end.ptr);  // -d.ddde+xx
  const std::string sign = text[0] == '-' ? "-" : "";
  text.erase(0, sign.size());
  const std::size_t e = text.find('e');
  const int exponent = std::stoi(text.substr(e + 1));
  std::string digits = text.substr(0, 1);
  if (e > 2) digits += text.substr(2, e - 2);
  if (exponent < -4 || exponent >= 16) {
    std::string out = sign + digits.substr(0, 1);
    if (digits.size() > 1) out += "." + digits.substr(1);
    const std::string power = std::to_string(std::abs(exponent));
    return out + (exponent < 0 ? "e-" : "e+") + (power.size() < 2 ? "0" : "") + power;
  }
  if (exponent < 0)
    return sign + "0." + std::string(static_cast<std::size_t>(-exponent - 1), '0') + digits;
  const auto whole = static_cast<std::size_t>(exponent) + 1;
  if (digits.size() <= whole) return sign + digits + std::string(whole - digits.size(), '0') + ".0";
  return sign + digits.substr(0, whole) + "." + digits.substr(whole);
}

void append_text(TextBuilder& out, Meter& meter, const Value& value) {
  if (value.is_string()) return out.append(value.text());
  if (value.is_undefined()) return;
  Repr(meter, out).write(value);
}

String to_text(Meter& meter, const Value& value) {
  if (value.is_string()) return value.as<String>();
  TextBuilder out(meter);
  append_text(out, meter, value);
  return out.finish();
}

String repr(Meter& meter, const Value& value) {
  TextBuilder out(meter);
  Repr(meter, out).write(value);
  return out.finish();
}

String to_json(Meter& meter, const Value& value, const JsonStyle& style) {
  TextBuilder out(meter);
  JsonWriter(meter, style, out).write(value);
  return out.finish();
}

}  // namespace plimsoll::jinja
