// Hugging Face's tokenizer.json: WordPiece and byte-level BPE models. What a file asks for beyond
// what is done here is refused, so that no ids come out differently from the reference's.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "engine/tokenizer/byte_level.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/tokenizer/wordpiece.h"

namespace plimsoll {

namespace {

using Json = nlohmann::json;

constexpr std::uint64_t max_file_bytes = 64_MiB;

// The member, or null where it is absent.
const Json& member(const Json& object, const char* key) {
  static const Json null;
  const auto found = object.find(key);
  return found == object.end() ? null : *found;
}
std::string text_of(const Json& object, const char* key) {
  const Json& value = member(object, key);
  return value.is_string() ? value.get<std::string>() : std::string();
}
bool flag_of(const Json& object, const char* key, bool otherwise) {
  const Json& value = member(object, key);
  return value.is_boolean() ? value.get<bool>() : otherwise;
}

tl::unexpected<Error> not_handled(const std::string& what) {
  return fail(ErrorCode::unsupported, what + " is not handled by this build");
}

Result<Vocabulary> read_vocabulary(const Json& root) {
  const Json& entries = root.at("model").at("vocab");
  const Json& added = member(root, "added_tokens");
  struct Entry {
    std::string text;
    Vocabulary::Kind kind = Vocabulary::Kind::unused;  // an id that the file leaves out
  };
  std::vector<Entry> tokens;
  const std::size_t most = entries.size() + added.size();
  const auto put = [&](const Json& id, const std::string& text, Vocabulary::Kind kind) {
    if (!id.is_number_unsigned() || id.get<std::uint64_t>() >= most) return false;
    const auto place = id.get<std::size_t>();
    if (place >= tokens.size()) tokens.resize(place + 1);
    Entry& entry = tokens[place];
    if (entry.kind != Vocabulary::Kind::unused && entry.text != text) return false;
    entry = {text, kind};
    return true;
  };
  const auto bad_id = [](const std::string& text) {
    return fail(ErrorCode::malformed,
                "the id of '" + text + "' is no number, taken or outside the vocabulary");
  };
  if (!entries.is_object()) return fail(ErrorCode::malformed, "model.vocab is no object");
  for (const auto& [text, id] : entries.items()) {
    if (!put(id, text, Vocabulary::Kind::normal)) return bad_id(text);
  }
  for (const Json& token : added) {
    const std::string text = token.at("content");
    for (const char* key : {"single_word", "lstrip", "rstrip"}) {
      if (flag_of(token, key, false)) return not_handled("'" + text + "' with " + key);
    }
    const bool special = flag_of(token, "special", false);
    if (!special && flag_of(token, "normalized", false) && !member(root, "normalizer").is_null()) {
      return not_handled("'" + text + "', which is found in normalized text,");
    }
    if (!put(token.at("id"), text,
             special ? Vocabulary::Kind::special : Vocabulary::Kind::user_defined)) {
      return bad_id(text);
    }
  }
  Vocabulary vocabulary;
  for (const auto& token : tokens) vocabulary.add(token.text, token.kind);
  vocabulary.index();
  return vocabulary;
}

// The special tokens that a post-processor puts around a text.
struct Template {
  std::string before;
  std::string after;
};

// The steps of a pipeline, which is one step or a sequence of them.
std::vector<const Json*> steps_of(const Json& pipeline, const char* key) {
  std::vector<const Json*> steps;
  if (text_of(pipeline, "type") == "Sequence") {
    for (const Json& step : pipeline.at(key)) steps.push_back(&step);
  } else if (!pipeline.is_null()) {
    steps.push_back(&pipeline);
  }
  return steps;
}

Result<Template> read_template(const Json& post_processor) {
  const Json* templating = nullptr;
  for (const Json* step : steps_of(post_processor, "processors")) {
    const std::string type = text_of(*step, "type");
    if (type == "ByteLevel") continue;  // of offsets alone
    if (type != "TemplateProcessing") return not_handled("the post-processor '" + type + "'");
    if (templating != nullptr) return not_handled("a second template");
    templating = step;
  }
  Template found;
  if (templating == nullptr) return found;
  int texts = 0;
  for (const Json& piece : templating->at("single")) {
    if (piece.contains("Sequence")) {
      ++texts;
      continue;
    }
    std::string& place = texts == 0 ? found.before : found.after;
    if (!place.empty()) return not_handled("a template with two special tokens side by side");
    place = piece.at("SpecialToken").at("id");
  }
  if (texts != 1) return fail(ErrorCode::malformed, "the template does not hold its text once");
  return found;
}

Result<SpecialIds> read_special_ids(const Json& root, const Vocabulary& vocabulary) {
  const auto around = read_template(member(root, "post_processor"));
  if (!around) return fail(around.error());
  SpecialIds ids;
  const auto read = [&](const std::string& name, TokenId& id) -> Result<void> {
    if (name.empty()) return {};
    id = vocabulary.find(name);
    if (id != no_token) return {};
    return fail(ErrorCode::malformed, "'" + name + "' is not in the vocabulary");
  };
  if (auto done = read(around->before, ids.bos); !done) return fail(done.error());
  if (auto done = read(around->after, ids.eos); !done) return fail(done.error());
  if (auto done = read(text_of(root.at("model"), "unk_token"), ids.unknown); !done) {
    return fail(done.error());
  }
  ids.add_bos = ids.bos != no_token;
  ids.add_eos = ids.eos != no_token;
  ids.add_end(ids.eos);
  ids.add_well_known_ends(vocabulary);
  return ids;
}

Result<std::unique_ptr<Tokenizer>> make_wordpiece(const Json& root, Vocabulary vocabulary,
                                                  SpecialIds ids) {
  if (ids.unknown == no_token) return fail(ErrorCode::malformed, "model.unk_token is missing");
  const Json& model = root.at("model");
  WordPieceOptions options;
  options.continuation = model.value("continuing_subword_prefix", options.continuation);
  options.max_word_characters =
      model.value("max_input_chars_per_word", options.max_word_characters);
  const Json& normalizer = member(root, "normalizer");
  if (text_of(normalizer, "type") != "BertNormalizer") {
    return not_handled("the normalizer '" + text_of(normalizer, "type") + "' of a WordPiece model");
  }
  const std::string splitter = text_of(member(root, "pre_tokenizer"), "type");
  if (splitter != "BertPreTokenizer") {
    return not_handled("the pre-tokenizer '" + splitter + "' of a WordPiece model");
  }
  options.clean_text = flag_of(normalizer, "clean_text", true);
  options.split_chinese = flag_of(normalizer, "handle_chinese_chars", true);
  options.lowercase = flag_of(normalizer, "lowercase", true);
  options.strip_accents = flag_of(normalizer, "strip_accents", options.lowercase);
  options.clean_up = flag_of(member(root, "decoder"), "cleanup", true);
  return make_wordpiece_tokenizer(std::move(vocabulary), std::move(ids), std::move(options));
}

// Digits, Split by one of the published patterns, ByteLevel: alone or in a row, ByteLevel last.
Result<std::vector<std::string_view>> read_patterns(const Json& pre_tokenizer) {
  std::vector<std::string_view> patterns;
  bool mapped = false;
  for (const Json* step : steps_of(pre_tokenizer, "pretokenizers")) {
    const std::string type = text_of(*step, "type");
    if (mapped) return not_handled("a pre-tokenizer after ByteLevel");
    if (type == "ByteLevel" && !flag_of(*step, "add_prefix_space", true)) {
      if (flag_of(*step, "use_regex", true)) patterns.push_back(gpt2_pattern);
      mapped = true;
    } else if (type == "Digits" && flag_of(*step, "individual_digits", false)) {
      patterns.push_back(digit_pattern);
    } else if (type == "Split" && text_of(*step, "behavior") == "Isolated" &&
               !flag_of(*step, "invert", false)) {
      const std::string wanted = text_of(member(*step, "pattern"), "Regex");
      static constexpr std::string_view known[] = {gpt2_pattern, llama3_pattern, qwen2_pattern,
                                                   digit_pattern};
      const auto* const found = std::ranges::find(known, wanted);
      if (found == std::end(known)) return not_handled("the pattern '" + wanted + "'");
      patterns.push_back(*found);
    } else {
      return not_handled("the pre-tokenizer " + step->dump());
    }
  }
  if (!mapped) return not_handled("a BPE model without the ByteLevel pre-tokenizer");
  return patterns;
}

Result<std::unique_ptr<Tokenizer>> make_byte_level(const Json& root, Vocabulary vocabulary,
                                                   SpecialIds ids) {
  const Json& model = root.at("model");
  if (flag_of(model, "byte_fallback", false)) {
    return not_handled("a BPE model with byte fallback (its GGUF file is)");
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!text_of(model, key).empty()) return not_handled(std::string("model.") + key);
  }
  PretokenizerFamily family;
  family.whole_words = flag_of(model, "ignore_merges", false);
  const std::string normalizer = text_of(member(root, "normalizer"), "type");
  family.compose = normalizer == "NFC";
  if (!family.compose && !member(root, "normalizer").is_null()) {
    return not_handled("the normalizer '" + normalizer + "' of a byte-level BPE model");
  }
  auto patterns = read_patterns(member(root, "pre_tokenizer"));
  if (!patterns) return fail(patterns.error());
  family.patterns = std::move(*patterns);

