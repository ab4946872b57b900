"""Client and server of the interop tests on gRPC's C-core, and the switch of an interface's offloads.

The service takes and gives raw bytes, so that nothing needs protoc. A message that is not empty begins
with the SHA-256 of what follows. tests/src/interop.rs tells the protocol; the programs in Go and Rust speak
the same one.
"""

import argparse
import collections
import concurrent.futures
import ctypes
import fcntl
import hashlib
import json
import math
import os
import random
import signal
import socket
import struct
import sys
import threading
import time

SERVICE = "balancer.interop.Bytes"
UNARY_S_MAX = 20
STREAM_S_MAX = 60
DIGEST_BYTES = 32
POOL_BYTES = 4 << 20
# Messages of a stream, the pause between two, and their greatest size.
STREAM_MESSAGES = 40
STREAM_PAUSE_US = 50_000
STREAM_BYTES_MAX = 32 << 10
OPTIONS = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Channels share no connection.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.so_reuseport", 0),
]


def report(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)


def seal(payload):
    return hashlib.sha256(payload).digest() + payload if payload else b""


def unseal(message):
    """The payload, or None if the bytes are not those that were sent."""
    if not message:
        return message
    digest, payload = message[:DIGEST_BYTES], message[DIGEST_BYTES:]
    return payload if payload and hashlib.sha256(payload).digest() == digest else None


class Mismatch(Exception):
    """Bytes arrived that were not sent."""


class Tally:
    def __init__(self):
        self.lock = threading.Lock()
        self.replies = collections.Counter()
        self.failures = collections.Counter()

    def replied(self, kind):
        with self.lock:
            self.replies[kind] += 1

    def failed(self, kind, why):
        with self.lock:
            self.failures[f"{kind}: {why}"] += 1

    def report(self):
        with self.lock:
            tally = {"replies": self.replies, "failures": self.failures}
            report("done", tally={**tally, "latencies_ns": [], "cpu_us": 0})


# --- the server ---


def opened(message, context):
    import grpc

    payload = unseal(message)
    if payload is None:
        context.abort(grpc.StatusCode.DATA_LOSS, f"mismatch in {len(message)} bytes of a request")
    return payload


def unary(request, context):
    opened(request, context)
    return request


def download(request, context):
    payload = opened(request, context)
    messages, pause_us = struct.unpack(">II", payload[:8])
    for index in range(messages):
        yield seal(struct.pack(">I", index) + payload[8:])
        time.sleep(pause_us / 1e6)


def upload(requests, context):
    import grpc

    total, count = hashlib.sha256(), 0
    for request in requests:
        payload = opened(request, context)
        if payload[:4] != struct.pack(">I", count):
            context.abort(grpc.StatusCode.DATA_LOSS, "mismatch of a message's number")
        total.update(payload)
        count += 1
    return seal(struct.pack(">I", count) + total.digest())


def chat(requests, context):
    for request in requests:
        opened(request, context)
        yield request


def serve(arguments):
    import grpc

    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Download": grpc.unary_stream_rpc_method_handler(download),
        "Upload": grpc.stream_unary_rpc_method_handler(upload),
        "Chat": grpc.stream_stream_rpc_method_handler(chat),
    }
    options = OPTIONS + ([("grpc.max_connection_age_ms", arguments.age_ms)] if arguments.age_ms else [])
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(64), options=options)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
    server.add_insecure_port(arguments.listen)
    server.start()
    report("ready")
    sys.stdin.read()
    server.stop(0).wait()
    Tally().report()


# --- the client ---


