"""The Python snitun server on one loopback port, for tests.

Works with 0.40.0, 0.45.1 and 0.47.0. Prints one JSON line when it listens; ends on SIGTERM.
"""

import argparse
import asyncio
import json
import signal
import socket

from snitun.server.run import SniTunServerSingle


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fernet-key", required=True)
    parser.add_argument("--port", type=int, required=True)
    args = parser.parse_args()

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    server = SniTunServerSingle([args.fernet_key], host="127.0.0.1", port=args.port)
    await server.start()
    print(json.dumps({"event": "ready", "port": args.port}), flush=True)
    await stop.wait()


asyncio.run(main())
