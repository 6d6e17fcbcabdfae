// The tokenizer.ggml.* keys (ggml-org/ggml docs/gguf.md).
#include "engine/tokenizer/byte_level.h"
#include "engine/tokenizer/sentencepiece.h"
#include "engine/tokenizer/tokenizer.h"

namespace plimsoll {

namespace {

// tokenizer.ggml.token_type.
Vocabulary::Kind kind_of(std::int64_t type) {
  switch (type) {
    case 2:  // unknown
    case 3: return Vocabulary::Kind::special;
    case 4: return Vocabulary::Kind::user_defined;
    case 5: return Vocabulary::Kind::unused;
    case 6: return Vocabulary::Kind::byte;
    default: return Vocabulary::Kind::normal;
  }
}

Result<Vocabulary> read_vocabulary(const GgufFile& file) {
  const auto tokens = file.strings("tokenizer.ggml.tokens");
  if (tokens.empty()) {
    return fail(ErrorCode::malformed, "the file has no vocabulary (tokenizer.ggml.tokens)");
  }
  const auto types = file.ints("tokenizer.ggml.token_type");
  if (!types.empty() && types.size() != tokens.size()) {
    return fail(ErrorCode::malformed, "tokenizer.ggml.token_type has " +
                                          std::to_string(types.size()) + " entries for " +
                                          std::to_string(tokens.size()) + " tokens");
  }
  std::uint64_t bytes = 0;
  for (const auto token : tokens) bytes += token.size();
  if (bytes > Vocabulary::max_bytes) {
    return fail(ErrorCode::unsupported, "tokenizer.ggml.tokens has " + std::to_string(bytes) +
                                            " bytes of text; at most " +
                                            std::to_string(Vocabulary::max_bytes) + " are read");
  }
  Vocabulary vocabulary;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    vocabulary.add(tokens[i], types.empty() ? Vocabulary::Kind::normal : kind_of(types[i]));
  }
  vocabulary.index();
  return vocabulary;
}

Result<TokenId> read_id(const GgufFile& file, const char* key, const Vocabulary& vocabulary) {
  const auto value = file.uint(key);
  if (!value) return no_token;
  if (*value >= vocabulary.size()) {
    return fail(ErrorCode::malformed, std::string(key) + " is " + std::to_string(*value) +
                                          ", outside the vocabulary of " +
                                          std::to_string(vocabulary.size()));
  }
  return static_cast<TokenId>(*value);
}

Result<SpecialIds> read_special_ids(const GgufFile& file, const Vocabulary& vocabulary,
                                    bool add_bos_by_default) {
  SpecialIds ids;
  TokenId end_of_turn = no_token;
  TokenId end_of_message = no_token;
  for (const auto& [key, id] :
       {std::pair<const char*, TokenId*>{"tokenizer.ggml.bos_token_id", &ids.bos},
        {"tokenizer.ggml.eos_token_id", &ids.eos},
        {"tokenizer.ggml.eot_token_id", &end_of_turn},
        {"tokenizer.ggml.eom_token_id", &end_of_message},
        {"tokenizer.ggml.unknown_token_id", &ids.unknown}}) {
    const auto read = read_id(file, key, vocabulary);
    if (!read) return fail(read.error());
    *id = *read;
  }
  ids.add_bos = file.boolean("tokenizer.ggml.add_bos_token").value_or(add_bos_by_default);
  ids.add_eos = file.boolean("tokenizer.ggml.add_eos_token").value_or(false);
  for (const TokenId id : {ids.eos, end_of_turn, end_of_message}) ids.add_end(id);
  ids.add_well_known_ends(vocabulary);
  return ids;
}

Result<std::vector<MergeParts>> read_merges(const GgufFile& file) {
  const auto lines = file.strings("tokenizer.ggml.merges");
  std::vector<MergeParts> merges;
  merges.reserve(lines.size());
  for (const auto line : lines) {
    // The alphabet has no space, so that the first one parts the two.
    const auto space = line.find(' ');
    if (space == std::string_view::npos) {
      return fail(ErrorCode::malformed, "merge " + std::to_string(merges.size()) +
                                            " of tokenizer.ggml.merges has no two parts");
    }
    merges.emplace_back(line.substr(0, space), line.substr(space + 1));
  }
  return merges;
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> make_tokenizer(const GgufFile& file) {
  const auto model = file.string("tokenizer.ggml.model").value_or("");
  if (model != "gpt2" && model != "llama") {
    return fail(ErrorCode::unsupported,
                "the tokenizer '" + std::string(model) +
                    "' (tokenizer.ggml.model) is not among those of this build: gpt2, llama");
  }
  auto vocabulary = read_vocabulary(file);
  if (!vocabulary) return fail(vocabulary.error());
  if (model == "llama") {
    auto ids = read_special_ids(file, *vocabulary, true);
    if (!ids) return fail(ids.error());
    return make_sentencepiece_tokenizer(
        std::move(*vocabulary), std::move(*ids), file.numbers("tokenizer.ggml.scores"),
        file.boolean("tokenizer.ggml.add_space_prefix").value_or(true));
  }
  const auto family =
      find_pretokenizer_family(file.string("tokenizer.ggml.pre").value_or("default"));
  if (!family) return fail(family.error());
  auto ids = read_special_ids(file, *vocabulary, family->add_bos);
  if (!ids) return fail(ids.error());
  // Of these models it is often a control token, which no user's text may turn into.
  ids->unknown = no_token;
  const auto merges = read_merges(file);
  if (!merges) return fail(merges.error());
  return make_byte_level_tokenizer(std::move(*vocabulary), std::move(*ids), *family, *merges);
}

}  // namespace plimsoll
