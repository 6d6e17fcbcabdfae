#include "engine/tokenizer/pretokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <limits>
#include <new>
#include <stdexcept>
#include <string>

namespace plimsoll {

namespace {

struct Named {
  std::vector<std::string_view> names;
  PretokenizerFamily family;
};

const std::vector<Named>& families() {
  static const std::vector<Named> all = {
      {{"default", "gpt-2", "gpt2"}, {.patterns = {gpt2_pattern}}},
      {{"smollm", "starcoder"}, {.patterns = {digit_pattern, gpt2_pattern}}},
      {{"llama-bpe", "llama3", "llama-v3"},
       {.patterns = {llama3_pattern}, .whole_words = true, .add_bos = true}},
      {{"qwen2"}, {.patterns = {qwen2_pattern}, .compose = true}},
      {{"deepseek-r1-qwen"}, {.patterns = {qwen2_pattern}}},
  };
  return all;
}

}  // namespace

Result<PretokenizerFamily> find_pretokenizer_family(std::string_view name) {
  std::string known;
  for (const auto& named : families()) {
    if (std::ranges::find(named.names, name) != named.names.end()) return named.family;
    for (const auto each : named.names) known.append(known.empty() ? "" : ", ").append(each);
  }
  return fail(ErrorCode::unsupported, "the pre-tokenizer '" + std::string(name) +
                                          "' (tokenizer.ggml.pre) is not among those of this "
                                          "build: " +
                                          known);
}

struct Pretokenizer::Pattern {
  explicit Pattern(std::string_view source) {
    int error = 0;
    PCRE2_SIZE offset = 0;
    code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(source.data()), source.size(),
                         PCRE2_UTF | PCRE2_UCP, &error, &offset, nullptr);
    if (code == nullptr) throw std::logic_error("bad pattern: " + std::string(source));
    // Where the system forbids run-time code, the interpreter does the same more slowly.
    pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
  }
  ~Pattern() { pcre2_code_free(code); }
  Pattern(const Pattern&) = delete;
  Pattern& operator=(const Pattern&) = delete;

  std::uint64_t memory_bytes() const {
    std::size_t size = 0;
    std::size_t jit = 0;
    pcre2_pattern_info(code, PCRE2_INFO_SIZE, &size);
    pcre2_pattern_info(code, PCRE2_INFO_JITSIZE, &jit);
    return size + jit;
  }

  pcre2_code* code;
};

// One split, with what PCRE2 needs for each stage.
class Pretokenizer::Splitter {
 public:
  Splitter(const Pretokenizer& owner, const std::function<void(std::string_view)>& word)
      : owner_(owner), word_(word), context_(pcre2_match_context_create(nullptr)) {
    if (context_ == nullptr) throw std::bad_alloc();
    // These patterns walk back over one run of characters at most, so that the steps of a match
    // are bounded by twice the text. PCRE2's own limits would give up on runs of ten million.
    pcre2_set_match_limit(context_.get(), std::numeric_limits<std::uint32_t>::max());
    for (const auto& stage : owner.stages_) {
      matches_.emplace_back(pcre2_match_data_create_from_pattern(stage->code, nullptr));
      if (matches_.back() == nullptr) throw std::bad_alloc();
    }
  }

  void split(std::size_t stage, std::string_view text) {
    if (stage == owner_.stages_.size()) {
      word_(text);
      return;
    }
    const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    pcre2_match_data* const match = matches_[stage].get();
    std::size_t done = 0;
    while (done < text.size()) {
      const int found = pcre2_match(owner_.stages_[stage]->code, subject, text.size(), done,
                                    PCRE2_NO_UTF_CHECK, match, context_.get());
      if (found < 0 && found != PCRE2_ERROR_NOMATCH) {
        throw std::logic_error("PCRE2 error " + std::to_string(found) + " in a pre-tokenizer");
      }
      // What does not match is a piece of its own.
      const PCRE2_SIZE* const range = pcre2_get_ovector_pointer(match);
      const std::size_t begin = found > 0 ? range[0] : text.size();
      const std::size_t end = found > 0 ? range[1] : text.size();
      if (begin > done) split(stage + 1, text.substr(done, begin - done));
      if (end > begin) split(stage + 1, text.substr(begin, end - begin));
      done = end;
    }
  }

 private:
  const Pretokenizer& owner_;
  const std::function<void(std::string_view)>& word_;
  struct Free {
    void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
    void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
  };
  std::unique_ptr<pcre2_match_context, Free> context_;
  std::vector<std::unique_ptr<pcre2_match_data, Free>> matches_;
};

Pretokenizer::Pretokenizer(std::span<const std::string_view> patterns) {
  for (const auto source : patterns) stages_.push_back(std::make_unique<Pattern>(source));
}
Pretokenizer::Pretokenizer(Pretokenizer&&) noexcept = default;
Pretokenizer::~Pretokenizer() = default;

void Pretokenizer::split(std::string_view text,
                         const std::function<void(std::string_view)>& word) const {
  Splitter(*this, word).split(0, text);
}

std::uint64_t Pretokenizer::memory_bytes() const {
  std::uint64_t bytes = 0;
  for (const auto& stage : stages_) bytes += stage->memory_bytes();
  return bytes;
}

}  // namespace plimsoll
