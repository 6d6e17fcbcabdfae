#include <algorithm>
#include <unordered_set>

#include "engine/chat/filters.h"
#include "engine/chat/print.h"
#include "engine/chat/text_operations.h"

namespace plimsoll::jinja::filters {
namespace {

bool flag(const Value* value) { return value != nullptr && truthy(*value); }

bool is_all_digits(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

// jinja2.filters.make_attrgetter: "a.0.b", an index, or (null) the item itself.
class AttributeGetter {
 public:
  AttributeGetter(Meter& meter, const Value* attribute, const Value* fallback = nullptr,
                  bool ignore_case = false)
      : meter_(meter), fallback_(fallback), ignore_case_(ignore_case) {
    if (attribute == nullptr || attribute->is_none()) return;
    if (!attribute->is_string()) {
      path_.push_back(*attribute);
      return;
    }
    std::string_view rest = attribute->text().bytes;
    while (true) {
      meter.step();
      const std::size_t dot = std::min(rest.find('.'), rest.size());
      const std::string_view part = rest.substr(0, dot);
      const auto index = is_all_digits(part) ? parse_int(part, 10) : std::nullopt;
      path_.push_back(index ? Value(*index) : Value(make_text(meter, part, true)));
      if (dot == rest.size()) break;
      rest.remove_prefix(dot + 1);
    }
  }

  Value operator()(Value item) const {
    for (const Value& part : path_) {
      meter_.step();
      item = get_item(meter_, item, part);
      if (item.is_undefined() && fallback_ != nullptr && !fallback_->is_none()) item = *fallback_;
    }
    return ignore_case_ && item.is_string() ? Value(lower(meter_, item.text())) : item;
  }

 private:
  Meter& meter_;
  std::vector<Value> path_;
  const Value* fallback_;
  bool ignore_case_;
};

// `sort(attribute="a,b")`: one key from several attributes.
std::vector<AttributeGetter> sort_keys(Meter& meter, const Value* attribute, bool ignore_case) {
  std::vector<AttributeGetter> getters;
  if (attribute == nullptr || !attribute->is_string()) {
    getters.emplace_back(meter, attribute, nullptr, ignore_case);
    return getters;
  }
  std::string_view rest = attribute->text().bytes;
  while (true) {
    const std::size_t comma = std::min(rest.find(','), rest.size());
    const Value part(make_text(meter, rest.substr(0, comma), true));
    getters.emplace_back(meter, &part, nullptr, ignore_case);
    if (comma == rest.size()) return getters;
    rest.remove_prefix(comma + 1);
  }
}

// Sorts the items by keys of the same positions, stably; `reverse` keeps equal ones in order.
Value sorted(Meter& meter, const Sequence& items, const Sequence& keys, bool reverse) {
  ListBuilder order(meter);  // positions, charged like any list
  for (std::size_t i = 0; i < items.items.size(); ++i) order.push(Value(static_cast<Int>(i)));
  std::stable_sort(order.items().begin(), order.items().end(), [&](const Value& a, const Value& b) {
    const Value& x = keys.items[static_cast<std::size_t>(a.as<Int>())];
    const Value& y = keys.items[static_cast<std::size_t>(b.as<Int>())];
    return reverse ? less(meter, y, x) : less(meter, x, y);
  });
  ListBuilder out(meter);
  for (const Value& at : order.items()) {
    out.push(items.items[static_cast<std::size_t>(at.as<Int>())]);
  }
  return out.list();
}

Value choose(Meter& meter, const Value& value, const Arguments& arguments, bool wanted,
             bool by_attribute) {
  ListBuilder out(meter);
  if (!truthy(value)) return out.iterator("generator");
  const auto& positional = arguments.positional;
  if (by_attribute && positional.empty()) fail_render("Missing parameter for attribute name");
  const AttributeGetter get(meter, by_attribute ? &positional[0] : nullptr);
  const std::size_t test_at = by_attribute ? 1 : 0;
  Builtin test = nullptr;
  Arguments rest;
  if (positional.size() > test_at) {
    const std::string name = to_text(meter, positional[test_at])->bytes;
    test = find_test(name);
    if (test == nullptr) fail_render("No test named '" + name + "'.");
    rest.positional.assign(positional.begin() + static_cast<std::ptrdiff_t>(test_at) + 1,
                           positional.end());
    rest.named = arguments.named;
  }
  const SequencePtr input = iterate(meter, value);
  for (const Value& item : input->items) {
    meter.step();
    const Value tested = get(item);
    const bool passed = truthy(test != nullptr ? test(meter, tested, rest) : tested);
    if (passed == wanted) out.push(item);
  }
  return out.iterator("generator");
}

Value extreme(Meter& meter, const Value& value, const Arguments& arguments, bool largest) {
  const Bound args(largest ? "max" : "min", arguments, {"case_sensitive", "attribute"});
  const AttributeGetter key(meter, args[1], nullptr, !flag(args[0]));
  const SequencePtr input = iterate(meter, value);
  if (input->items.empty()) return undefined("No aggregated item, sequence was empty.");
  Value best = input->items[0];
  Value best_key = key(best);
  for (std::size_t i = 1; i < input->items.size(); ++i) {
    Value next_key = key(input->items[i]);
    if (largest ? less(meter, best_key, next_key) : less(meter, next_key, best_key)) {
      best = input->items[i];
      best_key = std::move(next_key);
    }
  }
  return best;
}

Value pair(Meter& meter, const Value& first, const Value& second) {
  ListBuilder out(meter);
  out.reserve(2);
  out.push(first);
  out.push(second);
  return out.tuple();
}

std::size_t positive(const Value* value, std::string_view what) {
  const Int n = int_argument(value, 0, what);
  if (n <= 0) fail_render(std::string(what) + " must be over 0");
  return static_cast<std::size_t>(std::min<Int>(n, Int{1} << 40));
}

}  // namespace

Value length(Meter&, const Value& value, const Arguments& arguments) {
  const Bound args("length", arguments, {});
  return Value(static_cast<Int>(jinja::length(value)));
}

Value first(Meter& meter, const Value& value, const Arguments& arguments) {
  const Bound args("first", arguments, {});
  if (const auto* it = value.get_if<std::shared_ptr<Iterator>>()) {
    const auto& items = (*it)->items->items;
    if ((*it)->next < items.size()) return items[(*it)->next++];
  } else if (value.is_string() || value.sequence() != nullptr) {
    if (jinja::length(value) > 0) return get_item(meter, value, Value(Int{0}));
  } else if (const SequencePtr items = iterate(meter, value); !items->items.empty()) {
    return items->items[0];
  }
  return undefined("No first item, sequence was empty.");
}

Value last(Meter& meter, const Value& value, const Arguments& arguments) {
  const Bound args("last", arguments, {});
  if (value.is<std::shared_ptr<Iterator>>()) {
    fail_render("'" + std::string(type_name(value)) + "' object is not reversible");
  }
  if (value.is_string() || value.sequence() != nullptr) {
    if (jinja::length(value) > 0) return get_item(meter, value, Value(Int{-1}));
  } else if (const SequencePtr items = iterate(meter, value); !items->items.empty()) {
    return items->items.back();
  }
  return undefined("No last item, sequence was empty.");
}

Value list(Meter& meter, const Value& value, const Arguments& arguments) {
  const Bound args("list", arguments, {});
  const SequencePtr items = iterate(meter, value);
  if (!items->is_tuple) return Value(items);
  ListBuilder out(meter);
  out.reserve(items->items.size());
  for (const Value& item : items->items) out.push(item);
  return out.list();
}

Value join(Meter& meter, const Value& value, const Arguments& arguments) {
  const Bound args("join", arguments, {"d", "attribute"});
  const AttributeGetter get(meter, args[1]);
  const String separator = args[0] != nullptr ? to_text(meter, *args[0]) : make_literal("");
  const SequencePtr items = iterate(meter, value);
  TextBuilder out(meter);
  for (std::size_t i = 0; i < items->items.size(); ++i) {
    meter.step();
    if (i > 0) out.append(*separator);
    append_text(out, meter, get(items->items[i]));
  }
  return Value(out.finish());
}

Value items(Meter& meter, const Value& value, const Arguments& arguments) {
  const Bound args("items", arguments, {});
  ListBuilder out(meter);
  if (!value.is_undefined()) {
    if (value.dict() == nullptr) fail_render("Can only get item pairs from a mapping.");
    for (const auto& [key, entry] : value.dict()->entries) out.push(pair(meter, key, entry));
  }
  return out.iterator("generator");
}

Value dictsort(Meter& meter, const Value& value, const Arguments& arguments) {
  const Bound args("dictsort", arguments, {"case_sensitive", "by", "reverse"});
  const std::string by = args[1] != nullptr ? text_argument(*args[1], "by").bytes : "key";
  if (by != "key" && by != "value") fail_render("You can only sort by either \"key\" or \"value\"");
  if (value.is_undefined()) fail_undefined(value);
  if (value.dict() == nullptr) {
    fail_render("'" + std::string(type_name(value)) + "' object has no attribute 'items'");
  }
  const AttributeGetter key_of(meter, nullptr, nullptr, !flag(args[0]));
  ListBuilder pairs(meter);
  ListBuilder keys(meter);
  for (const auto& [key, entry] : value.dict()->entries) {
    pairs.push(pair(meter, key, entry));
    keys.push(key_of(by == "key" ? key : entry));
  }
  return sorted(meter, *pairs.sequence(), *keys.sequence(), flag(args[2]));
}

Value sort(Meter& meter, const Value& value, const Arguments& arguments) {
  const Bound args("sort", arguments, {"reverse", "case_sensitive", "attribute"});
  const auto getters = sort_keys(meter, args[2], !flag(args[1]));
  const SequencePtr input = iterate(meter, value);
  ListBuilder keys(meter);
  for (const Value& item : input->items) {
    ListBuilder key(meter);
    for (const AttributeGetter& get : getters) key.push(get(item));
    keys.push(key.list());
  }
  return sorted(meter, *input, *keys.sequence(), flag(args[0]));
}

Value groupby(Meter& meter, const Value& value, const Arguments& arguments) {
  const Bound args("groupby", arguments, {"attribute", "default", "case_sensitive"}, 1);
  const AttributeGetter key_of(meter, args[0], args[1], !flag(args[2]));
  const AttributeGetter shown_key_of(meter, args[0], args[1]);
  const SequencePtr input = iterate(meter, value);
  ListBuilder keys(meter);
  for (const Value& item : input->items) keys.push(key_of(item));
  const Value ordered = sorted(meter, *input, *keys.sequence(), false);
  ListBuilder out(meter);
  const auto& items = ordered.sequence()->items;
  for (std::size_t i = 0; i < items.size();) {
    const Value key = key_of(items[i]);
    const Value shown = shown_key_of(items[i]);
    ListBuilder group(meter);
    do group.push(items[i++]);
    while (i < items.size() && equal(meter, key_of(items[i]), key));
    out.push(pair(meter, shown, group.list()));
  }
  return out.list();
}

Value unique(Meter& meter, const Value& value, const Arguments& arguments) {
  const Bound args("unique", arguments, {"case_sensitive", "attribute"});
  const AttributeGetter key_of(meter, args[1], nullptr, !flag(args[0]));
  const SequencePtr input = iterate(meter, value);
  std::unordered_set<std::string> seen;
  Charge charge(meter);
  ListBuilder out(meter);
  for (const Value& item : input->items) {
    std::string key = hash_key(meter, key_of(item));
    charge.add(key.capacity() + 8 * sizeof(void*));
    if (seen.insert(std::move(key)).second) out.push(item);
  }
  return out.iterator("generator");
}

Value min(Meter& meter, const Value& value, const Arguments& arguments) {
  return extreme(meter, value, arguments, false);
}
Value max(Meter& meter, const Value& value, const Arguments& arguments) {
  return extreme(meter, value, arguments, true);
}

Value sum(Meter& meter, const Value& value, const Arguments& arguments) {
  const Bound args("sum", arguments, {"attribute", "start"});
  const AttributeGetter get(meter, args[0]);
  Value total = args[1] != nullptr ? *args[1] : Value(Int{0});
  if (total.is_string()) fail_render("sum() can't sum strings [use ''.join(seq) instead]");
  const SequencePtr input = iterate(meter, value);
  for (const Value& item : input->items) total = add(meter, total, get(item));
  return total;
}

Value reverse(Meter& meter, const Value& value, const Arguments& arguments) {
  const Bound args("reverse", arguments, {});
  if (value.is_string()) {
    return get_slice(meter, value, Value(), Value(), Value(Int{-1}));
  }
  const bool one_time = value.is<std::shared_ptr<Iterator>>();
  const SequencePtr input = iterate(meter, value);
  ListBuilder out(meter);
  out.reserve(input->items.size());
  for (auto item = input->items.rbegin(); item != input->items.rend(); ++item) out.push(*item);
  return one_time ? out.list() : out.iterator("reversed");
}

Value map(Meter& meter, const Value& value, const Arguments& arguments) {
  ListBuilder out(meter);
  if (!truthy(value)) return out.iterator("generator");
  if (arguments.positional.empty()) {
    const Bound args("map", arguments, {"attribute", "default"});
    if (args[0] == nullptr) fail_render("map requires a filter argument");
    const AttributeGetter get(meter, args[0], args[1]);
    const SequencePtr input = iterate(meter, value);
    for (const Value& item : input->items) out.push(get(item));
    return out.iterator("generator");
  }
  const std::string name = to_text(meter, arguments.positional[0])->bytes;
  const Builtin filter = find_filter(name);
  if (filter == nullptr) fail_render("No filter named '" + name + "'.");
  // Filters call filters: `map('map', 'map', ...)` is one call deeper for each of its arguments.
  if (arguments.positional.size() > 50) fail_limit("map has too many arguments");
  Arguments rest;
  rest.positional.assign(arguments.positional.begin() + 1, arguments.positional.end());
  rest.named = arguments.named;
  const SequencePtr input = iterate(meter, value);
  for (const Value& item : input->items) {
    meter.step();
    out.push(filter(meter, item, rest));
  }
  return out.iterator("generator");
}

Value select(Meter& meter, const Value& value, const Arguments& arguments) {
  return choose(meter, value, arguments, true, false);
}
Value reject(Meter& meter, const Value& value, const Arguments& arguments) {
  return choose(meter, value, arguments, false, false);
}
Value selectattr(Meter& meter, const Value& value, const Arguments& arguments) {
  return choose(meter, value, arguments, true, true);
}
Value rejectattr(Meter& meter, const Value& value, const Arguments& arguments) {
  return choose(meter, value, arguments, false, true);
}

Value batch(Meter& meter, const Value& value, const Arguments& arguments) {
  const Bound args("batch", arguments, {"linecount", "fill_with"}, 1);
  const std::size_t size = positive(args[0], "linecount");
  const SequencePtr input = iterate(meter, value);
  ListBuilder out(meter);
  for (std::size_t i = 0; i < input->items.size();) {
    ListBuilder line(meter);
    for (; line.size() < size && i < input->items.size(); ++i) line.push(input->items[i]);
    if (args[1] != nullptr && !args[1]->is_none()) {
      while (line.size() < size) line.push(*args[1]);
    }
    out.push(line.list());
  }
  return out.iterator("generator");
}

Value slice(Meter& meter, const Value& value, const Arguments& arguments) {
  const Bound args("slice", arguments, {"slices", "fill_with"}, 1);
  const std::size_t slices = positive(args[0], "slices");
  const SequencePtr input = iterate(meter, value);
  const std::size_t each = input->items.size() / slices;
  const std::size_t longer = input->items.size() % slices;
  ListBuilder out(meter);
  std::size_t at = 0;
  for (std::size_t i = 0; i < slices; ++i) {
    ListBuilder part(meter);
    for (const std::size_t end = at + each + (i < longer ? 1 : 0); at < end; ++at) {
      part.push(input->items[at]);
    }
    if (args[1] != nullptr && !args[1]->is_none() && i >= longer) part.push(*args[1]);
    out.push(part.list());
  }
  return out.iterator("generator");
}

}  // namespace plimsoll::jinja::filters
