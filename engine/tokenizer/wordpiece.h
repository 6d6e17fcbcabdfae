// WordPiece (Devlin et al. 2019, BERT): normalized words, cut greedily into the longest pieces of
// the vocabulary.
#pragma once

#include <memory>

#include "engine/tokenizer/base_tokenizer.h"

namespace plimsoll {

struct WordPieceOptions {
  bool clean_text = true;
  bool split_chinese = true;
  bool strip_accents = true;
  bool lowercase = true;
  std::string continuation = "##";
  std::uint32_t max_word_characters = 100;
  bool clean_up = true;  // in decode(): no space before punctuation
};

// `ids` has the unknown token, and as bos and eos what stands around a text.
std::unique_ptr<Tokenizer> make_wordpiece_tokenizer(Vocabulary vocabulary, SpecialIds ids,
                                                    WordPieceOptions options);

}  // namespace plimsoll
