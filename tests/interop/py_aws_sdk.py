"""AWS's own SDK for Python as a device: the client of MQTT 5 or of MQTT 3.1.1, and the shadow client.

    python py_aws_sdk.py mqtt5|mqtt311 SERIAL READY

READY is what the simulator prints when it is ready. Each step that passes is printed as a JSON line: `shadow.classic`,
`shadow.named`, `properties` (MQTT 5), `resumed`, and `connected` at the end, where it waits to be killed. The first that does
not is `failed` with an `error`.
"""

import json
import queue
import sys
import threading
import time
import traceback
import urllib.request
from pathlib import Path

from awscrt import mqtt, mqtt5
from awscrt.mqtt_request_response import ClientOptions
from awsiot import ServiceStreamOptions, V2ServiceException, iotshadow, mqtt5_client_builder, mqtt_connection_builder

LIMIT = 30
OFFLINE = json.dumps({"state": "OFFLINE"})


def tell(event, **more):
    """Print one event."""
    print(json.dumps({"event": event, **more}), flush=True)


def expect(actual, expected):
    """What is not as expected is an error that shows both."""
    if actual != expected:
        raise AssertionError(f"{actual!r} instead of {expected!r}")


class Platform:
    """The simulator as its owner sees it."""

    def __init__(self, ready):
        self.ready = ready
        self.token = Path(ready["control_token_file"]).read_text().strip()

    def call(self, method, url, body):
        """One request with a JSON body."""
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.token}"}
        request = urllib.request.Request(url, json.dumps(body).encode(), headers, method=method)
        with urllib.request.urlopen(request, timeout=LIMIT) as response:
            return response.read()

    def register(self, serial):
        """The thing that the platform makes."""
        body = {"sn": serial, "token": self.ready["provisioning_key"]}
        answer = self.call("POST", f"{self.ready['api_url']}/device/register", body)
        return json.loads(answer)["registration"]["thing"]

    def set_desired(self, serial, desired):
        """Changes the shadow `config` as the platform does."""
        self.call("PUT", f"{self.ready['control_url']}/devices/{serial}/shadow/desired", desired)

    def broadcast(self, message):
        """Sends to all devices."""
        self.call("POST", f"{self.ready['control_url']}/broadcast", message)


def builder_arguments(thing):
    """What both builders want."""
    host, port = thing["iot"]["endpoint"].rsplit(":", 1)
    return {
        "cert_bytes": thing["iot"]["certificates"]["device_certificate"].encode(),
        "pri_key_bytes": thing["iot"]["keyPair"]["privateKey"].encode(),
        "ca_bytes": thing["iot"]["certificates"]["root_ca"].encode(),
        "endpoint": host,
        "port": int(port),
    }


