#include "cli/top.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <map>

#include "cli/documents.h"
#include "cli/exit_codes.h"
#include "cli/interrupt.h"
#include "cli/show.h"

namespace plimsoll::cli {

namespace {

std::string bar(std::uint64_t used, std::uint64_t limit, std::uint64_t cells) {
  // Rounded up: what is not empty does not look so.
  const std::uint64_t full =
      limit == 0 ? 0 : std::min(cells, (used / 1024 * cells + limit / 1024) / (limit / 1024 + 1));
  std::string text;
  for (std::uint64_t i = 0; i < cells; ++i) text += i < full ? "█" : "░";
  return text;
}

std::string bytes_text(std::uint64_t bytes) {
  return human_bytes(static_cast<std::int64_t>(bytes));
}

// The whole terminal, until it is destroyed; keys come without Enter.
class Screen {
 public:
  Screen() {
    keys_ = tcgetattr(STDIN_FILENO, &before_) == 0;
    if (keys_) {
      termios raw = before_;
      raw.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
      tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    }
    put("\033[?1049h\033[?25l");
  }
  ~Screen() {
    put("\033[?25h\033[?1049l");
    if (keys_) tcsetattr(STDIN_FILENO, TCSANOW, &before_);
  }
  Screen(const Screen&) = delete;
  Screen& operator=(const Screen&) = delete;

  // Over what is there, so that nothing flickers.
  void draw(const std::string& picture) {
    winsize size{};
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_row == 0) size = {24, 80, 0, 0};
    std::string out = "\033[H";
    for (const char c : crop(picture, size.ws_col, size.ws_row)) {
      if (c == '\n') out += "\033[K\r";
      out += c;
    }
    put(out + "\033[K\033[J");
  }

  // Whether q was pressed within the time; returns early on a signal.
  bool quit_within(std::chrono::milliseconds time) const {
    pollfd input{STDIN_FILENO, POLLIN, 0};
    if (poll(&input, keys_ ? 1 : 0, static_cast<int>(time.count())) <= 0) return false;
    char key = 0;
    return read(STDIN_FILENO, &key, 1) != 1 || key == 'q' || key == 'Q';
  }

 private:
  static void put(const std::string& text) {
    std::fputs(text.c_str(), stdout);
    std::fflush(stdout);
  }
  termios before_{};
  bool keys_ = false;
};

int live(client::Operator& cluster, std::string picture) {
  using Clock = std::chrono::steady_clock;
  const Interrupt interrupt;
  Screen screen;
  std::string trouble;
  while (true) {
    screen.draw(trouble + picture);
    const auto next = Clock::now() + std::chrono::seconds(1);
    while (Clock::now() < next) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(next - Clock::now());
      if (screen.quit_within(left) || interrupt.happened()) return exit_ok;
    }
    try {
      picture = top_picture(cluster.view(), cluster.tenants());
      trouble.clear();
    } catch (const client::Error& e) {
      if (e.code != "unavailable") throw;
      trouble = fmt::format("{}; trying again. As it was:\n", e.what());
    }
  }
}

}  // namespace

std::string top_picture(const client::ClusterView& view, std::vector<client::TenantView> tenants) {
  std::map<std::string, int> states;
  std::uint64_t used = 0;
  std::uint64_t limit = 0;
  std::uint32_t sequences = 0;
  double rate = 0;
  Table nodes({{"NODE"},
               {"STATE"},
               {"MEMORY"},
               {"USED", true},
               {"LIMIT", true},
               {"PRESSURE"},
               {"SEQUENCES", true},
               {"TOK/S", true},
               {"MODELS"}});
  for (const auto& n : view.nodes) {
    ++states[n.state];
    used += n.memory_used_bytes;
    limit += n.memory_limit_bytes;
    sequences += n.sequences;
    rate += n.tokens_per_second;
    nodes.add({n.name, n.state, bar(n.memory_used_bytes, n.memory_limit_bytes, 16),
               bytes_text(n.memory_used_bytes), bytes_text(n.memory_limit_bytes), n.pressure,
               std::to_string(n.sequences), fmt::format("{:.1f}", n.tokens_per_second),
               fmt::format("{}", fmt::join(n.models, ", "))});
  }
  std::ranges::stable_sort(tenants, std::greater<>(), &client::TenantView::tokens_per_second);
  Table users({{"TENANT"},
               {"TIER"},
               {"STATE"},
               {"SEQUENCES", true},
               {"TOK/S", true},
               {"MEMORY", true},
               {"HOME"}});
  for (const auto& t : tenants) {
    users.add({t.tenant.name, t.tenant.tier, t.tenant.suspended ? "suspended" : "active",
               std::to_string(t.sequences), fmt::format("{:.1f}", t.tokens_per_second),
               bytes_text(t.memory_bytes), fmt::format("{}", fmt::join(t.home, ", "))});
  }
  std::vector<std::string> counts;
  for (const auto& [state, count] : states) counts.push_back(fmt::format("{} {}", count, state));
  return fmt::format(
      "plimsoll {}  up {}  {} routers  {} nodes ({})  {} tenants\n"
      "memory {} {} of {}  {} sequences  {:.1f} tokens/s\n\n{}\n{}",
      view.version, human_duration(view.uptime_seconds), view.routers.size(), view.nodes.size(),
      fmt::join(counts, ", "), tenants.size(), bar(used, limit, 30), bytes_text(used),
      bytes_text(limit), sequences, rate, nodes.text(), users.text());
}

std::string crop(const std::string& text, std::size_t columns, std::size_t lines) {
  std::string out;
  std::size_t column = 0;
  std::size_t line = 0;
  for (const char c : text) {
    if (c == '\n') {
      if (++line == lines) return out;
      column = 0;
    } else {
      if ((c & 0xC0) != 0x80) ++column;  // not in the middle of a character
      if (column > columns) continue;
    }
    out += c;
  }
  return out;
}

void add_top(CLI::App& app, Context& context) {
  auto* verb = app.add_subcommand("top", "nodes, tenants and memory, live (operator's key)");
  add_remote_options(*verb, context, true);
  verb->footer("q or Ctrl-C ends it. Where standard output is no terminal it shows one picture.");
  verb->callback([&context] {
    auto& remote = context.remote;
    remote.options.retry_ms = 0;  // what is lost is shown as lost
    auto client = remote.connect();
    client::Operator cluster(client);
    const auto view = cluster.view();
    const auto tenants = cluster.tenants();
    if (remote.format == OutputFormat::table && isatty(STDOUT_FILENO) == 1) {
      context.exit_code = live(cluster, top_picture(view, tenants));
      return;
    }
    context.exit_code = show(remote, false, [&]() -> View {
      return {{{"cluster", to_json(view)}, {"tenants", to_json(tenants)}},
              top_picture(view, tenants)};
    });
  });
}

}  // namespace plimsoll::cli
