"""Machines fail under streams: every client sees every token once, and the same ones as ever.

The model's answers depend on each token before them, so that equal text means that no token was
lost, doubled or changed. Stalls are the longest waits between two tokens of a stream.
"""

import pytest
import streams

STALL_P99_S = 2.0  # with heartbeats every 200 ms and a node's time-out of a second


@pytest.fixture(scope="session")
def undisturbed():
    """The texts by stream, as the first quiet run gave them."""
    return {}


def check(running, undisturbed, tokens):
    streams.join(running)
    for stream in running:
        assert stream.reason == "length"
        assert stream.usage["completion_tokens"] == tokens
        assert len(stream.text) == tokens
        expected = undisturbed.setdefault((stream.number, tokens), stream.text)
        assert stream.text == expected, f"stream {stream.number} went another way"


def run(cluster, undisturbed, scale, hurt):
    """The streams, with `hurt` done when each has some tokens; their longest gaps, in seconds."""
    count, tokens = scale
    if not undisturbed:
        pytest.skip("there is no undisturbed run to compare with")
    running = streams.start(cluster, count, tokens)
    streams.wait_for_text(running, 10)
    hurt()
    check(running, undisturbed, tokens)
    return [s.longest_gap() for s in running]


def report(record_property, gaps):
    for name, q in (("p50", 0.5), ("p99", 0.99), ("max", 1)):
        record_property(f"stall_{name}_s", round(streams.quantile(gaps, q), 3))
        print(f"stall {name} {streams.quantile(gaps, q):.3f} s")
    assert streams.quantile(gaps, 0.99) <= STALL_P99_S


def given_up(cluster, name):
    cluster.router.wait_for(rf"event=node_lost node={name} ")
    assert [n for n, _ in cluster.lost()] == [name], "one node failed, no other"
    assert cluster.lost()[0][1] > 0, "it had no streams: nothing was tried"


def test_undisturbed(cluster, undisturbed, scale):
    count, tokens = scale
    quiet = cluster(nodes=1, step_ms=1)
    first = streams.start(quiet, count, tokens)
    check(first, undisturbed, tokens)
    assert len({s.text for s in first}) == count, "each seed has its own text"
    check(streams.start(quiet, count, tokens), undisturbed, tokens)


def test_a_node_that_is_killed(cluster, undisturbed, scale, record_property):
    three = cluster()
    gaps = run(three, undisturbed, scale, lambda: three.kill("node-2"))
    given_up(three, "node-2")
    report(record_property, gaps)


def test_a_node_that_stops_and_wakes_again(cluster, undisturbed, scale, record_property):
    three = cluster()

    def hurt():
        three.freeze("node-2")
        three.router.wait_for("event=node_lost node=node-2 ")
        three.thaw("node-2")  # with all it had to say in its buffers

    gaps = run(three, undisturbed, scale, hurt)
    given_up(three, "node-2")
    three.router.wait_for("event=node_ready node=node-2 ", times=2)
    report(record_property, gaps)


def test_a_link_that_goes_down_and_up_again(cluster, undisturbed, scale, record_property):
    three = cluster()

    def hurt():
        three.link("node-2", False)
        three.router.wait_for("event=node_lost node=node-2 ")
        three.link("node-2", True)

    gaps = run(three, undisturbed, scale, hurt)
    given_up(three, "node-2")
    three.router.wait_for("event=node_ready node=node-2 ", times=2)
    report(record_property, gaps)


def test_a_slow_link_is_no_lost_node(cluster, undisturbed, scale):
    three = cluster(slow=("node-2",))
    run(three, undisturbed, scale, lambda: None)
    assert three.lost() == []


def test_a_node_that_came_back_takes_over(cluster, undisturbed, scale, record_property):
    two = cluster(nodes=2)

    def hurt():
        two.kill("node-1")
        two.router.wait_for("event=node_lost node=node-1 ")
        two.start_node("node-1")
        two.router.wait_for("event=node_ready node=node-1 ", times=2)
        two.kill("node-2")

    gaps = run(two, undisturbed, scale, hurt)
    assert sorted(n for n, _ in two.lost()) == ["node-1", "node-2"]
    report(record_property, gaps)


def test_two_in_a_row_again_and_again(cluster, undisturbed, scale, request, record_property):
    """Two and no more: a stream whose nodes keep dying is taken for the cause."""
    if not request.config.getoption("--long"):
        pytest.skip("of the long form: --long")
    four = cluster(nodes=4)
    names = [f"node-{i}" for i in range(1, 5)]
    gaps = []
    for victims in zip(names, names[1:] + names[:1]):

        def hurt(victims=victims):
            for name in victims:
                four.kill(name)
                four.router.wait_for(f"event=node_lost node={name} ", four.lives[name])
                four.start_node(name)
                four.router.wait_for(f"event=node_ready node={name} ", four.lives[name])

        gaps += run(four, undisturbed, scale, hurt)
    report(record_property, gaps)
