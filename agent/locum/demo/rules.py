"""Which frames a lab's switch drops, as the text of an nftables ruleset.

In the bridge family a rule sees each frame once for each port that it would leave by, so a broadcast that is dropped
between two hosts still reaches all others. That makes ARP between just two hosts, in just one direction, a rule like
any other.
"""

from collections.abc import Iterable
from dataclasses import dataclass

# The neighbour discovery of IPv6: router and neighbour solicitation and advertisement, and redirect.
_NEIGHBOURS = "icmpv6 type 133-137"


@dataclass(frozen=True, slots=True)
class Drop:
    """Drop frames that come in by one port and leave by another; None stands for any port."""

    source: str | None
    target: str | None
    chance: float = 1.0  # of each frame: 0 to 1
    neighbours: bool = True  # ARP and IPv6 neighbour discovery too, and not only the other IP packets


def ruleset(drops: Iterable[Drop]) -> str:
    """The input of `nft -f -` that makes these the only rules, in one step."""
    drops = list(drops)
    everything = [_rule(drop, "") for drop in drops if drop.neighbours]
    packets = [_rule(drop, "ether type { ip, ip6 } ") for drop in drops if not drop.neighbours]
    rules = [*everything, f"{_NEIGHBOURS} accept", *packets]
    lines = "\n".join(f"    {rule}" for rule in rules)
    # Adding the table first lets the delete succeed also when there is none yet.
    return f"""table bridge lab
delete table bridge lab
table bridge lab {{
  chain forward {{
    type filter hook forward priority 0; policy accept;
{lines}
  }}
}}
"""


def _rule(drop: Drop, what: str) -> str:
    source = f'iifname "{drop.source}" ' if drop.source else ""
    target = f'oifname "{drop.target}" ' if drop.target else ""
    chance = f"numgen random mod 10000 < {round(drop.chance * 10_000)} " if drop.chance < 1 else ""
    return f"{source}{target}{what}{chance}drop"
