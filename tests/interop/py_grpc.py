"""A gRPC server and a client for it, without generated code: messages are bytes.

`serve` prints its port. `call ADDRESS HOST CA_FILE` makes calls of all four kinds and prints one JSON line.
"""

import json
import pathlib
import queue
import sys
from concurrent import futures

import grpc

SERVICE = "test.Echo"


def unary(request, context):
    if request == b"missing":
        context.abort(grpc.StatusCode.NOT_FOUND, "there is no such thing")
    metadata = dict(context.invocation_metadata())
    context.set_trailing_metadata((("x-trailer", metadata.get("x-own", "none")),))
    return request


def server_stream(request, _context):
    for number in range(int(request)):
        yield b"%d" % number


def client_stream(requests, _context):
    return b"".join(requests)


def both(requests, _context):
    for request in requests:
        yield b"re: " + request


def serve():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
        "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
        "Both": grpc.stream_stream_rpc_method_handler(both),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(json.dumps({"event": "listening", "port": port}), flush=True)
    server.wait_for_termination()


def call(address, host, ca_file):
    credentials = grpc.ssl_channel_credentials(pathlib.Path(ca_file).read_bytes())
    options = [("grpc.ssl_target_name_override", host), ("grpc.default_authority", host)]
    with grpc.secure_channel(address, credentials, options) as channel:
        answer, call = channel.unary_unary(f"/{SERVICE}/Unary").with_call(
            b"x" * 100_000, metadata=(("x-own", "kept"),), timeout=30
        )
        trailer = dict(call.trailing_metadata())["x-trailer"]
        try:
            channel.unary_unary(f"/{SERVICE}/Unary")(b"missing", timeout=30)
            status = "OK"
        except grpc.RpcError as error:
            status = f"{error.code().name}: {error.details()}"
        streamed = list(channel.unary_stream(f"/{SERVICE}/ServerStream")(b"100", timeout=30))
        joined = channel.stream_unary(f"/{SERVICE}/ClientStream")(
            iter([b"a", b"b", b"c"]), timeout=30
        )
        # Each message is sent only after the answer to the one before.
        outgoing = queue.Queue()
        answers = channel.stream_stream(f"/{SERVICE}/Both")(iter(outgoing.get, None), timeout=30)
        conversation = []
        for number in range(5):
            outgoing.put(b"%d" % number)
            conversation.append(next(answers).decode())
        outgoing.put(None)
        rest = len(list(answers))
    result = {
        "event": "called",
        "unary": len(answer),
        "trailer": trailer,
        "status": status,
        "streamed": len(streamed),
        "joined": joined.decode(),
        "conversation": conversation,
        "rest": rest,
    }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        call(*sys.argv[2:])
