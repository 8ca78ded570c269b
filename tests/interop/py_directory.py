"""A device's directory through the eyes of the Python library, for tests.

`provision BASE SN URL` registers and stores, the key in PROVISIONING_KEY. `load BASE` reads the configuration through the
library and lets Python's ssl load both pairs of certificate and key. Both print one JSON line with the configuration.
"""

import asyncio
import dataclasses
import json
import os
import pathlib
import ssl
import sys

from clesydecloud import ClesydeCloud
from clesydecloud.client import ClesydeCloudClient
from clesydecloud.data import CloudConfig


class Host(ClesydeCloudClient):
    """A host application that only registers."""

    def __init__(self, base: pathlib.Path, serial_number: str, api_url: str) -> None:
        self._base, self._serial_number, self._api_url = base, serial_number, api_url
        self._loop = asyncio.get_running_loop()

    @property
    def device_sn(self) -> str:
        return self._serial_number

    @property
    def base_path(self) -> pathlib.Path:
        return self._base

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    @property
    def api_base_url(self) -> str:
        return self._api_url

    @property
    def aiohttp_runner(self) -> None:
        return None


async def provision(base: str, serial_number: str, api_url: str) -> None:
    cloud = ClesydeCloud(Host(pathlib.Path(base), serial_number, api_url))
    await cloud.provisioning.start_provisioning(os.environ["PROVISIONING_KEY"])


def load(base: str) -> None:
    directory = pathlib.Path(base) / ".clesydecloud"
    config = CloudConfig.from_file(directory)
    iot = ssl.create_default_context(cafile=str(directory / "iot_ca.pem"))
    iot.load_cert_chain(directory / "iot_cert.pem", directory / "iot_key.pem")
    remote = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    remote.load_cert_chain(directory / "remote_cert.pem", directory / "remote_key.pem")
    print(json.dumps(dataclasses.asdict(config)), flush=True)


command, *arguments = sys.argv[1:]
if command == "provision":
    asyncio.run(provision(*arguments))
    load(arguments[0])
elif command == "load":
    load(*arguments)
else:
    sys.exit(f"unknown command {command}")
