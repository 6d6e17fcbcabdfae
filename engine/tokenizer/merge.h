// Byte-pair merging (Sennrich et al. 2016) in O(n log n): a linked list of pieces, and a heap of
// the merges that are possible. Equal merges go left to right.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace plimsoll {

// A piece of the text; merged-away pieces have length 0.
struct MergePiece {
  std::uint32_t begin = 0;
  std::uint32_t length = 0;
  std::int32_t id = -1;  // of the token, where the caller keeps one
  std::int32_t previous = -1;
  std::int32_t next = -1;
};

// Scratch for one text's words, one after another. It holds up to 52 bytes for each piece of the
// longest word.
class Merger {
 public:
  // Begins a word of up to `pieces` pieces.
  void start(std::size_t pieces) {
    pieces_.clear();
    pieces_.reserve(pieces);
  }
  // The next piece; pieces are adjacent, in order.
  void add(std::uint32_t begin, std::uint32_t length, std::int32_t id) {
    const auto index = static_cast<std::int32_t>(pieces_.size());
    if (index > 0) pieces_.back().next = index;
    pieces_.push_back({begin, length, id, index - 1, -1});
  }

  // Whether two neighbours may merge, how early (the smallest first), and into which token:
  //   bool find(const MergePiece& left, const MergePiece& right,
  //             std::uint32_t& priority, std::int32_t& id)
  template <class Find>
  void merge(Find find) {
    heap_.clear();
    const auto consider = [&](std::int32_t left, std::int32_t right) {
      std::uint32_t priority = 0;
      Candidate candidate{0, pieces_[left].length + pieces_[right].length, -1};
      if (!find(pieces_[left], pieces_[right], priority, candidate.id)) return false;
      candidate.order = std::uint64_t{priority} << 32 | static_cast<std::uint32_t>(left);
      heap_.push_back(candidate);
      return true;
    };
    const auto push = [&](std::int32_t left, std::int32_t right) {
      if (left >= 0 && right >= 0 && consider(left, right)) std::ranges::push_heap(heap_, later);
    };
    for (std::int32_t i = 0; i + 1 < static_cast<std::int32_t>(pieces_.size()); ++i) {
      consider(i, i + 1);
    }
    std::ranges::make_heap(heap_, later);
    while (!heap_.empty()) {
      const Candidate best = heap_.front();
      std::ranges::pop_heap(heap_, later);
      heap_.pop_back();
      const auto at = static_cast<std::int32_t>(best.order & 0xFFFFFFFF);
      MergePiece& left = pieces_[at];
      // The length of a pair only grows, so that a stale candidate's no longer fits.
      if (left.length == 0 || left.next < 0) continue;
      MergePiece& right = pieces_[left.next];
      if (left.length + right.length != best.length) continue;
      left.length += right.length;
      left.id = best.id;
      left.next = right.next;
      right.length = 0;
      if (left.next >= 0) pieces_[left.next].previous = at;
      push(left.previous, at);
      push(at, left.next);
    }
  }

  template <class Visit>
  void each_piece(Visit visit) const {
    for (const auto& piece : pieces_) {
      if (piece.length > 0) visit(piece);
    }
  }

 private:
  struct Candidate {
    std::uint64_t order;   // the priority, then the left piece's index
    std::uint32_t length;  // of both pieces together
    std::int32_t id;       // of the merged token
  };
  static bool later(const Candidate& a, const Candidate& b) { return a.order > b.order; }

  std::vector<MergePiece> pieces_;
  std::vector<Candidate> heap_;
};

}  // namespace plimsoll
