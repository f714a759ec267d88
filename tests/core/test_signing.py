"""Signatures, and old messages that are sent again."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum.messages import Beat, Command, NodeState, Seen
from locum.replay import COMMAND_SECONDS, GONE_MOST, UNSHOWN_WINDOWS, Replays, new_boot, seen
from locum.signing import KEY_BYTES, KEYS_MOST, OVERHEAD, Keys, Unsigned, new_key

OLD, NEW = Keys({"old": b"o" * KEY_BYTES}), Keys({"new": b"n" * KEY_BYTES})
BOTH = Keys({"old": b"o" * KEY_BYTES, "new": b"n" * KEY_BYTES})
TOPIC = "locum/shop/beat/alpha"
MESSAGE = b'{"node":"alpha"}'
WINDOW = 2.5

# -- signatures ---------------------------------------------------------------------------------------------------


@given(st.dictionaries(st.text(), st.text() | st.integers(), min_size=1))
def test_a_signed_message_is_the_same_message_with_one_field_more(fields: dict[str, object]) -> None:
    payload = json.dumps(fields).encode()
    signed = OLD.sign(TOPIC, payload)
    assert OLD.open(TOPIC, signed) == payload
    assert len(signed) <= len(payload) + OVERHEAD
    read = json.loads(signed)
    assert read.pop("signature").startswith("old:")
    if "signature" not in fields:
        assert read == fields


@given(st.data())
def test_a_changed_byte_is_a_wrong_signature(data: st.DataObject) -> None:
    signed = bytearray(OLD.sign(TOPIC, MESSAGE))
    at = data.draw(st.integers(0, len(signed) - 1))
    signed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ValueError):
        OLD.open(TOPIC, bytes(signed))


@given(st.binary(max_size=300))
def test_whatever_else_comes_is_refused_in_one_line(payload: bytes) -> None:
    with pytest.raises(ValueError) as told:
        OLD.open(TOPIC, payload)
    assert str(told.value).isprintable()


def test_it_is_signed_for_one_topic() -> None:
    signed = OLD.sign(TOPIC, MESSAGE)
    with pytest.raises(ValueError, match="its signature is wrong"):
        OLD.open("locum/shop/beat/beta", signed)
    with pytest.raises(ValueError, match="its signature is wrong"):
        OLD.open("locum/other/beat/alpha", signed)
    with pytest.raises(Unsigned, match="not signed"):
        OLD.open(TOPIC, MESSAGE)
    with pytest.raises(ValueError, match="the key old, which is not known here"):
        NEW.open(TOPIC, signed)


def test_while_keys_are_changed_both_are_believed() -> None:
    assert BOTH.open(TOPIC, NEW.sign(TOPIC, MESSAGE)) == MESSAGE
    assert OLD.open(TOPIC, BOTH.sign(TOPIC, MESSAGE)) == MESSAGE, "the first one signs"


def test_a_file_of_keys() -> None:
    line = new_key()
    keys = Keys.parse(f"# of 2026\n\n{line}   # the first\n{new_key()}\n", "keys")
    assert Keys.parse(line, "keys").open(TOPIC, keys.sign(TOPIC, MESSAGE)) == MESSAGE
    assert len({new_key() for _ in range(100)}) == 100


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "keys: has 0 keys"),
        ("# nothing", "keys: has 0 keys"),
        ("k1", "keys: line 1 is no key of its own"),
        ("k1 AAAA", "keys: line 1 is no key"),
        ("k1 " + "A" * 43, "keys: line 1 is no key"),
        ("k1 " + "A" * 43 + "=\nk1 " + "B" * 43 + "=", "keys: line 2 is no key of its own"),
        ("\n".join(f"k{number} " + "A" * 43 + "=" for number in range(KEYS_MOST + 1)), "keys: has 9 keys"),
    ],
)
def test_what_is_no_file_of_keys(text: str, why: str) -> None:
    with pytest.raises(ValueError) as told:
        Keys.parse(text, "keys")
    assert why in str(told.value) and "\n" not in str(told.value)


# -- replays ------------------------------------------------------------------------------------------------------

ME = new_boot("alpha", 1_000.0)
FIRST, SECOND, THIRD = (new_boot("beta", 1_000.0 + start) for start in (0, 60, 120))


def replays() -> Replays:
    return Replays("alpha", ME, WINDOW)


def beat(boot: str, seq: int, hears: str | None = ME) -> Beat:
    heard = {} if hears is None else {"alpha": hears.rpartition("/")[2]}
    return Beat(node=boot.partition("/")[0], boot=boot, seq=seq, every=0.5, heard=heard)


def refused(guard: Replays, one: Beat, now: float, broker: int = 0) -> str:
    """Why; empty if it was not."""
    try:
        guard.beat(broker, one, now)
    except ValueError as error:
        return str(error)
    return ""


def test_starts_grow_with_time_and_are_good_names() -> None:
    assert FIRST.rpartition("/")[2] < SECOND.rpartition("/")[2] and len({len(FIRST), len(SECOND), len(THIRD)}) == 1
    for wall in (-1.0, 0.0, 1e9, 2e9, 1e15):
        assert Beat(node="beta", boot=new_boot("beta", wall), seq=1, every=0.5).consistent
    assert len({new_boot("beta", 1.0) for _ in range(50)}) > 40


def test_of_one_start_beats_count_upwards_at_each_broker() -> None:
    guard = replays()
    assert refused(guard, beat(FIRST, 7), 0.0) == ""
    assert "beat 7 after 7" in refused(guard, beat(FIRST, 7), 0.1)
    assert "beat 3 after 7" in refused(guard, beat(FIRST, 3), 0.1)
    assert refused(guard, beat(FIRST, 7), 0.1, broker=1) == "", "the same beat, by another broker"
    assert refused(guard, beat(FIRST, 8), 0.5) == ""
    assert guard.heard() == {"beta": FIRST.rpartition("/")[2]}


def test_an_earlier_start_is_never_heard_again() -> None:
    guard = replays()
    assert refused(guard, beat(SECOND, 1), 0.0) == ""
    assert "an earlier start" in refused(guard, beat(FIRST, 900, hears=None), 100.0)
    assert "an earlier start" in refused(guard, beat(FIRST, 901, hears=new_boot("alpha", 5.0)), 100.0)


def test_a_start_that_we_saw_replaced_is_gone_also_when_it_heard_us() -> None:
    guard = replays()
    assert refused(guard, beat(FIRST, 1), 0.0) == ""
    assert refused(guard, beat(SECOND, 1), 0.5) == "", "shown to be fresh: at once"
    for when in (0.6, 100.0):
        assert "was replaced" in refused(guard, beat(FIRST, 2), when)
    assert refused(guard, beat(SECOND, 2), 100.1) == ""


def test_a_new_start_waits_until_it_hears_us_or_the_old_one_is_silent() -> None:
    guard = replays()
    assert refused(guard, beat(FIRST, 1), 0.0) == ""
    assert "does not show yet" in refused(guard, beat(SECOND, 1, hears=None), WINDOW)
    assert refused(guard, beat(SECOND, 2, hears=None), WINDOW + 0.1) == "", "it may be there, and not hear us"
    assert "an earlier start" in refused(guard, beat(FIRST, 2, hears=None), WINDOW + 0.2)
    assert refused(guard, beat(FIRST, 3), WINDOW + 0.3) == "", "its clock was wrong; it does hear us"


def test_a_recorded_night_keeps_nobody_from_a_takeover_for_long() -> None:
    """A node that has just started hears a stream of good old beats of a peer that is dead."""
    guard = replays()
    now = 0.0
    while now <= UNSHOWN_WINDOWS * WINDOW:
        assert refused(guard, beat(FIRST, round(now * 2), hears=None), now) == ""
        now += 0.5
    assert "has not heard this node" in refused(guard, beat(FIRST, 1000, hears=None), now + 0.1)
    guard.listening_anew()
    assert refused(guard, beat(FIRST, 1001, hears=None), now + 0.2) == "", "the connection was ours to lose"
    assert refused(guard, beat(FIRST, 1002), now + 100.0) == ""
    assert refused(guard, beat(FIRST, 1003, hears=None), now + 101.0) == "", "counted anew"


def test_our_own_name() -> None:
    guard = replays()
    assert refused(guard, beat(ME, 1, hears=None), 0.0) == ""
    assert "replay" in refused(guard, beat(ME, 1, hears=None), 0.1)
    earlier, twin = new_boot("alpha", 900.0), new_boot("alpha", 1_100.0)
    assert "an earlier start" in refused(guard, beat(earlier, 5, hears=None), 50.0)
    assert refused(guard, beat(twin, 5, hears=None), 50.0) == "", "a second machine: the coordinator tells of it"
    assert refused(guard, beat(ME, 2, hears=None), 50.1) == "", "and is no reason not to hear ourselves"
    assert guard.heard() == {}


def test_what_is_remembered_is_bounded() -> None:
    guard = replays()
    for start in range(3 * GONE_MOST):
        assert refused(guard, beat(new_boot("beta", 2_000.0 + start), 1), start) == ""
    assert len(guard._known["beta"].gone) == GONE_MOST


def test_a_state_is_believed_of_the_start_that_was_heard() -> None:
    guard = replays()
    said = NodeState(node="beta", state="offline", reason="stopped", boot=FIRST)
    assert not guard.believed(said)
    guard.beat(0, beat(FIRST, 1), 0.0)
    assert guard.believed(said)
    guard.beat(0, beat(SECOND, 1), 1.0)
    assert not guard.believed(said)


def test_a_command_is_for_those_that_were_heard_and_for_a_minute() -> None:
    guard = replays()
    for number in range(1, 200):
        guard.beat(0, beat(ME, number, hears=None), number / 2)

    def given_at(seq: int, boot: str = ME) -> Command:
        return Command(id="c", command="pause", service="web", seen={"alpha": Seen(boot=boot, seq=seq)})

    guard.command(given_at(199), 0.5)
    guard.command(given_at(199 - round(COMMAND_SECONDS / 0.5)), 0.5)
    for old in (given_at(199 - round(COMMAND_SECONDS / 0.5) - 1), given_at(199, new_boot("alpha", 900.0))):
        with pytest.raises(ValueError, match="a command of another time"):
            guard.command(old, 0.5)
    with pytest.raises(ValueError, match="without hearing this node"):
        guard.command(Command(id="c", command="pause", service="web", seen=seen({"beta": beat(FIRST, 3)})), 0.5)