  // "a b", or since 2024 ["a", "b"].
  const Json& rows = model.at("merges");
  std::vector<MergeParts> merges;
  merges.reserve(rows.size());
  for (const Json& row : rows) {
    if (row.is_array() && row.size() == 2) {
      merges.emplace_back(row[0].get_ref<const std::string&>(),
                          row[1].get_ref<const std::string&>());
      continue;
    }
    const std::string_view line = row.get_ref<const std::string&>();
    const auto space = line.find(' ');
    if (space == std::string_view::npos) {
      return fail(ErrorCode::malformed,
                  "merge " + std::to_string(merges.size()) + " has no two parts");
    }
    merges.emplace_back(line.substr(0, space), line.substr(space + 1));
  }
  return make_byte_level_tokenizer(std::move(vocabulary), std::move(ids), family, merges);
}

Result<std::unique_ptr<Tokenizer>> make_from_json(const Json& root) {
  const std::string type = text_of(root.at("model"), "type");
  if (type != "WordPiece" && type != "BPE") return not_handled("a tokenizer model '" + type + "'");
  auto vocabulary = read_vocabulary(root);
  if (!vocabulary) return fail(vocabulary.error());
  auto ids = read_special_ids(root, *vocabulary);
  if (!ids) return fail(ids.error());
  if (type == "WordPiece") return make_wordpiece(root, std::move(*vocabulary), std::move(*ids));
  return make_byte_level(root, std::move(*vocabulary), std::move(*ids));
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> make_tokenizer(const std::filesystem::path& tokenizer_json) {
  std::error_code ignored;
  const auto bytes = std::filesystem::file_size(tokenizer_json, ignored);
  std::ifstream in(tokenizer_json, std::ios::binary);
  if (ignored || !in) {
    return fail(ErrorCode::not_found, "cannot open " + tokenizer_json.string());
  }
  const auto in_file = [&](ErrorCode code, const std::string& what) {
    return fail(code, tokenizer_json.string() + ": " + what);
  };
  if (bytes > max_file_bytes) {
    return in_file(ErrorCode::unsupported, std::to_string(bytes) + " bytes are over the limit of " +
                                               std::to_string(max_file_bytes));
  }
  try {
    auto made = make_from_json(Json::parse(in));
    if (!made) return in_file(made.error().code, made.error().message);
    return made;
  } catch (const Json::exception& e) {
    return in_file(ErrorCode::malformed, e.what());
  }
}

}  // namespace plimsoll
