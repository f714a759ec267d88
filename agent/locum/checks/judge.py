"""From single results to a verdict: one lost packet moves nothing, and a check that flaps does not either. Pure.

- `fall` failures in a row make a check bad, `rise` successes in a row make it good again. The very first result counts
  at once.
- Each time it becomes bad soon after it was good, it has to be good for longer before it is believed: twice as long
  each time, from PATIENCE_LEAST to PATIENCE_MOST seconds. After CALM_SECONDS without becoming bad all is forgiven.
"""

from math import inf

PATIENCE_LEAST = 10.0
PATIENCE_MOST = 300.0
CALM_SECONDS = 600.0


class Judge:
    """The verdict on one check. Times are seconds of one clock."""

    def __init__(self, rise: int, fall: int) -> None:
        self.rise, self.fall = rise, fall
        self.good: bool | None = None
        """None: nothing is known yet."""
        self.why = ""
        """Of a bad one: what it said last."""
        self._in_a_row = 0
        self._passing_since = inf
        self._fell_at = -inf
        self._patience = 0.0

    def hear(self, now: float, ok: bool, why: str = "") -> bool:
        """Takes one result; whether the verdict has changed."""
        before = self.good
        if ok:
            self._passing_since = min(self._passing_since, now)
        else:
            self._passing_since = inf
            self.why = why
        if before is None:
            self.good = ok
            self._in_a_row = 0
            if not ok:
                self._fell_at = now
            return True
        if ok is before:
            self._in_a_row = 0
            return False
        self._in_a_row += 1
        if ok and self._in_a_row >= self.rise and now - self._passing_since >= self._patience:
            self.good, self._in_a_row = True, 0
        elif not ok and self._in_a_row >= self.fall:
            self.good, self._in_a_row = False, 0
            soon = now - self._fell_at < CALM_SECONDS
            self._patience = min(max(2 * self._patience, PATIENCE_LEAST), PATIENCE_MOST) if soon else 0.0
            self._fell_at = now
        return self.good is not before

    def rest_until(self) -> float:
        """For a check that is only made while the service is held: a bad one is held against the node until then."""
        return self._fell_at + max(self._patience, PATIENCE_LEAST) if self.good is False else -inf

    def forget(self) -> None:
        """Nothing is known any more; how often it became bad is not forgotten."""
        self.good = None
        self._in_a_row = 0
        self._passing_since = inf
