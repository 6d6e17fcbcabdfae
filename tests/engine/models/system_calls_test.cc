// A decode step makes no system call: it neither takes memory nor waits for a lock. The step runs
// in a process of its own that the kernel ends at the first one.
#include <gtest/gtest.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>

#include "tests/engine/models/model_runner.h"
#include "tests/engine/models/tiny_model.h"

namespace plimsoll {
namespace {

// How a process ends that runs `work` and may make no call but read, write and exit.
int status_without_system_calls(const std::function<void()>& work) {
  const pid_t child = ::fork();
  if (child == 0) {
    if (::prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) != 0) ::_exit(99);
    work();
    ::syscall(SYS_exit, 0);
  }
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return status;
}

TEST(SystemCalls, OfADecodeStepThereAreNone) {
  const int refused = status_without_system_calls([] { ::getppid(); });
  if (WIFEXITED(refused)) GTEST_SKIP() << "this kernel has no strict seccomp";
  ASSERT_TRUE(WIFSIGNALED(refused) && WTERMSIG(refused) == SIGKILL);

  for (const ComputeMode compute : {ComputeMode::float32, ComputeMode::int8}) {
    for (const KvType kv_type : {KvType::bf16, KvType::f16, KvType::int8, KvType::int4}) {
      TemporaryFolder folder;
      const auto path = folder.path() / "tiny.gguf";
      make_tiny_model("gemma3", {}, TensorType::q8_0).write(path);
      // One thread: with more, one that has slept wakes by a call.
      ModelRunner runner(
          path,
          {.compute = compute, .threads = 1, .kv_type = kv_type, .cache_directory = folder.path()});
      ASSERT_NE(runner.model(), nullptr) << to_string(runner.error());
      const std::vector<TokenId> prompt{1, 2, 3, 4, 5, 6, 7, 8, 9};
      std::vector<ModelRunner::Sequence> sequences(3);
      for (auto& sequence : sequences) runner.prefill(sequence, prompt, 4);
      std::vector<SequenceChunk> chunks;
      for (auto& sequence : sequences) {
        chunks.push_back(runner.chunk(sequence, std::span(prompt).first(1), 1));
      }
      std::vector<float> logits(3 * std::size_t{runner.model()->info().vocab});
      const int status = status_without_system_calls(
          [&] { runner.model()->forward(chunks, runner.kv(), logits.data()); });
      EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "ended with " << status;
    }
  }
}

}  // namespace
}  // namespace plimsoll
