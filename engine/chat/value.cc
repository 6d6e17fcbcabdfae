#include "engine/chat/value.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/chat/unicode.h"

namespace plimsoll::jinja {
namespace {

constexpr std::size_t indexed_from = 9;  // entries from which a dict keeps an index

std::string bits_of(Int value) {
  char bytes[sizeof value];
  std::memcpy(bytes, &value, sizeof value);
  return std::string(bytes, sizeof value);
}

bool compare_sequences(Meter& meter, const Sequence& a, const Sequence& b) {
  const std::size_t common = std::min(a.items.size(), b.items.size());
  for (std::size_t i = 0; i < common; ++i) {
    if (!equal(meter, a.items[i], b.items[i])) return less(meter, a.items[i], b.items[i]);
  }
  return a.items.size() < b.items.size();
}

bool equal_views(Meter& meter, const DictView& a, const DictView& b) {
  if (a.part != b.part || a.part == DictView::Part::values) return a.dict == b.dict;
  if (a.dict->entries.size() != b.dict->entries.size()) return false;
  for (const auto& [key, value] : a.dict->entries) {
    const Value* other = b.dict->find(meter, key);
    if (other == nullptr) return false;
    if (a.part == DictView::Part::items && !equal(meter, value, *other)) return false;
  }
  return true;
}

}  // namespace

const Sequence* Value::sequence() const {
  const auto* p = get_if<SequencePtr>();
  return p != nullptr ? p->get() : nullptr;
}

const Dict* Value::dict() const {
  const auto* p = get_if<DictPtr>();
  return p != nullptr ? p->get() : nullptr;
}

Value undefined(std::string why) {
  return Value(Undefined{std::make_shared<const std::string>(std::move(why))});
}

std::uint32_t depth_of(const Value& value) {
  if (const Sequence* list = value.sequence()) return list->depth;
  if (const Dict* dict = value.dict()) return dict->depth;
  if (const auto* view = value.get_if<DictView>()) return view->dict->depth + 1;
  if (const auto* it = value.get_if<std::shared_ptr<Iterator>>()) return (*it)->items->depth + 1;
  if (const auto* method = value.get_if<std::shared_ptr<const Method>>()) {
    return depth_of((*method)->self) + 1;
  }
  if (const auto* loop = value.get_if<std::shared_ptr<Loop>>()) {
    return static_cast<std::uint32_t>((*loop)->source->items->depth + 2);
  }
  return 0;
}

void ListBuilder::reserve(std::size_t count) {
  if (count <= list_->items.capacity()) return;
  list_->charge.add((count - list_->items.capacity()) * sizeof(Value));
  list_->items.reserve(count);
}

void ListBuilder::push(Value value) {
  if (list_->items.size() % 16 == 0) meter_.step();
  if (list_->items.size() == list_->items.capacity()) {
    reserve(std::max<std::size_t>(4, list_->items.capacity() * 2));
  }
  list_->depth = std::max(list_->depth, depth_of(value) + 1);
  meter_.check_depth(list_->depth);
  list_->items.push_back(std::move(value));
}

Value ListBuilder::tuple() {
  list_->is_tuple = true;
  return list();
}

Value ListBuilder::iterator(std::string_view name) {
  meter_.check_depth(list_->depth + 1);
  auto iterator = std::make_shared<Iterator>();
  iterator->items = sequence();
  iterator->name = name;
  return Value(std::move(iterator));
}

std::string hash_key(Meter& meter, const Value& key) {
  meter.step();
  if (key.is_string()) {
    meter.work(key.text().bytes.size());
    return "s" + key.text().bytes;
  }
  if (key.is_none()) return "n";
  if (key.is_undefined()) return "u";
  if (const auto integer = as_int(key)) return "i" + bits_of(*integer);
  if (const auto* real = key.get_if<double>()) {
    if (std::floor(*real) == *real && std::fabs(*real) < 0x1p120) {
      return "i" + bits_of(static_cast<Int>(*real));
    }
    std::string bits(sizeof *real, '\0');
    std::memcpy(bits.data(), real, sizeof *real);
    return "f" + bits;
  }
  if (const Sequence* tuple = key.sequence(); tuple != nullptr && tuple->is_tuple) {
    std::string joined = "t";
    for (const Value& item : tuple->items) {
      const std::string part = hash_key(meter, item);
      meter.check_text(joined.size() + part.size());
      meter.work(part.size());
      joined += std::to_string(part.size()) + ":" + part;
    }
    return joined;
  }
  fail_render("unhashable type: '" + std::string(type_name(key)) + "'");
}

const Value* Dict::find(std::string_view key) const {
  if (!index.empty()) {
    const auto found = index.find("s" + std::string(key));
    return found != index.end() ? &entries[found->second].second : nullptr;
  }
  for (const auto& [k, v] : entries) {
    if (k.is_string() && k.text().bytes == key) return &v;
  }
  return nullptr;
}

const Value* Dict::find(Meter& meter, const Value& key) const {
  if (key.is_string()) {
    meter.work(key.text().bytes.size());
    return find(key.text().bytes);
  }
  const std::string wanted = hash_key(meter, key);
  if (!index.empty()) {
    const auto found = index.find(wanted);
    return found != index.end() ? &entries[found->second].second : nullptr;
  }
  for (const auto& [k, v] : entries) {
    if (!k.is_string() && hash_key(meter, k) == wanted) return &v;
  }
  return nullptr;
}

void DictBuilder::set(Value key, Value value) {
  meter_.step();
  dict_->depth = std::max({dict_->depth, depth_of(key) + 1, depth_of(value) + 1});
  meter_.check_depth(dict_->depth);
  if (const Value* old = dict_->find(meter_, key)) {
    *const_cast<Value*>(old) = std::move(value);  // still ours: finish() makes it const
    return;
  }
  auto& entries = dict_->entries;
  if (entries.size() == entries.capacity()) {
    const std::size_t next = std::max<std::size_t>(4, entries.capacity() * 2);
    dict_->charge.add((next - entries.capacity()) * sizeof(entries[0]));
    entries.reserve(next);
  }
  const auto add_to_index = [&](std::size_t entry) {
    std::string hash = hash_key(meter_, entries[entry].first);
    dict_->charge.add(hash.capacity() + 8 * sizeof(void*));
    dict_->index.emplace(std::move(hash), entry);
  };
  entries.emplace_back(std::move(key), std::move(value));
  if (entries.size() == indexed_from) {
    for (std::size_t i = 0; i < entries.size(); ++i) add_to_index(i);
  } else if (entries.size() > indexed_from) {
    add_to_index(entries.size() - 1);
  }
}

std::optional<Value> Loop::pull() {
  while (source->next < source->items->items.size()) {
    const Value& item = source->items->items[source->next++];
    if (!test || test(item)) return item;
  }
  return std::nullopt;
}

const std::optional<Value>& Loop::peek() {
  if (!after) after = pull();
  return after;
}

std::size_t Loop::count(Meter& meter) {
  if (!length) {
    ListBuilder rest(meter);
    while (auto item = pull()) rest.push(std::move(*item));
    length = rest.size() + index0 + 1 + (after ? 1 : 0);
    source = std::make_shared<Iterator>();
    source->items = rest.sequence();
    test = nullptr;  // what is left has passed it
  }
  return *length;
}

bool truthy(const Value& value) {
  if (const auto* b = value.get_if<bool>()) return *b;
  if (const auto* i = value.get_if<Int>()) return *i != 0;
  if (const auto* d = value.get_if<double>()) return *d != 0;
  if (value.is_none() || value.is_undefined()) return false;
  const auto size = try_length(value);
  return !size || *size != 0;
}

bool equal(Meter& meter, const Value& a, const Value& b) {
  meter.step();
  if (a.is_string() && b.is_string()) {
    const std::string& x = a.text().bytes;
    const std::string& y = b.text().bytes;
    if (x.size() != y.size()) return false;
    meter.work(x.size());
    return x == y;
  }
  if (const auto x = as_int(a)) {
    if (const auto y = as_int(b)) return *x == *y;
  }
  if (const auto x = as_number(a)) {
    const auto y = as_number(b);
    return y && *x == *y;
  }
  if (a.is_undefined()) return b.is_undefined();
  if (a.is_none()) return b.is_none();
  if (const Sequence* x = a.sequence()) {
    const Sequence* y = b.sequence();
    if (y == nullptr || x->is_tuple != y->is_tuple || x->items.size() != y->items.size()) {
      return false;
    }
    for (std::size_t i = 0; i < x->items.size(); ++i) {
      if (!equal(meter, x->items[i], y->items[i])) return false;
    }
    return true;
  }
  if (const Dict* x = a.dict()) {
    const Dict* y = b.dict();
    if (y == nullptr || x->entries.size() != y->entries.size()) return false;
    for (const auto& [key, value] : x->entries) {
      const Value* other = y->find(meter, key);
      if (other == nullptr || !equal(meter, value, *other)) return false;
    }
    return true;
  }
  if (const auto* x = a.get_if<Range>()) {
    const auto* y = b.get_if<Range>();
    return y != nullptr && x->size == y->size && (x->size == 0 || x->start == y->start) &&
           (x->size <= 1 || x->step == y->step);
  }
  if (const auto* x = a.get_if<DictView>()) {
    const auto* y = b.get_if<DictView>();
    return y != nullptr && equal_views(meter, *x, *y);
  }
  const auto same = [&]<class T>(const T* x) { return b.is<T>() && *x == b.as<T>(); };
  if (const auto* x = a.get_if<std::shared_ptr<Iterator>>()) return same(x);
  if (const auto* x = a.get_if<Namespace*>()) return same(x);
  if (const auto* x = a.get_if<const Macro*>()) return same(x);
  if (const auto* x = a.get_if<Function>()) return same(x);
  if (const auto* x = a.get_if<std::shared_ptr<Loop>>()) return same(x);
  return false;
}

bool less(Meter& meter, const Value& a, const Value& b) {
  meter.step();
  if (a.is_undefined()) fail_render(*a.as<Undefined>().why);
  if (b.is_undefined()) fail_render(*b.as<Undefined>().why);
  if (a.is_string() && b.is_string()) {
    meter.work(std::min(a.text().bytes.size(), b.text().bytes.size()));
    return a.text().bytes < b.text().bytes;  // UTF-8 sorts as its code points do
  }
  if (const auto x = as_int(a)) {
    if (const auto y = as_int(b)) return *x < *y;
  }
  if (const auto x = as_number(a)) {
    if (const auto y = as_number(b)) return *x < *y;
  }
  const Sequence* x = a.sequence();
  const Sequence* y = b.sequence();
  if (x != nullptr && y != nullptr && x->is_tuple == y->is_tuple) {
    return compare_sequences(meter, *x, *y);
  }
  fail_render("'<' not supported between instances of '" + std::string(type_name(a)) + "' and '" +
              std::string(type_name(b)) + "'");
}

std::string_view type_name(const Value& value) {
  struct Names {
    std::string_view operator()(const Undefined&) const { return "Undefined"; }
    std::string_view operator()(const None&) const { return "NoneType"; }
    std::string_view operator()(bool) const { return "bool"; }
    std::string_view operator()(Int) const { return "int"; }
    std::string_view operator()(double) const { return "float"; }
    std::string_view operator()(const String&) const { return "str"; }
    std::string_view operator()(const SequencePtr& s) const {
      return s->is_tuple ? "tuple" : "list";
    }
    std::string_view operator()(const DictPtr&) const { return "dict"; }
    std::string_view operator()(const Range&) const { return "range"; }
    std::string_view operator()(const DictView& v) const {
      return v.part == DictView::Part::keys     ? "dict_keys"
             : v.part == DictView::Part::values ? "dict_values"
                                                : "dict_items";
    }
    std::string_view operator()(const std::shared_ptr<Iterator>& i) const { return i->name; }
    std::string_view operator()(Namespace*) const { return "Namespace"; }
    std::string_view operator()(const Macro*) const { return "Macro"; }
    std::string_view operator()(const std::shared_ptr<const Method>&) const {
      return "builtin_function_or_method";
    }
    std::string_view operator()(Function) const { return "function"; }
    std::string_view operator()(const std::shared_ptr<Loop>&) const { return "LoopContext"; }
  };
  return value.visit(Names{});
}

std::optional<Int> as_int(const Value& value) {
  if (const auto* i = value.get_if<Int>()) return *i;
  if (const auto* b = value.get_if<bool>()) return *b ? 1 : 0;
  return std::nullopt;
}

std::optional<double> as_number(const Value& value) {
  if (const auto* d = value.get_if<double>()) return *d;
  if (const auto i = as_int(value)) return static_cast<double>(*i);
  return std::nullopt;
}

std::optional<std::size_t> try_length(const Value& value) {
  if (value.is_undefined()) return 0;
  if (value.is_string()) return value.text().length;
  if (const Sequence* list = value.sequence()) return list->items.size();
  if (const Dict* dict = value.dict()) return dict->entries.size();
  if (const auto* range = value.get_if<Range>()) return range->size;
  if (const auto* view = value.get_if<DictView>()) return view->dict->entries.size();
  return std::nullopt;
}

std::size_t length(const Value& value) {
  if (const auto size = try_length(value)) return *size;
  fail_render("object of type '" + std::string(type_name(value)) + "' has no len()");
}

bool is_iterable(const Value& value) {
  return try_length(value).has_value() || value.is<std::shared_ptr<Iterator>>();
}

SequencePtr iterate(Meter& meter, const Value& value) {
  if (const auto* list = value.get_if<SequencePtr>()) return *list;
  ListBuilder items(meter);
  if (value.is_string()) {
    const Text& text = value.text();
    items.reserve(text.length);
    for (std::size_t at = 0; at < text.bytes.size();) {
      meter.step();
      const std::size_t begin = at;
      decode(text.bytes, at);
      items.push(substring(meter, value.as<String>(), begin, at));
    }
  } else if (const Dict* dict = value.dict()) {
    items.reserve(dict->entries.size());
    for (const auto& [key, _] : dict->entries) items.push(key);
  } else if (const auto* range = value.get_if<Range>()) {
    items.reserve(range->size);
    for (std::size_t i = 0; i < range->size; ++i) {
      items.push(Value(range->start + range->step * static_cast<Int>(i)));
    }
  } else if (const auto* view = value.get_if<DictView>()) {
    items.reserve(view->dict->entries.size());
    for (const auto& [key, entry] : view->dict->entries) {
      if (view->part == DictView::Part::items) {
        ListBuilder pair(meter);
        pair.reserve(2);
        pair.push(key);
        pair.push(entry);
        items.push(pair.tuple());
      } else {
        items.push(view->part == DictView::Part::keys ? key : entry);
      }
    }
  } else if (const auto* iterator = value.get_if<std::shared_ptr<Iterator>>()) {
    Iterator& it = **iterator;
    if (it.next == 0) {
      it.next = it.items->items.size();
      return it.items;
    }
    while (it.next < it.items->items.size()) items.push(it.items->items[it.next++]);
  } else if (!value.is_undefined()) {
    fail_render("'" + std::string(type_name(value)) + "' object is not iterable");
  }
  return items.sequence();
}

}  // namespace plimsoll::jinja
