// SentencePiece-style BPE with byte fallback (Kudo & Richardson 2018): spaces are U+2581, any two
// neighbours whose joined text is in the vocabulary may merge, the best score first; a character
// without a token becomes its bytes' tokens.
#pragma once

#include <memory>
#include <span>

#include "engine/tokenizer/base_tokenizer.h"

namespace plimsoll {

// One score for each token. Errors: malformed.
Result<std::unique_ptr<Tokenizer>> make_sentencepiece_tokenizer(Vocabulary vocabulary,
                                                                SpecialIds ids,
                                                                std::span<const double> scores,
                                                                bool add_space_prefix);

}  // namespace plimsoll
