"""Uses a running `clesyde-cloud run --session-expiry 3600` from Python: control_client.py SOCKET SN"""

import http.client
import json
import socket
import sys


class Connection(http.client.HTTPConnection):
    """HTTP on a Unix socket."""

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.host)


def call(path, method="GET", body=None):
    """Sends a request. Returns its JSON lines as they arrive; a plain response is one line."""
    connection = Connection(sys.argv[1])
    connection.request(method, "/v1/" + path, body and json.dumps(body), {"Host": "localhost"})
    response = connection.getresponse()
    for line in response:
        value = json.loads(line)
        if "error" in value:
            raise RuntimeError(value["error"]["code"] + ": " + value["error"]["message"])
        yield value


def main():
    topic = f"c/d/{sys.argv[2]}/python"
    print("page:", next(call("url"))["url"])
    messages = call("subscribe?ack=manual&filter=" + topic)
    print(next(messages)["event"])
    next(call("publish", "POST", {"topic": topic, "json": {"hello": "world"}, "content_type": "application/json"}))
    message = next(messages)
    print("received:", message["payload"])
    print(next(call("ack", "POST", {"id": message["id"]}))["event"])
    print("reported:", next(call("shadow/config", "POST", {"python": sys.version.split()[0]}))["event"])
    for message in call("actions/add"):  # until the platform sends the action
        if message["event"] == "action":
            total = sum(json.loads(message["payload"]))
            print(next(call(f"actions/add/{message['id']}", "POST", {"sum": total}))["event"])
            break


if __name__ == "__main__":
    main()
