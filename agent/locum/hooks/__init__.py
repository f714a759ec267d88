"""Hooks: what runs before and after an address is taken or given up.

`find` says what would run and in which order, `run_phase` runs it, `problems` is for `locum check`. A hook is always a
process of its own, a coroutine hook too: so it never delays a beat, and it can always be killed.
"""

from locum.hooks.context import HookContext, Phase
from locum.hooks.folder import Found, Hook, Kind, Problem, find, look, problems
from locum.hooks.ready import Declared, declared
from locum.hooks.runner import HookResult, PhaseResult, run_phase

__all__ = [
    "Declared",
    "Found",
    "Hook",
    "HookContext",
    "HookResult",
    "Kind",
    "Phase",
    "PhaseResult",
    "Problem",
    "declared",
    "find",
    "look",
    "problems",
    "run_phase",
]
