"""Marks for tests that need a lab of network namespaces.

Where namespaces are not to be had the test is skipped, with the reason. Not with CI=true in the environment: there a
test that cannot run has failed, or nobody would notice that it never runs.

    @needs_namespaces
    def test_...

    pytestmark = NEEDS_NAMESPACES  # for all of a module
"""

import os
import shutil
from typing import TypeVar

import pytest

from locum.demo.lab import why_no_lab

T = TypeVar("T")

_IN_CI = os.environ.get("CI") == "true"
_NO_LAB = why_no_lab()
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"
_NO_NFT = None if shutil.which("nft") else "nft is not installed (package nftables)"

NEEDS_NAMESPACES = [
    pytest.mark.namespaces,
    pytest.mark.skipif(_NO_LAB is not None and not _IN_CI, reason=_NO_LAB or ""),
]
NEEDS_NFT = pytest.mark.skipif(_NO_NFT is not None and not _IN_CI, reason=_NO_NFT or "")


NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0 and not _IN_CI, reason="only root can do this: devices, containers")


def needs_programs(*names: str) -> list[pytest.MarkDecorator]:
    """Marks for tests that run these programs (names, or absolute paths)."""
    missing = [name for name in names if shutil.which(name, path=_PATH) is None]
    reason = f"not installed: {', '.join(missing)}"
    return [pytest.mark.skipif(bool(missing) and not _IN_CI, reason=reason)]


def needs_namespaces(test: T) -> T:
    """Mark a test or a class of tests: it makes network namespaces."""
    for mark in NEEDS_NAMESPACES:
        test = mark(test)  # type: ignore[operator]
    return test


def needs_nft(test: T) -> T:
    """Mark a test or a class of tests: it blocks or loses packets in a lab."""
    marked: T = NEEDS_NFT(needs_namespaces(test))  # type: ignore[operator]
    return marked