class Mqtt5:
    """The client of MQTT 5."""

    def __init__(self, thing):
        self.name = thing["iot"]["thing_name"]
        self.messages = queue.Queue()
        self.connected = queue.Queue()
        self.stopped = threading.Event()
        self.client = mqtt5_client_builder.mtls_from_bytes(
            **builder_arguments(thing),
            on_publish_received=lambda data: self.messages.put(data.publish_packet),
            on_lifecycle_connection_success=self.connected.put,
            on_lifecycle_stopped=lambda data: self.stopped.set(),
            session_behavior=mqtt5.ClientSessionBehaviorType.REJOIN_ALWAYS,
            connect_options=mqtt5.ConnectPacket(
                client_id=self.name,
                keep_alive_interval_sec=1500,
                session_expiry_interval_sec=600,
                will=mqtt5.PublishPacket(topic=f"c/d/{self.name}/status", payload=OFFLINE, qos=mqtt5.QoS.AT_LEAST_ONCE),
                will_delay_interval_sec=0,
            ),
        )

    def connect(self):
        """Whether a session was resumed."""
        self.stopped.clear()
        self.client.start()
        data = self.connected.get(timeout=LIMIT)
        expect(data.negotiated_settings.server_keep_alive_sec, 1200)
        expect(data.negotiated_settings.maximum_qos, mqtt5.QoS.AT_LEAST_ONCE)
        expect(data.negotiated_settings.maximum_packet_size_to_server, 149504)
        expect(data.negotiated_settings.topic_alias_maximum_to_server, 8)
        expect(data.negotiated_settings.subscription_identifiers_available, False)
        return data.connack_packet.session_present

    def disconnect(self):
        """Ends the connection; the session stays."""
        self.client.stop(mqtt5.DisconnectPacket())
        expect(self.stopped.wait(LIMIT), True)

    def subscribe(self, topic):
        """Subscribes with QoS 1."""
        subscription = mqtt5.Subscription(topic, mqtt5.QoS.AT_LEAST_ONCE)
        suback = self.client.subscribe(mqtt5.SubscribePacket([subscription])).result(LIMIT)
        expect(suback.reason_codes, [mqtt5.SubackReasonCode.GRANTED_QOS_1])

    def publish(self, topic, payload, **properties):
        """Publishes with QoS 1."""
        packet = mqtt5.PublishPacket(topic=topic, payload=payload, qos=mqtt5.QoS.AT_LEAST_ONCE, **properties)
        puback = self.client.publish(packet).result(LIMIT).puback
        expect(puback.reason_code, mqtt5.PubackReasonCode.SUCCESS)

    def message(self):
        """The payload of the next message."""
        return self.messages.get(timeout=LIMIT).payload

    def check_properties(self):
        """What is sent is received, and nothing else."""
        topic = f"c/d/{self.name}/properties"
        self.subscribe(topic)
        sent = {
            "payload_format_indicator": mqtt5.PayloadFormatIndicator.AWS_MQTT5_PFI_UTF8,
            "message_expiry_interval_sec": 4_000_000_000,
            "response_topic": f"c/d/{self.name}/answer",
            "correlation_data_bytes": b"\x00\xff",
            "content_type": "text/plain",
            "user_properties": [mqtt5.UserProperty("a", "1"), mqtt5.UserProperty("a", "2")],
        }
        self.publish(topic, "x", **sent)
        # The shadow clients' messages come here as well.
        while (got := self.messages.get(timeout=LIMIT)).topic != topic:
            pass
        for name, value in sent.items():
            if name == "message_expiry_interval_sec":
                expect(604_700 <= got.message_expiry_interval_sec <= 604_800, True)
            else:
                expect(getattr(got, name), value)
        expect(got.subscription_identifiers or [], [])


class Mqtt311:
    """The client of MQTT 3.1.1."""

    def __init__(self, thing):
        self.name = thing["iot"]["thing_name"]
        self.messages = queue.Queue()
        self.client = mqtt_connection_builder.mtls_from_bytes(
            **builder_arguments(thing),
            client_id=self.name,
            clean_session=False,
            keep_alive_secs=60,
            will=mqtt.Will(f"c/d/{self.name}/status", mqtt.QoS.AT_LEAST_ONCE, OFFLINE.encode(), False),
        )
        self.client.on_message(lambda topic, payload, **more: self.messages.put(payload))

    def connect(self):
        """Whether a session was resumed."""
        return self.client.connect().result(LIMIT)["session_present"]

    def disconnect(self):
        """Ends the connection; the session stays."""
        self.client.disconnect().result(LIMIT)

    def subscribe(self, topic):
        """Subscribes with QoS 1."""
        future, _ = self.client.subscribe(topic, mqtt.QoS.AT_LEAST_ONCE)
        expect(future.result(LIMIT)["qos"], mqtt.QoS.AT_LEAST_ONCE)

    def publish(self, topic, payload):
        """Publishes with QoS 1."""
        future, _ = self.client.publish(topic, payload, mqtt.QoS.AT_LEAST_ONCE)
        future.result(LIMIT)

    def message(self):
        """The payload of the next message."""
        return self.messages.get(timeout=LIMIT)


