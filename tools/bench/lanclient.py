#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Clients of a guest on its LAN (guest-tests/debian/services.c), which notice how long it was away.

    lanclient.py stream IP [--kib N]      one connection; every byte is checked
    lanclient.py echo IP [--period MS]    one connection; requests of all lengths, one after the other
    lanclient.py tx IP                    the numbers of acknowledged transactions, each once and in order
    lanclient.py banner IP                what an SSH server says first

They run where the guest's LAN is, which may be another network namespace; a test starts them with the prefix that leads
there (Lan.enter of lan.py, or [] for a LAN of this namespace):

    stream = Client(prefix, "stream", "10.0.77.2")
    stream.wait_connected(60)
    since = time.monotonic()
    ... a move ...
    print(stream.longest_gap(since))      # seconds; the guest's blackout as this client saw it
    print(stream.finish())                # AssertionError if anything was wrong: a byte, an answer, the connection

On standard output: one JSON object a line; "t" is CLOCK_MONOTONIC, which all processes of a machine share.
    {"event": "connected", "t"}  {"event": "gap", "t" (its end), "seconds"}  {"event": "progress", "t", ...}
    {"event": "end", "ok": true, ...} or {"event": "end", "ok": false, "error": ...}
It goes on until its standard input is closed. A guest may be silent for --stall seconds; its connection may not end.
"""
import argparse
import json
import os
import random
import select
import socket
import subprocess
import sys
import threading
import time

STREAM, ECHO, TRANSACTIONS, SSH = 7001, 7002, 7003, 22
LAP = 65521
GAP = 0.02  # shorter ones are not worth a line


def lap_of(seed):
    """The stream of a seed is laps of these bytes, but for the first eight: the lap's number. As services.c fills it."""
    mask, out = (1 << 64) - 1, bytearray()
    for i in range(0, LAP, 8):
        x = seed + i & mask
        x ^= x >> 30
        x = x * 0xBF58476D1CE4E5B9 & mask
        x ^= x >> 27
        x = x * 0x94D049BB133111EB & mask
        out += (x ^ x >> 31).to_bytes(8, "little")
    return bytes(out[:LAP])


class Wrong(Exception):
    """The guest did not do what it should; the text says what."""


class Session:
    """One connection that lasts, and what is known about it."""

    def __init__(self, args, port):
        self.args, self.last, self.longest, self.told = args, 0.0, 0.0, 0.0
        self.facts = {}
        deadline = time.monotonic() + args.connect
        while True:
            try:
                self.sock = socket.create_connection((args.ip, args.port or port), 5)
                break
            except OSError as e:
                if time.monotonic() > deadline:
                    raise Wrong(f"no connection with {args.ip}:{args.port or port} in {args.connect:g} s: {e}") from None
                if not self.wanted(0.2):
                    raise Wrong("ended before there was a connection") from None
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.last = self.told = time.monotonic()
        self.say("connected")

    def say(self, event, **more):
        print(json.dumps({"event": event, "t": time.monotonic(), **more}), flush=True)

    def wanted(self, seconds=0.0):
        """False once standard input is closed. Waits so long for that."""
        ready, _, _ = select.select([0], [], [], seconds)
        return not (ready and not os.read(0, 4096))

    def heard(self):
        """Something came: note how long nothing had."""
        now = time.monotonic()
        gap, self.last = now - self.last, now
        self.longest = max(self.longest, gap)
        if gap >= GAP:
            self.say("gap", seconds=gap)
        if now - self.told > 1:
            self.told = now
            self.say("progress", **self.facts)

    def receive(self, most):
        """The next bytes; b"" when this client is to end."""
        while True:
            ready, _, _ = select.select([self.sock, 0], [], [], 1)
            if 0 in ready and not os.read(0, 4096):
                return b""
            if self.sock in ready:
                try:
                    data = self.sock.recv(most)
                except OSError as e:
                    raise Wrong(f"the connection broke: {e}") from None
                if not data:
                    raise Wrong("the connection was closed by the guest")
                return data
            if time.monotonic() - self.last > self.args.stall:
                raise Wrong(f"nothing came for {self.args.stall:g} s")

    def end(self):
        self.facts["longest_gap"] = round(self.longest, 4)
        self.say("end", ok=True, **self.facts)


def stream(args):
    session, lap = Session(args, STREAM), lap_of(args.seed)
    session.sock.sendall(f"{args.seed} {args.kib}\n".encode())
    got = 0
    while data := session.receive(1 << 16):
        view, at = memoryview(data), 0
        while at < len(data):
            number, place = divmod(got, LAP)
            # Lap by lap; the number of the lap comes first.
            head = number.to_bytes(8, "little")
            expected = head[place:] if place < 8 else lap[place:]
            piece = view[at : at + len(expected)]
            if piece != expected[: len(piece)]:
                wrong = next(i for i, b in enumerate(piece) if b != expected[i])
                raise Wrong(f"byte {got + wrong} of the stream is {piece[wrong]:#x}, not {expected[wrong]:#x}")
            got += len(piece)
            at += len(piece)
        session.facts["bytes"] = got
        session.heard()
    session.end()


