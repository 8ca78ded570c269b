"""The Python library clesyde_cloud_lib as a device: provisions itself if need be, then serves one page, and what benchmarks ask
for, until SIGTERM.

    python py_device.py BASE_PATH SERIAL API_URL KEY

What happens is printed as JSON lines: `provisioned`, `iot.connected`, `iot.disconnected`, `remote.connected`,
`remote.disconnected`, `stopped`, or `failed` with an `error`. Logs go to standard
error, from the level in LOG_LEVEL on (WARNING if absent; at INFO the library logs its private keys).
"""

import asyncio
import json
import logging
import os
import signal
import sys
from pathlib import Path

from aiohttp import web
from clesydecloud import ClesydeCloud
from clesydecloud.client import ClesydeCloudClient


def tell(event, **more):
    """Print one event."""
    print(json.dumps({"event": event, **more}), flush=True)


class Device(ClesydeCloudClient):
    """What the library asks of its host application."""

    def __init__(self, base_path, sn, api_url, runner):
        self._base_path = Path(base_path)
        self._sn = sn
        self._api_url = api_url
        self._runner = runner

    @property
    def device_sn(self):
        return self._sn

    @property
    def base_path(self):
        return self._base_path

    @property
    def loop(self):
        return asyncio.get_running_loop()

    @property
    def api_base_url(self):
        return self._api_url

    @property
    def aiohttp_runner(self):
        return self._runner


def teller(event):
    """A callback that prints an event."""

    async def callback():
        tell(event)

    return callback


async def page(request):
    """The device's page."""
    return web.Response(text=f"hello from the Python device {request.app['sn']}\n")


async def echo(request):
    """Sends back what it gets, however much it is."""
    response = web.StreamResponse()
    await response.prepare(request)
    async for chunk in request.content.iter_any():
        await response.write(chunk)
    await response.write_eof()
    return response


async def small(request):
    """A kibibyte."""
    return web.Response(body=b"s" * 1024)


async def file(request):
    """As many bytes as the request's `Range` says."""
    left = int(request.headers["Range"].removeprefix("bytes=0-")) + 1
    response = web.StreamResponse(headers={"Content-Length": str(left)})
    await response.prepare(request)
    while left > 0:
        piece = b"f" * min(left, 64 * 1024)
        left -= len(piece)
        await response.write(piece)
    return response


async def main(base_path, sn, api_url, key):
    """Run the device."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    application = web.Application(client_max_size=64 * 1024 * 1024)
    application["sn"] = sn
    application.router.add_get("/", page)
    application.router.add_post("/echo", echo)
    application.router.add_get("/small", small)
    application.router.add_get("/file", file)
    runner = web.AppRunner(application)
    await runner.setup()

    cloud = ClesydeCloud(Device(base_path, sn, api_url, runner))
    try:
        await cloud.provisioning.start_provisioning(key)
        cloud.iot.register_on_connect(teller("iot.connected"))
        cloud.iot.register_on_disconnect(teller("iot.disconnected"))
        cloud.remote.register_on_connect(teller("remote.connected"))
        cloud.remote.register_on_disconnect(teller("remote.disconnected"))
        await cloud.initialize()
    except Exception as error:  # whatever it is, the test wants to read it
        tell("failed", error=f"{type(error).__name__}: {error}")
        await runner.cleanup()
        return 1
    tell("provisioned", thing_name=cloud.config.iot_thing_name, access_point=cloud.config.access_point)

    await stop.wait()
    await cloud.stop()
    # The library stops listening, but its MQTT task only ends when it is cancelled.
    task = cloud.iot._task
    if task is not None:
        task.cancel()
        await asyncio.wait([task], timeout=5)
    await runner.cleanup()
    tell("stopped")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    logging.basicConfig(level=os.environ.get("LOG_LEVEL", "WARNING"), stream=sys.stderr)
    sys.exit(asyncio.run(main(*sys.argv[1:])))
