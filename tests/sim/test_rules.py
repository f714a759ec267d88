"""Each rule of the protocol, taken out, is noticed by the simulation: so its silence elsewhere means something."""

import os

import pytest

from tests.sim.rules import RULES
from tests.sim.table import rows


@pytest.mark.timeout(300)
def test_every_rule_is_needed() -> None:
    table = list(rows(os.cpu_count() or 1))
    print("\n" + "\n".join(map(str, table)))
    missed = [row.name for row, rule in zip(table, RULES, strict=True) if not row.caught and not rule.covered]
    assert not missed, f"taken out, and nothing noticed: {missed}"
    seen = [f"{row.name}: {row.caught}" for row, rule in zip(table, RULES, strict=True) if row.caught and rule.covered]
    assert not seen, f"said to be covered by other rules, but their absence shows: {seen}"