def echo(args):
    session, chance = Session(args, ECHO), random.Random(args.seed)
    latencies = []
    while session.wanted(args.period / 1000):
        request = chance.randbytes(chance.choice((1, 40, 700, 1460, 3000)))
        session.last = start = time.monotonic()
        session.sock.sendall(request)
        answer = b""
        while len(answer) < len(request):
            data = session.receive(len(request) - len(answer))
            if not data:
                break
            answer += data
        if len(answer) < len(request):
            break
        if answer != request:
            raise Wrong(f"request {len(latencies) + 1} of {len(request)} bytes was answered with others")
        latencies.append(time.monotonic() - start)
        session.facts["requests"] = len(latencies)
        session.heard()
    latencies.sort()
    for name, part in ("median_ms", 0.5), ("p99_ms", 0.99), ("max_ms", 1):
        if latencies:
            session.facts[name] = round(latencies[min(len(latencies) - 1, int(part * len(latencies)))] * 1000, 3)
    session.end()


def transactions(args):
    session, rest, last = Session(args, TRANSACTIONS), b"", None
    while data := session.receive(1 << 16):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            number = int(line)
            if last is not None and number != last + 1:
                raise Wrong(f"transaction {number} was acknowledged after {last}")
            last = number
            session.facts["first"] = session.facts.get("first", number)
        session.facts["last"] = last
        session.heard()
    session.end()


def banner(args):
    session = Session(args, SSH)
    text = b""
    while not text.endswith(b"\n"):
        data = session.receive(256)
        if not data:
            break
        text += data
    if not text.startswith(b"SSH-2.0-"):
        raise Wrong(f"that is not an SSH server: {text!r}")
    session.facts["banner"] = text.decode(errors="replace").strip()
    session.end()


class Client:
    """A client in a process of its own, as a test sees it. prefix: a command that leads to the LAN's namespace."""

    def __init__(self, prefix, mode, ip, *options):
        self.name = f"{mode} {ip}"
        self.events, self.change = [], threading.Condition()
        self.process = subprocess.Popen(
            [*prefix, sys.executable, os.path.abspath(__file__), mode, ip, *map(str, options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            with self.change:
                self.events.append(json.loads(line))
                self.change.notify_all()
        with self.change:
            self.events.append({"event": "gone", "t": time.monotonic()})
            self.change.notify_all()

    def wait(self, check, timeout, what):
        """The first event for which check(event) is true, from the beginning."""
        deadline = time.monotonic() + timeout
        with self.change:
            while True:
                for event in self.events:
                    if check(event):
                        return event
                assert not self.over(), f"{self.name}: {self.over()}, no {what}"
                left = deadline - time.monotonic()
                assert left > 0, f"{self.name}: no {what} in {timeout} s; last: {self.events[-1:]}"
                self.change.wait(left)

    def over(self):
        """Why it has ended; None while it goes on."""
        for event in self.events:
            if event["event"] == "end":
                return event.get("error", "ended")
            if event["event"] == "gone":
                return f"exit code {self.process.wait()}"
        return None

    def wait_connected(self, timeout=180):
        return self.wait(lambda e: e["event"] == "connected", timeout, "connection")

    def wait_progress(self, timeout=180):
        """It has heard from the guest after now."""
        now = time.monotonic()
        return self.wait(lambda e: e["event"] == "progress" and e["t"] > now, timeout, "sign of life")

    def longest_gap(self, since=0.0):
        """Seconds without a byte, at most, in a silence that ended after `since`."""
        with self.change:
            gaps = [e["seconds"] for e in self.events if e["event"] == "gap" and e["t"] >= since]
        return max(gaps, default=GAP)

    def latest(self, fact):
        """The newest value of a fact (bytes, requests, last); 0 if there is none."""
        with self.change:
            return next((e[fact] for e in reversed(self.events) if fact in e), 0)

    def finish(self, timeout=120):
        """End it; returns its last event. AssertionError if the guest did anything wrong."""
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        event = self.wait_end(timeout)
        assert event.get("ok"), f"{self.name}: {event.get('error', event)}"
        return event

    def wait_end(self, timeout=120):
        deadline = time.monotonic() + timeout
        with self.change:
            while not self.over():
                assert self.change.wait(deadline - time.monotonic()), f"{self.name} does not end"
            return next(e for e in self.events if e["event"] in ("end", "gone"))

    def kill(self):
        """End it at once, whatever it was doing."""
        self.process.kill()
        self.process.wait()
        self.reader.join()
        for pipe in (self.process.stdin, self.process.stdout):
            try:
                pipe.close()
            except BrokenPipeError:
                pass


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = {"stream": stream, "echo": echo, "tx": transactions, "banner": banner}
    parser.add_argument("mode", choices=modes)
    parser.add_argument("ip")
    parser.add_argument("--port", type=int, default=0, help="another than the service's own")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kib", type=int, default=0, help="stream: KiB per second of the guest's time; 0: all it can")
    parser.add_argument("--period", type=float, default=50, help="echo: milliseconds between requests")
    parser.add_argument("--connect", type=float, default=120, help="seconds in which the guest must come up")
    parser.add_argument("--stall", type=float, default=120, help="seconds for which it may be silent")
    args = parser.parse_args()
    try:
        modes[args.mode](args)
    except (Wrong, OSError) as e:
        print(json.dumps({"event": "end", "t": time.monotonic(), "ok": False, "error": str(e)}), flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