class Client:
    def __init__(self, arguments):
        self.arguments = arguments
        self.tally = Tally()
        self.stop = threading.Event()
        self.pool = random.Random(arguments.seed).randbytes(POOL_BYTES)

    def chunk(self, rng, bytes_max):
        """Some bytes: now and then none or all, else small ones more often than large ones."""
        kind = rng.random()
        size = bytes_max if kind < 0.1 else int(math.exp(rng.random() * math.log(bytes_max + 1))) - 1
        at = rng.randrange(POOL_BYTES - bytes_max)
        return b"" if kind > 0.9 else self.pool[at : at + size]

    def channel(self):
        import grpc

        return grpc.insecure_channel(self.arguments.target, options=OPTIONS)

    def attempt(self, kind, act):
        import grpc

        try:
            act()
            self.tally.replied(kind)
        except Mismatch as mismatch:
            self.tally.failed(kind, f"mismatch {mismatch}")
        except grpc.RpcError as error:
            self.tally.failed(kind, f"{error.code().name}: {error.details()}")
            self.stop.wait(0.02)

    def unary_worker(self, number, channel):
        rng = random.Random(self.arguments.seed * 1000 + number)
        call = channel.unary_unary(f"/{SERVICE}/Unary")
        period = self.arguments.unary / self.arguments.rate
        due = time.monotonic() + rng.random() * period

        def act():
            request = seal(self.chunk(rng, self.arguments.bytes_max))
            if call(request, timeout=UNARY_S_MAX) != request:
                raise Mismatch(f"in the echo of {len(request)} bytes")

        while not self.stop.wait(max(0, due - time.monotonic())):
            due += period
            self.attempt("unary", act)

    def stream_worker(self, kind, number, channel):
        rng = random.Random(f"{self.arguments.seed} {kind} {number}")
        act = {"download": self.download, "upload": self.upload, "chat": self.chat}[kind]
        while not self.stop.is_set():
            self.attempt(kind, lambda: act(rng, channel))

    def sealed(self, rng):
        for index in range(STREAM_MESSAGES):
            yield seal(struct.pack(">I", index) + self.chunk(rng, STREAM_BYTES_MAX))
            time.sleep(STREAM_PAUSE_US / 1e6)

    def download(self, rng, channel):
        chunk = self.chunk(rng, STREAM_BYTES_MAX)
        request = seal(struct.pack(">II", STREAM_MESSAGES, STREAM_PAUSE_US) + chunk)
        call = channel.unary_stream(f"/{SERVICE}/Download")
        count = 0
        for reply in call(request, timeout=STREAM_S_MAX):
            if unseal(reply) != struct.pack(">I", count) + chunk:
                raise Mismatch(f"in message {count}")
            count += 1
        if count != STREAM_MESSAGES:
            raise Mismatch(f"{count} messages of {STREAM_MESSAGES}")

    def upload(self, rng, channel):
        total, count = hashlib.sha256(), 0

        def requests():
            nonlocal count
            for message in self.sealed(rng):
                total.update(message[DIGEST_BYTES:])
                count += 1
                yield message

        call = channel.stream_unary(f"/{SERVICE}/Upload")
        reply = call(requests(), timeout=STREAM_S_MAX)
        if unseal(reply) != struct.pack(">I", count) + total.digest():
            raise Mismatch("in the digest of a stream")

    def chat(self, rng, channel):
        sent = collections.deque()

        def requests():
            for message in self.sealed(rng):
                sent.append(message)
                yield message

        call = channel.stream_stream(f"/{SERVICE}/Chat")
        count = 0
        for reply in call(requests(), timeout=STREAM_S_MAX):
            if reply != sent.popleft():
                raise Mismatch(f"in message {count}")
            count += 1
        if count != STREAM_MESSAGES:
            raise Mismatch(f"{count} messages of {STREAM_MESSAGES}")

    def run(self):
        import grpc

        channel = self.channel()
        grpc.channel_ready_future(channel).result(UNARY_S_MAX)
        report("connected", backends=[])
        threads = [
            threading.Thread(target=self.unary_worker, args=(number, channel))
            for number in range(self.arguments.unary)
        ]
        threads += [
            threading.Thread(target=self.stream_worker, args=(kind, number, channel))
            for kind in ("download", "upload", "chat")
            for number in range(self.arguments.streams)
        ]
        for thread in threads:
            thread.start()
        sys.stdin.read()
        self.stop.set()
        for thread in threads:
            thread.join()
        self.tally.report()
        channel.close()


def call_service(arguments):
    if arguments.pod:
        with open(os.path.join(arguments.pod, "cgroup.procs"), "w") as members:
            members.write(str(os.getpid()))
    client = Client(arguments)
    report("ready")
    if sys.stdin.readline().strip() == "dial":
        client.run()
    else:
        Tally().report()


# --- the offloads ---

# include/uapi/linux/sockios.h and ethtool.h. Scatter-gather stays, which needs checksums by the interface.
SIOCETHTOOL = 0x8946
# Set and get: checksums received and sent, TCP segmentation, generic segmentation, generic receive.
FEATURES = {
    "rx": (0x15, 0x14),
    "tso": (0x1F, 0x1E),
    "gso": (0x24, 0x23),
    "gro": (0x2C, 0x2B),
    "tx": (0x17, 0x16),
}


def ethtool(number, interface, value):
    command = bytearray(struct.pack("=II", number, value))
    at = (ctypes.c_char * len(command)).from_buffer(command)
    request = struct.pack("16sP8x", interface.encode(), ctypes.addressof(at))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        fcntl.ioctl(handle, SIOCETHTOOL, request)
    return struct.unpack("=II", command)[1]


def offloads(arguments):
    """Switches them, and fails unless the kernel says that they are so."""
    wanted = int(arguments.state == "on")
    # Segmentation needs checksums: those come first on the way up, last on the way down.
    for name in sorted(FEATURES, key=lambda name: (name == "tx") != bool(wanted)):
        put, get = FEATURES[name]
        ethtool(put, arguments.interface, wanted)
        if ethtool(get, arguments.interface, 0) != wanted:
            sys.exit(f"{name} of {arguments.interface} cannot be switched {arguments.state}")


def main():
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    server = commands.add_parser("server")
    server.add_argument("--listen", required=True)
    server.add_argument("--age-ms", type=int, default=0)
    server.set_defaults(run=serve)
    client = commands.add_parser("client")
    client.add_argument("--target", required=True)
    client.add_argument("--pod")
    client.add_argument("--unary", type=int, default=8)
    client.add_argument("--streams", type=int, default=1)
    client.add_argument("--rate", type=int, default=100)
    client.add_argument("--bytes-max", type=int, default=200 << 10)
    client.add_argument("--seed", type=int, default=1)
    client.set_defaults(run=call_service)
    switch = commands.add_parser("offloads")
    switch.add_argument("interface")
    switch.add_argument("state", choices=["on", "off"])
    switch.set_defaults(run=offloads)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
