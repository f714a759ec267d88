"""The verdict on a check: one lost packet moves nothing, and one that flaps has to be good for longer each time."""

from hypothesis import given
from hypothesis import strategies as st

from locum.checks.judge import CALM_SECONDS, PATIENCE_LEAST, PATIENCE_MOST, Judge


def play(judge: Judge, results: str, every: float = 1.0, start: float = 0.0) -> list[bool | None]:
    """The verdict after each of the results: "+" or "-"."""
    verdicts = []
    for number, result in enumerate(results):
        judge.hear(start + number * every, result == "+", "" if result == "+" else "why")
        verdicts.append(judge.good)
    return verdicts


def test_the_first_result_counts_at_once() -> None:
    assert play(Judge(2, 3), "+") == [True]
    assert play(Judge(2, 3), "-") == [False]


def test_fall_failures_in_a_row_and_no_fewer() -> None:
    assert play(Judge(2, 3), "+--+--+---") == [True] * 9 + [False]


def test_rise_successes_in_a_row_and_no_fewer() -> None:
    assert play(Judge(2, 3), "-+-+-++") == [False] * 6 + [True]


def test_what_it_said_last_is_why() -> None:
    judge = Judge(1, 1)
    judge.hear(0, True)
    judge.hear(1, False, "refused")
    assert (judge.good, judge.why) == (False, "refused")


def test_a_check_that_flaps_is_believed_later_each_time() -> None:
    judge = Judge(1, 1)
    now, waits = 0.0, []
    judge.hear(now, True)
    for _ in range(9):
        now += 1.0
        judge.hear(now, False)
        assert judge.good is False
        began = now = now + 1.0
        while not judge.hear(now, True):
            now += 1.0
        waits.append(now - began)
    assert waits == [0.0, *(min(PATIENCE_LEAST * 2.0**n, PATIENCE_MOST) for n in range(8))]


def test_after_a_calm_time_all_is_forgiven() -> None:
    judge = Judge(1, 1)
    for at, ok in ((0, True), (1, False), (2, True), (3, False)):
        judge.hear(at, ok)
    assert not judge.hear(4, True), "it has flapped"
    judge.hear(4 + PATIENCE_LEAST, True)
    assert judge.good
    at = 5 + PATIENCE_LEAST + CALM_SECONDS
    judge.hear(at, False)
    assert judge.hear(at + 1, True)


@given(st.integers(1, 5), st.integers(1, 5), st.text("+-", max_size=60))
def test_a_verdict_changes_only_after_so_many_of_a_kind(rise: int, fall: int, results: str) -> None:
    verdicts = play(Judge(rise, fall), results)
    for number in range(1, len(verdicts)):
        if verdicts[number] is not verdicts[number - 1]:
            wanted = ("+" if verdicts[number] else "-") * (rise if verdicts[number] else fall)
            assert results[: number + 1].endswith(wanted)
