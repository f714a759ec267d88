"""Waits until the server answers at the address, and says how long that took.

A PostAcq that fails is an event; the address stays.
"""

import asyncio

PORT = 80
SECONDS = 20


async def hook(context):
    host = context.address.split("/")[0]
    loop = asyncio.get_running_loop()
    started_at = loop.time()
    while loop.time() < started_at + SECONDS:
        try:
            async with asyncio.timeout(1):
                _, writer = await asyncio.open_connection(host, PORT)
        except OSError:  # TimeoutError is one too
            await asyncio.sleep(0.1)
            continue
        writer.close()
        context.log(f"{host} port {PORT} answers after {loop.time() - started_at:.2f} s")
        return True
    context.log(f"{host} port {PORT} does not answer within {SECONDS} s")
    return False
