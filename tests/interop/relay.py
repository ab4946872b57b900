"""Carries frames between two interfaces and treats TCP badly: loses, repeats and delays what it draws.

Everything else, such as neighbour discovery, gets through. The seed decides what is drawn; which packet meets
which draw is up to the kernel's timing.
"""

import argparse
import collections
import heapq
import json
import random
import select
import socket
import struct
import sys
import time

ETH_P_ALL = 3
SOL_PACKET = 263
PACKET_IGNORE_OUTGOING = 23
SO_RCVBUFFORCE = 33
BUFFER_BYTES = 16 << 20
FRAME_BYTES_MAX = 65_536
BATCH = 64
DELAY_S_MIN, DELAY_S_MAX = 0.0005, 0.010
TCP = 6


def report(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)


def is_tcp(frame):
    (kind,) = struct.unpack_from(">H", frame, 12)
    return (kind == 0x0800 and frame[23] == TCP) or (kind == 0x86DD and frame[20] == TCP)


def end_of(interface):
    handle = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    handle.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    handle.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
    handle.bind((interface, 0))
    handle.setblocking(False)
    return handle


class Relay:
    def __init__(self, share, seed):
        self.share = share
        self.rng = random.Random(seed)
        self.counts = collections.Counter()
        self.ends = [end_of("near"), end_of("far")]
        self.delayed = []

    def send(self, to, frame):
        try:
            self.ends[to].send(frame)
            self.counts["carried"] += 1
        except (BlockingIOError, OSError):
            self.counts["refused by the kernel"] += 1

    def take(self, to, frame):
        if not is_tcp(frame):
            self.send(to, frame)
            return
        if self.rng.random() < self.share:
            self.counts["lost"] += 1
            return
        copies = 1
        if self.rng.random() < self.share:
            self.counts["repeated"] += 1
            copies = 2
        for _ in range(copies):
            if self.rng.random() < self.share:
                self.counts["delayed"] += 1
                due = time.monotonic() + self.rng.uniform(DELAY_S_MIN, DELAY_S_MAX)
                heapq.heappush(self.delayed, (due, self.counts["delayed"], to, frame))
            else:
                self.send(to, frame)

    def run(self):
        poll = select.poll()
        poll.register(sys.stdin, select.POLLIN)
        for end in self.ends:
            poll.register(end, select.POLLIN)
        while True:
            wait_ms = None
            if self.delayed:
                wait_ms = max(0, (self.delayed[0][0] - time.monotonic()) * 1000)
            ready = {fd for fd, _ in poll.poll(wait_ms)}
            while self.delayed and self.delayed[0][0] <= time.monotonic():
                _, _, to, frame = heapq.heappop(self.delayed)
                self.send(to, frame)
            if sys.stdin.fileno() in ready:
                return
            for at, end in enumerate(self.ends):
                if end.fileno() not in ready:
                    continue
                for _ in range(BATCH):
                    try:
                        frame = end.recv(FRAME_BYTES_MAX)
                    except (BlockingIOError, OSError):
                        break
                    self.take(1 - at, frame)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--percent", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    arguments = parser.parse_args()
    relay = Relay(arguments.percent / 100, arguments.seed)
    report("ready")
    relay.run()
    report("done", tally={"replies": relay.counts, "failures": {}, "latencies_ns": [], "cpu_us": 0})


if __name__ == "__main__":
    main()
