// The values a template computes with, as Python's: immutable but for namespaces, iterators and
// loops. Copying one shares its contents. Every container knows how deep it nests, and none may
// nest deeper than the limit, so that walking or freeing one never overruns the stack.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "engine/chat/meter.h"
#include "engine/chat/text.h"

namespace plimsoll::jinja {

struct Undefined {
  std::shared_ptr<const std::string> why;  // "'x' is undefined": what using it fails with
};
struct None {};

struct Sequence;
struct Dict;
struct Range {
  Int start, stop, step;
  std::size_t size;
};
struct Iterator;
struct Namespace;
struct Macro;
struct Method;
struct Loop;

enum class Function { range, dict, namespace_, raise_exception, strftime_now };

// dict.keys(), dict.values(), dict.items()
struct DictView {
  enum class Part { keys, values, items } part;
  std::shared_ptr<const Dict> dict;
};

using Data = std::variant<Undefined, None, bool, Int, double, String,
                          std::shared_ptr<const Sequence>, std::shared_ptr<const Dict>, Range,
                          DictView, std::shared_ptr<Iterator>, Namespace*, const Macro*,
                          std::shared_ptr<const Method>, Function, std::shared_ptr<Loop>>;

class Value {
 public:
  Value() : data_(None{}) {}
  template <class T>
  requires(!std::same_as<std::remove_cvref_t<T>, Value>) Value(T&& data)
      : data_(std::in_place_type<std::remove_cvref_t<T>>, std::forward<T>(data)) {}

  template <class T>
  bool is() const {
    return std::holds_alternative<T>(data_);
  }
  template <class T>
  const T& as() const {
    return std::get<T>(data_);
  }
  template <class T>
  const T* get_if() const {
    return std::get_if<T>(&data_);
  }

  template <class Visitor>
  auto visit(Visitor&& visitor) const {
    return std::visit(std::forward<Visitor>(visitor), data_);
  }

  bool is_undefined() const { return is<Undefined>(); }
  bool is_none() const { return is<None>(); }
  bool is_string() const { return is<String>(); }
  const Text& text() const { return *as<String>(); }
  const Sequence* sequence() const;  // a list or tuple, else null
  const Dict* dict() const;          // else null

 private:
  Data data_;
};

struct Sequence {
  bool is_tuple = false;
  std::vector<Value> items;
  std::uint32_t depth = 1;
  Charge charge;
};
using SequencePtr = std::shared_ptr<const Sequence>;

struct Dict {
  std::vector<std::pair<Value, Value>> entries;        // in order of insertion; keys differ
  std::unordered_map<std::string, std::size_t> index;  // hash_key -> entry; empty while small
  std::uint32_t depth = 1;
  Charge charge;

  const Value* find(std::string_view key) const;
  // Fails for an unhashable key.
  const Value* find(Meter& meter, const Value& key) const;
};
using DictPtr = std::shared_ptr<const Dict>;

// What can be iterated once: Python's generators, and the iterator behind a loop.
struct Iterator {
  SequencePtr items;
  std::size_t next = 0;
  std::string_view name;  // Python's type
};

// Mutable, so it may hold itself: owned by the render, never by a value.
struct Namespace {
  std::vector<std::pair<std::string, Value>> attributes;
  Charge charge;
};

struct Method {
  Value self;
  std::string_view name;
};

// The `loop` variable. Pulls its items one by one as Python does: a filter's test may depend on
// what the body did before.
struct Loop {
  std::shared_ptr<Iterator> source;
  std::function<bool(const Value&)> test;  // null: all; cleared when the loop ends
  std::optional<std::size_t> length;       // known for what has one
  std::size_t index0 = 0;
  std::optional<Value> before, current, after;
  std::optional<Value> last_changed;
  std::size_t depth = 1;

  std::optional<Value> pull();
  const std::optional<Value>& peek();
  std::size_t count(Meter& meter);  // of all its items; pulls those left, as Python does
};

Value undefined(std::string why);

class ListBuilder {
 public:
  explicit ListBuilder(Meter& meter) : meter_(meter), list_(std::make_shared<Sequence>()) {
    list_->charge = Charge(meter);
    list_->charge.add(sizeof(Sequence));
  }
  void push(Value value);
  void reserve(std::size_t count);
  std::size_t size() const { return list_->items.size(); }
  Value list() { return Value(SequencePtr(std::move(list_))); }
  Value tuple();
  Value iterator(std::string_view name);  // e.g. "generator"
  SequencePtr sequence() { return std::move(list_); }
  std::vector<Value>& items() { return list_->items; }

 private:
  Meter& meter_;
  std::shared_ptr<Sequence> list_;
};

class DictBuilder {
 public:
  explicit DictBuilder(Meter& meter) : meter_(meter), dict_(std::make_shared<Dict>()) {
    dict_->charge = Charge(meter);
    dict_->charge.add(sizeof(Dict));
  }
  // The last value of a key wins, in the place of the first. Fails for an unhashable key.
  void set(Value key, Value value);
  Value finish() { return Value(DictPtr(std::move(dict_))); }

 private:
  Meter& meter_;
  std::shared_ptr<Dict> dict_;
};

// How deep a value nests: 0 for scalars, 1 for a flat list.
std::uint32_t depth_of(const Value& value);
// Equal for keys that Python holds equal (1, 1.0 and True). Fails for lists and dicts.
std::string hash_key(Meter& meter, const Value& key);

bool truthy(const Value& value);
bool equal(Meter& meter, const Value& a, const Value& b);
bool less(Meter& meter, const Value& a, const Value& b);  // fails where Python has no order
std::string_view type_name(const Value& value);           // Python's: "str", "NoneType"

// bool and int as a number; nothing for other types.
std::optional<Int> as_int(const Value& value);
std::optional<double> as_number(const Value& value);  // also floats

// len(x) and iter(x); fail where Python does. An iterator is used up.
std::size_t length(const Value& value);
std::optional<std::size_t> try_length(const Value& value);
SequencePtr iterate(Meter& meter, const Value& value);
bool is_iterable(const Value& value);

}  // namespace plimsoll::jinja
