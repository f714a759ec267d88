"""Checks: whether this node is fit to hold a service.

| file | what |
|---|---|
| `judge.py` | pure: from single results to fit or not: rise, fall, damping |
| `probes.py` | how each kind of check asks |
| `rounds.py` | asks at each check's interval, and tells what has changed |
"""

from locum.checks.rounds import Checks

__all__ = ["Checks"]
