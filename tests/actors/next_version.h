// Frames as a later version of this build could send them: schema/cluster.capnp with fields and
// members more (next_schema.py).
#pragma once

#include <capnp/dynamic.h>
#include <capnp/message.h>
#include <capnp/serialize.h>
#include <gtest/gtest.h>

#include <cstring>
#include <optional>
#include <string>
#include <string_view>

#include "cluster_next.capnp.h"

namespace plimsoll::testing {

// A frame's bytes, to be read under either schema.
struct FrameReader {
  explicit FrameReader(std::string_view bytes)
      : words(kj::heapArray<capnp::word>(bytes.size() / sizeof(capnp::word))) {
    std::memcpy(words.begin(), bytes.data(), bytes.size());
    message.emplace(words);
  }
  template <class Schema>
  typename Schema::Reader as() {
    return message->getRoot<Schema>();
  }

  kj::Array<capnp::word> words;
  std::optional<capnp::FlatArrayMessageReader> message;
};

inline std::string bytes_of(capnp::MessageBuilder& builder) {
  const auto words = capnp::messageToFlatArray(builder);
  const auto bytes = words.asBytes();
  return {reinterpret_cast<const char*>(bytes.begin()), bytes.size()};
}

// Fills what is new, in every struct there is.
inline void fill_next(capnp::DynamicValue::Builder value) {
  if (value.getType() == capnp::DynamicValue::LIST) {
    auto list = value.as<capnp::DynamicList>();
    for (unsigned i = 0; i < list.size(); ++i) fill_next(list[i]);
  }
  if (value.getType() != capnp::DynamicValue::STRUCT) return;
  auto at = value.as<capnp::DynamicStruct>();
  for (auto field : at.getSchema().getFields()) {
    const std::string_view name = field.getProto().getName().cStr();
    if (name == "nextMember") continue;  // of a union: it would take the place of the others
    if (name == "nextNumber") {
      at.set(field, 4711);
    } else if (name == "nextText") {
      at.set(field, "of the next version");
    } else if (at.has(field)) {
      fill_next(at.get(field));
    }
  }
}

// A present frame as the next version would send it.
inline std::string as_next(std::string_view frame) {
  FrameReader present(frame);
  capnp::MallocMessageBuilder builder;
  builder.setRoot(present.as<next::Frame>());
  fill_next(builder.getRoot<next::Frame>());
  return bytes_of(builder);
}

// A frame that this build has no name for.
inline std::string unknown_frame() {
  capnp::MallocMessageBuilder builder;
  auto frame = builder.initRoot<next::Frame>();
  frame.setNextMember("do what this version cannot do");
  frame.setNextNumber(4711);
  return bytes_of(builder);
}

}  // namespace plimsoll::testing
