"""The Python snitun client, forwarding each channel to a TCP address, for tests.

Works with 0.40.0, 0.45.1 and 0.47.0. The token file holds what our relay issues: `token`, `aes_key`, `aes_iv`,
`protocol_version` and `cipher`; each version takes those that it knows. Prints one JSON line when a ping was answered; ends on SIGTERM or when the tunnel does.
"""

import argparse
import asyncio
import inspect
import json
import pathlib
import signal

from snitun.client import connector
from snitun.client.client_peer import ClientPeer

# The forwarding connector got another name when 0.47.0's family came.
Forward = getattr(connector, "EndpointConnector", connector.Connector)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", required=True, help="host:port")
    parser.add_argument("--token-file", type=pathlib.Path, required=True)
    parser.add_argument("--to", required=True, help="host:port")
    args = parser.parse_args()

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    issued = json.loads(args.token_file.read_text())
    wanted = {"protocol_version": issued.get("protocol_version", 0), "cipher": issued.get("cipher", "aes-cbc")}
    known = inspect.signature(ClientPeer.start).parameters
    options = {name: value for name, value in wanted.items() if name in known}

    host, port = args.server.rsplit(":", 1)
    to_host, to_port = args.to.rsplit(":", 1)
    peer = ClientPeer(host, int(port))
    await peer.start(
        Forward(to_host, int(to_port)),
        issued["token"].encode(),
        bytes.fromhex(issued["aes_key"]),
        bytes.fromhex(issued["aes_iv"]),
        **options,
    )
    # All versions have this only inside; the one of its own would come after 50 s.
    await peer._multiplexer.ping()
    print(json.dumps({"event": "ready"}), flush=True)

    ended = asyncio.ensure_future(peer.wait())
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
    print(json.dumps({"event": "stopped" if stop.is_set() else "tunnel_ended"}), flush=True)


asyncio.run(main())
