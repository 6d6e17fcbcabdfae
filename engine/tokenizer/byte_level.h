// Byte-level BPE (Radford et al. 2019, GPT-2): every byte is a printable character of the
// vocabulary's alphabet, words come from a pre-tokenizer, merges are ranked.
#pragma once

#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/tokenizer/base_tokenizer.h"
#include "engine/tokenizer/pretokenizer.h"

namespace plimsoll {

// The two parts of a merge, the first merge first.
using MergeParts = std::pair<std::string_view, std::string_view>;

// Errors: malformed, for a merge whose parts or result are not in the vocabulary.
Result<std::unique_ptr<Tokenizer>> make_byte_level_tokenizer(Vocabulary vocabulary, SpecialIds ids,
                                                             const PretokenizerFamily& family,
                                                             const std::vector<MergeParts>& merges);

}  // namespace plimsoll
