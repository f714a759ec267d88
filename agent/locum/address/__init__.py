"""Addresses: held in the kernel for a time, asked for and announced on the wire. This package decides nothing.

| file | what |
|---|---|
| `lifetime.py` | pure: how many whole seconds the kernel may be given |
| `kernel.py` | `Kernel`: set, prolong, remove and look up addresses, in a thread of its own |
| `watch.py` | sees what changes on an interface, whoever changes it: `AddressChanged`, `LinkChanged` |
| `look.py` | one blocking look at the kernel's links and addresses |
| `change.py` | many changes of the kernel's addresses in one call |
| `netlink.py` | pure: the messages of rtnetlink that are used |
| `wire.py` | `Wire`: is somebody using this address? and: it is here now |
| `packets.py` | pure: ARP and neighbour discovery frames |

Addresses are `ipaddress.IPv4Interface` or `IPv6Interface`, with their prefix length; moments are seconds of
`locum.clock`.
"""

from locum.address.kernel import AddressOutcome, Kernel, KernelError, Outcome, State
from locum.address.lifetime import SLACK_SECONDS, kernel_seconds
from locum.address.netlink import Interface, Link
from locum.address.watch import AddressChanged, Change, LinkChanged
from locum.address.wire import Answer, Wire, WireError

__all__ = [
    "SLACK_SECONDS",
    "AddressChanged",
    "AddressOutcome",
    "Answer",
    "Change",
    "Interface",
    "Kernel",
    "KernelError",
    "Link",
    "LinkChanged",
    "Outcome",
    "State",
    "Wire",
    "WireError",
    "kernel_seconds",
]
