"""Refuses a volume that a later holder has used already.

The epoch only grows, so it says who came later, whatever the clocks say. A node that was stopped in the middle of its
takeover and wakes up after another has taken the service finds the other's epoch here, and fails: the address is not
taken.
"""

import os
from pathlib import Path

VOLUME = Path("/srv/shop")


async def hook(context):
    token = VOLUME / ".locum-epoch"
    seen = int(token.read_text()) if token.exists() else 0
    if seen > context.epoch:
        context.log(f"{VOLUME} was used at epoch {seen}, this claim is epoch {context.epoch}: it came too late")
        return False
    new = token.with_name(".locum-epoch.new")
    with new.open("w") as file:
        file.write(f"{context.epoch}\n")
        file.flush()
        os.fsync(file.fileno())
    new.rename(token)
    context.log(f"{VOLUME} now belongs to {context.node}, epoch {context.epoch}")
    return True
