"""Prints the public names that clesyde_cloud_lib gives to a host, one on a line, for tests: its classes and exceptions, and
their methods and attributes.
"""

import asyncio
import importlib
import inspect
import pathlib
import pkgutil
import tempfile

import clesydecloud
from clesydecloud.client import ClesydeCloudClient


class Host(ClesydeCloudClient):
    """A host that does nothing."""

    device_sn = "SN"
    base_path = pathlib.Path(tempfile.mkdtemp())
    api_base_url = "http://localhost"
    loop = None
    aiohttp_runner = None


def is_public(name: str) -> bool:
    return not name.startswith("_")


def names() -> set[str]:
    """Those of the classes, and of the objects of a host."""
    found = set()
    for module in pkgutil.iter_modules(clesydecloud.__path__, "clesydecloud."):
        if module.name.endswith("__main__"):
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            # The content of the shadow is for the library alone, and a decorator adds names to it.
            if hasattr(value, "dataclass_json_config"):
                continue
            if inspect.isclass(value) and value.__module__.startswith("clesydecloud") and is_public(name):
                found |= {name} | set(filter(is_public, vars(value)))
    cloud = clesydecloud.ClesydeCloud(Host())
    for part in (cloud, cloud.iot, cloud.iot_message, cloud.provisioning, cloud.remote, cloud.shadow):
        found |= set(filter(is_public, vars(part)))
    found |= {"ClesydeCloud", "InitializationError"}
    return found | set(filter(is_public, vars(clesydecloud.ClesydeCloud)))


async def main() -> None:
    print("\n".join(sorted(names())))


asyncio.run(main())
