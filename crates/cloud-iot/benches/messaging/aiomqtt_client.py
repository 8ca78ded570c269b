"""The same measures with aiomqtt; see main.rs."""

import argparse
import asyncio
import resource
import ssl
import time

import aiomqtt

IN_FLIGHT = 100
PAYLOAD = b"\x07" * 100
KEEP_ALIVE = 5
IDLE_INTERVALS = 4


async def publish(client, count):
    room = asyncio.Semaphore(IN_FLIGHT)

    async def one():
        async with room:
            await client.publish("bench", PAYLOAD, qos=1, timeout=60)

    started = time.monotonic()
    await asyncio.gather(*(one() for _ in range(count)))
    print(count / (time.monotonic() - started), flush=True)


async def latency(client, count):
    waits = []
    for _ in range(count):
        started = time.monotonic()
        await client.publish("bench", PAYLOAD, qos=1)
        waits.append(time.monotonic() - started)
    waits.sort()
    at = lambda share: waits[(count - 1) * share // 100] * 1e6
    print(at(50), at(99), flush=True)


async def deliver(client, count, topics="bench"):
    await client.subscribe(topics, qos=1)
    print("ready", flush=True)
    left, started = count, None
    async for _ in client.messages:
        started = started or time.monotonic()
        left -= 1
        if left == 0:
            break
    print(count / (time.monotonic() - started), flush=True)


async def topics(client, count):
    await deliver(client, count, "bench/#")


durable = publish
durable_latency = latency


def wake_ups():
    return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw


def resident():
    with open("/proc/self/status") as status:
        return next(line.split()[1] for line in status if line.startswith("VmRSS"))


async def idle(_client, _count):
    await asyncio.sleep(KEEP_ALIVE)
    before = wake_ups()
    await asyncio.sleep(KEEP_ALIVE * IDLE_INTERVALS)
    print((wake_ups() - before) / IDLE_INTERVALS, resident(), flush=True)


async def main():
    parser = argparse.ArgumentParser()
    for name in ("client", "measure", "directory"):
        parser.add_argument(f"--{name}")
    for name in ("count", "port"):
        parser.add_argument(f"--{name}", type=int)
    options = parser.parse_args()
    context = ssl.create_default_context(cafile=f"{options.directory}/ca.pem")
    context.load_cert_chain(f"{options.directory}/client.pem", f"{options.directory}/client.key")
    client = aiomqtt.Client(
        "localhost",
        options.port,
        identifier="aiomqtt",
        protocol=aiomqtt.ProtocolVersion.V5,
        tls_context=context,
        keepalive=KEEP_ALIVE,
        max_inflight_messages=IN_FLIGHT,
        max_queued_outgoing_messages=0,
    )
    async with client:
        await globals()[options.measure](client, options.count)


asyncio.run(main())
