// Attributes, items, slices and methods, as the sandboxed environment looks them up.
#include <algorithm>
#include <array>

#include "engine/chat/builtins.h"
#include "engine/chat/macro.h"
#include "engine/chat/print.h"
#include "engine/chat/unicode.h"

namespace plimsoll::jinja {
namespace {

constexpr std::array<std::string_view, 5> dict_methods = {"get", "items", "keys", "values", "copy"};
constexpr std::array<std::string_view, 5> dict_mutators = {"clear", "pop", "popitem", "setdefault",
                                                           "update"};
constexpr std::array<std::string_view, 3> list_methods = {"copy", "count", "index"};
constexpr std::array<std::string_view, 8> list_mutators = {"append", "clear", "pop",    "reverse",
                                                           "insert", "sort",  "extend", "remove"};
constexpr std::array<std::string_view, 2> tuple_methods = {"count", "index"};

template <class Names>
bool has(const Names& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

Value unsafe(const Value& object, std::string_view name) {
  return undefined("access to attribute '" + std::string(name) + "' of '" +
                   std::string(type_name(object)) + "' object is unsafe.");
}

std::string object_name(const Value& object) {
  return object.is_none() ? "None" : std::string(type_name(object)) + " object";
}

Value missing_attribute(const Value& object, std::string_view name) {
  return undefined("'" + object_name(object) + "' has no attribute '" + std::string(name) + "'");
}

Value make_method(Meter& meter, const Value& self, std::string_view name) {
  meter.check_depth(depth_of(self) + 1);
  auto method = std::make_shared<Method>();
  method->self = self;
  method->name = name;
  return Value(std::shared_ptr<const Method>(std::move(method)));
}

Value optional(const std::optional<Value>& value, std::string_view why) {
  return value ? *value : undefined(std::string(why));
}

// The attribute of a loop, or nothing if there is none of that name.
std::optional<Value> loop_attribute(Meter& meter, const Value& self, std::string_view name) {
  Loop& loop = *self.as<std::shared_ptr<Loop>>();
  const auto integer = [](std::size_t n) { return Value(static_cast<Int>(n)); };
  if (name == "index") return integer(loop.index0 + 1);
  if (name == "index0") return integer(loop.index0);
  if (name == "first") return Value(loop.index0 == 0);
  if (name == "last") return Value(!loop.peek().has_value());
  if (name == "length") return integer(loop.count(meter));
  if (name == "revindex") return integer(loop.count(meter) - loop.index0);
  if (name == "revindex0") return integer(loop.count(meter) - loop.index0 - 1);
  if (name == "previtem") return optional(loop.before, "there is no previous item");
  if (name == "nextitem") return optional(loop.peek(), "there is no next item");
  if (name == "depth") return integer(1);
  if (name == "depth0") return integer(0);
  if (name == "cycle") return make_method(meter, self, "cycle");
  if (name == "changed") return make_method(meter, self, "changed");
  return std::nullopt;
}

// A Python attribute of the object, or nothing: what getattr() finds.
std::optional<Value> own_attribute(Meter& meter, const Value& object, std::string_view name) {
  const auto method = [&](std::string_view static_name) {
    return make_method(meter, object, static_name);
  };
  const auto from = [&](const auto& names) -> std::optional<Value> {
    const auto found = std::find(names.begin(), names.end(), name);
    if (found == names.end()) return std::nullopt;
    return method(*found);
  };
  if (name.starts_with("__")) return unsafe(object, name);
  if (object.dict() != nullptr) {
    if (has(dict_mutators, name)) return unsafe(object, name);
    if (name == "fromkeys") fail_unsupported("dict.fromkeys");
    return from(dict_methods);
  }
  if (object.is_string()) {
    const std::string_view known = find_string_method(name);
    return known.empty() ? std::nullopt : std::optional<Value>(method(known));
  }
  if (const Sequence* list = object.sequence()) {
    if (list->is_tuple) return from(tuple_methods);
    if (has(list_mutators, name)) return unsafe(object, name);
    return from(list_methods);
  }
  if (const auto* ns = object.get_if<Namespace*>()) {
    for (const auto& [key, value] : (*ns)->attributes) {
      if (key == name) return value;
    }
    return std::nullopt;
  }
  if (object.is<std::shared_ptr<Loop>>()) return loop_attribute(meter, object, name);
  if (const auto* macro = object.get_if<const Macro*>(); macro != nullptr && name == "name") {
    return Value(make_text(meter, (*macro)->name, true));
  }
  return std::nullopt;
}

// A negative index counts from the end. Nothing if it is out of range.
std::optional<std::size_t> position(Int index, std::size_t size) {
  if (index < 0) index += static_cast<Int>(size);
  if (index < 0 || index >= static_cast<Int>(size)) return std::nullopt;
  return static_cast<std::size_t>(index);
}

Value code_point(Meter& meter, const String& text, std::size_t index) {
  std::size_t begin = index;
  if (!text->is_ascii()) {
    meter.work(text->bytes.size());
    begin = byte_offset(text->bytes, index);
  }
  std::size_t end = begin;
  decode(text->bytes, end);
  return Value(substring(meter, text, begin, end));
}

// obj[key] where Python has it.
std::optional<Value> own_item(Meter& meter, const Value& object, const Value& key) {
  if (const Dict* dict = object.dict()) {
    if (key.sequence() != nullptr && !key.sequence()->is_tuple) return std::nullopt;  // unhashable
    if (key.dict() != nullptr) return std::nullopt;
    const Value* found = dict->find(meter, key);
    return found != nullptr ? std::optional<Value>(*found) : std::nullopt;
  }
  const auto index = as_int(key);
  if (!index) return std::nullopt;
  const auto size = try_length(object);
  if (!size || object.is<DictView>()) return std::nullopt;
  const auto at = position(*index, *size);
  if (!at) return std::nullopt;
  if (object.is_string()) return code_point(meter, object.as<String>(), *at);
  if (const Sequence* list = object.sequence()) return list->items[*at];
  const Range& range = object.as<Range>();
  return Value(range.start + range.step * static_cast<Int>(*at));
}

struct SliceBounds {
  Int start, stop, step;
  std::size_t count;
};

// PySlice_AdjustIndices.
SliceBounds slice_bounds(const Value& start, const Value& stop, const Value& step,
                         std::size_t size) {
  const auto bound = [](const Value& value) -> std::optional<Int> {
    if (value.is_none()) return std::nullopt;
    const auto index = as_int(value);
    if (!index) {
      if (value.is_undefined()) fail_undefined(value);
      fail_render("slice indices must be integers or None or have an __index__ method");
    }
    return std::clamp(*index, -(Int{1} << 62), Int{1} << 62);
  };
  const Int by = bound(step).value_or(1);
  if (by == 0) fail_render("slice step cannot be zero");
  const auto length = static_cast<Int>(size);
  const auto adjust = [&](std::optional<Int> index, Int fallback) {
    if (!index) return fallback;
    if (*index < 0) return std::max(*index + length, by < 0 ? Int{-1} : Int{0});
    return std::min(*index, by < 0 ? length - 1 : length);
  };
  const Int from = adjust(bound(start), by < 0 ? length - 1 : 0);
  const Int to = adjust(bound(stop), by < 0 ? Int{-1} : length);
  Int count = 0;
  if (by > 0 && from < to) count = (to - from - 1) / by + 1;
  if (by < 0 && to < from) count = (from - to - 1) / -by + 1;
  return {from, to, by, static_cast<std::size_t>(count)};
}

Value slice_text(Meter& meter, const String& text, const SliceBounds& bounds) {
  const std::string& bytes = text->bytes;
  meter.work(bytes.size());
  if (bounds.step == 1 || bounds.count == 0) {
    const std::size_t begin = byte_offset(bytes, static_cast<std::size_t>(bounds.start));
    const std::string_view rest = std::string_view(bytes).substr(begin);
    return Value(substring(meter, text, begin, begin + byte_offset(rest, bounds.count)));
  }
  TextBuilder out(meter);
  const bool forward = bounds.step > 0;
  const auto stride = static_cast<std::size_t>(forward ? bounds.step : -bounds.step);
  std::size_t at = byte_offset(bytes, static_cast<std::size_t>(bounds.start));
  for (std::size_t taken = 0; taken < bounds.count; ++taken) {
    meter.step();
    std::size_t end = at;
    decode(bytes, end);
    out.append(*text, at, end);
    if (taken + 1 == bounds.count) break;
    if (forward) {
      at += byte_offset(std::string_view(bytes).substr(at), stride);
    } else {
      for (std::size_t i = 0; i < stride; ++i) {
        do --at;
        while ((static_cast<unsigned char>(bytes[at]) & 0xC0) == 0x80);
      }
    }
  }
  return Value(out.finish());
}

Value find_index(Meter& meter, const SequencePtr& list, const Arguments& arguments) {
  const Bound args("index", arguments, {"", "", ""}, 1);
  const SliceBounds bounds =
      slice_bounds(args[1] != nullptr ? *args[1] : Value(), args[2] != nullptr ? *args[2] : Value(),
                   Value(), list->items.size());
  for (std::size_t i = 0; i < bounds.count; ++i) {
    const auto at = static_cast<std::size_t>(bounds.start) + i;
    if (equal(meter, list->items[at], *args[0])) return Value(static_cast<Int>(at));
  }
  fail_render("the value to index is not in the list");
}

Value call_loop_method(Meter& meter, Loop& loop, std::string_view name, const Arguments& args) {
  if (!args.named.empty()) fail_render("loop." + std::string(name) + " takes no keyword arguments");
  if (name == "cycle") {
    if (args.positional.empty()) fail_render("no items for cycling given");
    return args.positional[loop.index0 % args.positional.size()];
  }
  ListBuilder values(meter);
  for (const Value& value : args.positional) values.push(value);
  Value now = values.tuple();
  if (loop.last_changed && equal(meter, *loop.last_changed, now)) return Value(false);
  loop.last_changed = std::move(now);
  return Value(true);
}

}  // namespace

Value get_attribute(Meter& meter, const Value& object, std::string_view name) {
  if (object.is_undefined()) fail_undefined(object);
  if (auto own = own_attribute(meter, object, name)) return std::move(*own);
  if (const Dict* dict = object.dict()) {
    if (const Value* found = dict->find(name)) return *found;
  }
  return missing_attribute(object, name);
}

Value get_item(Meter& meter, const Value& object, const Value& key) {
  if (object.is_undefined()) fail_undefined(object);
  if (auto item = own_item(meter, object, key)) return std::move(*item);
  if (!key.is_string()) {
    return undefined(object_name(object) + " has no element " + repr(meter, key)->bytes);
  }
  if (auto own = own_attribute(meter, object, key.text().bytes)) return std::move(*own);
  return missing_attribute(object, key.text().bytes);
}

Value get_slice(Meter& meter, const Value& object, const Value& start, const Value& stop,
                const Value& step) {
  if (object.is_undefined()) fail_undefined(object);
  if (object.is_string()) {
    const String& text = object.as<String>();
    return slice_text(meter, text, slice_bounds(start, stop, step, text->length));
  }
  if (const Sequence* list = object.sequence()) {
    const SliceBounds bounds = slice_bounds(start, stop, step, list->items.size());
    ListBuilder out(meter);
    out.reserve(bounds.count);
    for (std::size_t i = 0; i < bounds.count; ++i) {
      out.push(
          list->items[static_cast<std::size_t>(bounds.start + static_cast<Int>(i) * bounds.step)]);
    }
    return list->is_tuple ? out.tuple() : out.list();
  }
  if (const auto* range = object.get_if<Range>()) {
    const SliceBounds bounds = slice_bounds(start, stop, step, range->size);
    const Int from = range->start + bounds.start * range->step;
    const Int by = bounds.step * range->step;
    return Value(Range{from, range->start + bounds.stop * range->step, by, bounds.count});
  }
  fail_render("'" + std::string(type_name(object)) + "' object is not subscriptable");
}

Value call_method(Meter& meter, const Method& method, const Arguments& arguments) {
  const Value& self = method.self;
  const std::string_view name = method.name;
  if (self.is_string()) return call_string_method(meter, self.as<String>(), name, arguments);
  if (const auto* loop = self.get_if<std::shared_ptr<Loop>>()) {
    return call_loop_method(meter, **loop, name, arguments);
  }
  if (const auto* dict = self.get_if<DictPtr>()) {
    if (name == "get") {
      const Bound args("get", arguments, {"", ""}, 1);
      const Value* found = (*dict)->find(meter, *args[0]);
      return found != nullptr ? *found : args[1] != nullptr ? *args[1] : Value();
    }
    const Bound args(name, arguments, {});
    if (name == "items") return Value(DictView{DictView::Part::items, *dict});
    if (name == "keys") return Value(DictView{DictView::Part::keys, *dict});
    if (name == "values") return Value(DictView{DictView::Part::values, *dict});
    return self;  // copy: values do not change
  }
  const SequencePtr& list = self.as<SequencePtr>();
  if (name == "index") return find_index(meter, list, arguments);
  if (name == "count") {
    const Bound args("count", arguments, {""}, 1);
    Int count = 0;
    for (const Value& item : list->items) count += equal(meter, item, *args[0]) ? 1 : 0;
    return Value(count);
  }
  const Bound args(name, arguments, {});
  return self;  // copy
}

}  // namespace plimsoll::jinja
