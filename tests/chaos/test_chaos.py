"""A short run of chaos, so that the long ones stay possible: `make chaos MINUTES=60` is the real one.

In a process of its own, since it runs in namespaces of its own. CHAOS_MINUTES and CHAOS_SEED change what is done; the
seed is a fixed one by default, so that what fails here fails again.
"""

import os
import subprocess
import sys

import pytest

from tests.namespaces import NEEDS_NAMESPACES, NEEDS_NFT

pytestmark = [*NEEDS_NAMESPACES, NEEDS_NFT, pytest.mark.slow]

MINUTES = float(os.environ.get("CHAOS_MINUTES", "1.5"))
SEED = os.environ.get("CHAOS_SEED", "1")
ROOM = 90
"""Seconds for the last fault to end, and for the cluster to come to rest after it."""


@pytest.mark.timeout(MINUTES * 60 + ROOM + 10)
def test_faults_at_random() -> None:
    command = [sys.executable, "-m", "tests.chaos", "--minutes", f"{MINUTES:g}", "--seed", SEED, "--injections", "5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=MINUTES * 60 + ROOM)
    print(done.stdout)
    assert done.returncode == 0, f"{done.stdout[-8000:]}\n{done.stderr[-4000:]}"
    assert "moments with two holders: 0" in done.stdout
