"""Downloads a file over TLS again and again, 64 KiB at a time, until its standard input ends.

    reader.py ADDRESS PORT HOSTNAME CERTIFICATE

An interpreted program takes data more slowly than a tunnel brings it. Prints a line after the first
MiB, and at the end the rate since then, in bytes per second.
"""

import http.client
import os
import socket
import ssl
import sys
import threading
import time

BEGIN = 1024 * 1024
address, port, hostname, certificate = sys.argv[1:]
total, begun = 0, 0.0


def download():
    global total, begun
    context = ssl.create_default_context(cafile=certificate)
    connection = http.client.HTTPSConnection(hostname, context=context)
    connection.sock = context.wrap_socket(
        socket.create_connection((address, int(port))), server_hostname=hostname
    )
    while True:
        connection.request("GET", "/file")
        response = connection.getresponse()
        while data := response.read(64 * 1024):
            total += len(data)
            if not begun and total >= BEGIN:
                begun = time.monotonic()
                print("reading", flush=True)


threading.Thread(target=download, daemon=True).start()
sys.stdin.read()
print((total - BEGIN) / (time.monotonic() - begun), flush=True)
os._exit(0)