class Shadow:
    """One shadow of a thing, classic or named, by the second shadow client."""

    def __init__(self, connection, name):
        options = ClientOptions(max_request_response_subscriptions=8, max_streaming_subscriptions=2, operation_timeout_in_seconds=LIMIT)
        self.client = iotshadow.IotShadowClientV2(connection.client, options)
        self.of = {"thing_name": connection.name, **({"shadow_name": name} if name else {})}
        self.named = "Named" if name else ""
        self.deltas = queue.Queue()
        subscribed = threading.Event()
        create = getattr(self.client, "create_named_shadow_delta_updated_stream" if name else "create_shadow_delta_updated_stream")
        self.stream = create(
            self.request("{}ShadowDeltaUpdatedSubscriptionRequest"),
            ServiceStreamOptions(
                incoming_event_listener=self.deltas.put,
                subscription_status_listener=lambda event: subscribed.set(),
            ),
        )
        self.stream.open()
        expect(subscribed.wait(LIMIT), True)

    def request(self, kind, **more):
        """A request of the client's own class."""
        return getattr(iotshadow, kind.format(self.named))(**self.of, **more)

    def call(self, operation, **more):
        """The accepted answer to `get`, `update` or `delete`."""
        kind = operation.capitalize() + "{}ShadowRequest"
        method = f"{operation}_named_shadow" if self.named else f"{operation}_shadow"
        return getattr(self.client, method)(self.request(kind, **more)).result(LIMIT)

    def refused(self, operation, **more):
        """The code of the rejected answer."""
        try:
            answer = self.call(operation, **more)
        except V2ServiceException as error:
            if error.modeled_error is None:
                raise
            return error.modeled_error.code
        raise AssertionError(f"{operation} was accepted: {answer}")

    def check(self, set_desired):
        """Goes through what a shadow can do. `set_desired` is the other side."""
        expect(self.refused("get"), 404)
        first = self.call("update", state=iotshadow.ShadowState(reported={"interval": 1, "mode": {"night": True}}))
        expect((first.version, first.state.reported["interval"]), (1, 1))
        set_desired({"interval": 5})
        delta = self.deltas.get(timeout=LIMIT)
        expect(delta.state, {"interval": 5})
        got = self.call("get")
        expect((got.state.desired, got.state.delta), ({"interval": 5}, {"interval": 5}))
        expect(got.state.reported, {"interval": 1, "mode": {"night": True}})
        expect(got.version, delta.version)
        expect(self.refused("update", version=got.version + 7, state=iotshadow.ShadowState(reported={"interval": 9})), 409)
        expect(self.refused("update", state=iotshadow.ShadowState(reported={"large": "x" * 9000})), 413)
        expect(self.refused("update", state=iotshadow.ShadowState(reported={"list": [None]})), 400)
        # None removes a key, and an update of the current version is accepted.
        change = iotshadow.ShadowState(reported={"interval": 5, "mode": {"night": None}})
        updated = self.call("update", version=got.version, state=change)
        expect(updated.version, got.version + 1)
        got = self.call("get")
        expect((got.state.reported["interval"], got.state.delta), (5, None))
        deleted = self.call("delete")
        expect(deleted.version, updated.version)
        expect(self.refused("get"), 404)
        expect(self.refused("delete"), 404)


def main(protocol, serial, ready):
    """Runs all steps."""
    platform = Platform(json.loads(ready))
    connection = {"mqtt5": Mqtt5, "mqtt311": Mqtt311}[protocol](platform.register(serial))
    expect(connection.connect(), False)

    classic = Shadow(connection, None)
    update = f"$aws/things/{connection.name}/shadow/update"
    classic.check(lambda desired: connection.publish(update, json.dumps({"state": {"desired": desired}})))
    tell("shadow.classic")
    Shadow(connection, "config").check(lambda desired: platform.set_desired(serial, desired))
    tell("shadow.named")
    if protocol == "mqtt5":
        connection.check_properties()
        tell("properties")

    connection.subscribe("c/platform")
    connection.disconnect()
    platform.broadcast({"missed": True})
    expect(connection.connect(), True)
    # What the shadow clients were sent is not asked about here.
    while b"missed" not in connection.message():
        pass
    tell("resumed")

    connection.publish(f"c/d/{connection.name}/status", json.dumps({"state": "ONLINE"}))
    tell("connected")
    time.sleep(LIMIT * 10)
    return 1


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    try:
        sys.exit(main(*sys.argv[1:]))
    except Exception as error:  # whatever it is, the test wants to read it
        traceback.print_exc()
        tell("failed", error=f"{type(error).__name__}: {error}")
        sys.exit(1)
