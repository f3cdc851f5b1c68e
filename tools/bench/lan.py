#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The guests' LAN: a learning switch between emulated network cards and a TAP device, where clients run.

    lan = Lan(run.dir)                              # dies with the test
    host = run.host("a", esp, lan=lan.port(0))      # the card is port 0 of the switch
    subprocess.run([*lan.enter, "ping", "-c1", "10.77.0.2"])    # a program where the TAP is, as lan.address
    lan.cut(0); lan.heal(0)                         # pull the cable, put it back
    lan.drop(0, 0.1)                                # lose a tenth of the frames, both ways
    lan.stats()                                     # {"macs": {MAC: port}, "moved": {MAC: times}, "in": [...], "out": [...]}

The TAP is in a network namespace of its own, so that tests side by side do not meet; making that needs root, or a kernel
that gives namespaces and /dev/net/tun to everybody. A card's side is a pair of UDP ports on loopback: the emulator is at
PORT, the switch at PORT + 1, one frame a datagram (ethmod=socket of Bochs, socket of QEMU). The TAP is the port after the
last card. A MAC address is where it last sent from: a guest that has moved has to say so. All frames are in
DIRECTORY/NAME.pcap.
"""
import argparse
import ctypes
import fcntl
import json
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import bench

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 2, 0x1000
CARDS = 4


class Lan:
    """One LAN in a process of its own. address: this end of it, with its prefix length."""

    def __init__(self, directory, name="lan", address="10.77.0.1/24"):
        self.address, self.tap = address.split("/")[0], "tap0"
        with open(os.path.join(directory, name + ".log"), "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, os.path.abspath(__file__), "--address", address, "--pcap", os.path.join(directory, name + ".pcap")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                preexec_fn=bench._die_with_parent,
            )
        first = self.process.stdout.readline()
        if not first:
            self.process.wait()
            raise bench.BenchError("no LAN for guests: " + bench.tail(log.name, 1) + " (it needs root and /dev/net/tun)")
        self._ports, user = json.loads(first)
        self.enter = ["nsenter", "-t", str(self.process.pid), "-n", *(["-U", "--preserve-credentials"] if user else [])]

    def port(self, card):
        """The UDP port at which the emulator has its end of that cable."""
        return self._ports[card]

    def cut(self, card):
        self._order("drop", card, 1)

    def heal(self, card):
        self._order("drop", card, 0)

    def drop(self, card, share):
        """Lose that share of the frames from and to the card, at random."""
        self._order("drop", card, share)

    def stats(self):
        """What the switch knows now."""
        return self._order("stats")

    def _order(self, *words):
        print(json.dumps(words), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def close(self):
        """Off, with the namespace. Harmless when it is."""
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def own_namespace(user):
    """A network namespace for this process; sockets that it has already stay where they were made."""
    uid, gid = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET | (CLONE_NEWUSER if user else 0)):
        raise OSError(ctypes.get_errno(), "network namespace: " + os.strerror(ctypes.get_errno()))
    if user:
        for file, text in ("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1"):
            with open(f"/proc/self/{file}", "w", encoding="ascii") as f:
                f.write(text)


def open_tap(name, address):
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    for command in ("link set lo up", f"link set {name} up", f"addr add {address} dev {name}"):
        subprocess.run(["ip", *command.split()], check=True)
    return fd


def cable():
    """(the emulator's port, the switch's socket), of ports that were free a moment ago."""
    while True:
        near = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        near.bind(("127.0.0.1", 0))
        port = near.getsockname()[1] - 1
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as far:
                far.bind(("127.0.0.1", port))
        except OSError:
            near.close()
            continue
        near.setblocking(False)
        return port, near


class Switch:
    def __init__(self, cables, tap, pcap):
        self.cables, self.tap, self.pcap = cables, tap, pcap
        count = len(cables) + 1
        self.lost, self.frames_in, self.frames_out = [0.0] * count, [0] * count, [0] * count
        self.macs, self.moved = {}, {}
        pcap.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))

    def read(self, port):
        """The next frame that came in there; None if there is none."""
        try:
            return os.read(self.tap, 65536) if port == len(self.cables) else self.cables[port][1].recv(65536)
        except BlockingIOError:
            return None

    def write(self, port, frame):
        if random.random() < self.lost[port]:
            return
        self.frames_out[port] += 1
        try:
            if port == len(self.cables):
                os.write(self.tap, frame)
            else:
                self.cables[port][1].sendto(frame, ("127.0.0.1", self.cables[port][0]))
        except OSError:
            pass  # nobody is there, or there is no room: as on a wire

    def frame(self, port, frame):
        if len(frame) < 14 or random.random() < self.lost[port]:
            return
        self.frames_in[port] += 1
        now = time.time()
        self.pcap.write(struct.pack("<IIII", int(now), int(now % 1 * 1e6), len(frame), len(frame)) + frame)
        target, source = frame[:6], frame[6:12]
        if not source[0] & 1:
            if self.macs.get(source, port) != port:
                self.moved[source] = self.moved.get(source, 0) + 1
            self.macs[source] = port
        known = None if target[0] & 1 else self.macs.get(target)
        for other in range(len(self.cables) + 1) if known is None else (known,):
            if other != port:
                self.write(other, frame)

    def stats(self):
        def text(table):
            return {mac.hex(":"): value for mac, value in table.items()}

        return {"macs": text(self.macs), "moved": text(self.moved), "in": self.frames_in, "out": self.frames_out}

    def order(self, words):
        if words[0] == "drop":
            self.lost[words[1]] = words[2]
            return {}
        return self.stats()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", required=True)
    parser.add_argument("--pcap", required=True)
    args = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the test; this ends with its standard input
    cables = [cable() for _ in range(CARDS)]
    user = os.geteuid() != 0
    try:
        own_namespace(user)
        tap = open_tap("tap0", args.address)
    except (OSError, subprocess.CalledProcessError) as e:
        sys.exit(f"lan: {e}")
    pcap = open(args.pcap, "wb")  # closed by the end of this process
    switch = Switch(cables, tap, pcap)
    print(json.dumps([[port for port, _ in cables], user]), flush=True)
    sources = {tap: len(cables), **{near.fileno(): i for i, (_, near) in enumerate(cables)}}
    poll = select.epoll()
    for fd in (0, *sources):
        poll.register(fd, select.EPOLLIN)
    orders = b""
    while True:
        for fd, _ in poll.poll():
            if fd == 0:
                data = os.read(0, 65536)
                if not data:
                    return
                *lines, orders = (orders + data).split(b"\n")
                for line in lines:
                    pcap.flush()
                    print(json.dumps(switch.order(json.loads(line))), flush=True)
                continue
            # A few at a time, so that no port has to wait for another.
            for _ in range(16):
                frame = switch.read(sources[fd])
                if frame is None:
                    break
                switch.frame(sources[fd], frame)


if __name__ == "__main__":
    main()
