#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The guests' LAN: an Ethernet switch in this process that joins machines and a Linux of its own network namespace.

    lan = Lan(directory)                               # directory: where lan.pcap is left, None: nowhere
    a = Host("a", esp, directory, lan=lan.port("a"))   # card 1 of the machine
    b = Host("b", esp, directory, lan=lan.port("b"))
    subprocess.run([*lan.enter, "some", "client"])     # as the Linux peer, 10.77.0.1 and fd77::1
    print(lan.ping("10.77.0.2"))                       # seconds, or None
    lan.port("a").cut(); lan.port("a").heal()
    lan.loss = 0.1; lan.delay = 0.05                   # of all frames
    lan.stuck = True                                   # it learns no addresses any more, not even announced ones
    print(lan.port("a").received, lan.port("a").sent)
    lan.close()

Every port is a TAP device of this namespace (the bench's own, see bench.enter_netns), so this wants root or a user
namespace. Like a real switch it sends a frame where it last saw the destination, else everywhere.

    tools/bench/lan.py ping IP [--count N]             # from inside lan.enter: what lan.ping() runs
"""
import argparse
import collections
import fcntl
import heapq
import os
import random
import select
import socket
import struct
import subprocess
import sys
import threading
import time

import bench

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 2, 0x1000
ETH_P_ALL = 3
SOL_PACKET, PACKET_OUTGOING = 263, 4
FRAME_MAX = 1518
KEEP = 5000  # frames
_serial = 0


def _ip(*args, prefix=()):
    done = subprocess.run([*prefix, "ip", *args], capture_output=True, text=True, check=False)
    if done.returncode:
        raise bench.BenchError(
            f"'ip {' '.join(args)}' failed: {done.stderr.strip()} (a LAN wants root, or a user namespace)"
        )


def open_tap(name):
    """A TAP device by name (made if it is not there); its file descriptor, one frame per read and write."""
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TAP | IFF_NO_PI))
    except OSError as e:
        raise bench.BenchError(f"no TAP device {name}: {e} (a LAN wants root, or a user namespace)") from None
    return fd


class Port:
    """One end of the LAN. tap: the device that a machine opens. received, sent, lost: frames, as the switch sees it."""

    def __init__(self, lan, name, tap):
        self.lan, self.name, self.tap = lan, name, tap
        self.received = self.sent = self.lost = 0
        self.is_cut = False

    def cut(self):
        """Pull the cable. The switch forgets what it knew of this side."""
        self.is_cut = True
        self.lan.forget(self)

    def heal(self):
        self.is_cut = False


class _MachinePort(Port):
    """The machine reads and writes the TAP device itself; we are what the kernel sees of it."""

    def __init__(self, lan, name, tap):
        super().__init__(lan, name, tap)
        _ip("tuntap", "add", "dev", tap, "mode", "tap")
        # No IPv6 of this namespace's own: its chatter does not belong on the LAN.
        with open(f"/proc/sys/net/ipv6/conf/{tap}/disable_ipv6", "w", encoding="ascii") as f:
            f.write("1")
        _ip("link", "set", tap, "up")
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self.socket.bind((tap, 0))
        self.socket.setblocking(False)

    def fileno(self):
        return self.socket.fileno()

    def read(self):
        frame, address = self.socket.recvfrom(65536)
        return b"" if address[2] == PACKET_OUTGOING else frame

    def write(self, frame):
        self.socket.send(frame)

    def close(self):
        self.socket.close()
        _ip("link", "delete", self.tap)


class _PeerPort(Port):
    """The other way round: the kernel of the peer's namespace has the device, we read and write it."""

    def __init__(self, lan, name, tap):
        super().__init__(lan, name, tap)
        self.fd = open_tap(tap)

    def fileno(self):
        return self.fd

    def read(self):
        return os.read(self.fd, 65536)

    def write(self, frame):
        os.write(self.fd, frame)

    def close(self):
        os.close(self.fd)


class Lan:
    """The switch, its ports, and the namespace of the Linux peer (lan.enter: a command that leads there)."""

    def __init__(self, directory=None, address="10.77.0.1/24", address6="fd77::1/64"):
        self.loss = self.delay = 0.0
        self.stuck = False
        self.directory = directory
        self.recording = collections.deque(maxlen=KEEP)  # (seconds, name of the port, frame) of all that came in
        self.ports, self.table = {}, {}
        self._lock, self._due, self._order = threading.RLock(), [], 0
        self._wake, self._sleep = os.pipe()[::-1]
        self._stop, self.errors = False, collections.Counter()
        self._holder = subprocess.Popen(
            ["unshare", "-n", "sh", "-c", "echo; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        if not self._holder.stdout.readline():
            raise bench.BenchError("no network namespace for the LAN's peer: it wants root, or a user namespace")
        self.enter = ["nsenter", "--net", "-t", str(self._holder.pid)]
        peer = self._add("peer", _PeerPort)
        _ip("link", "set", peer.tap, "netns", str(self._holder.pid))
        for args in (
            ("link", "set", "lo", "up"),
            ("addr", "add", address, "dev", peer.tap),
            ("addr", "add", address6, "dev", peer.tap, "nodad"),
            ("link", "set", peer.tap, "up"),
        ):
            _ip(*args, prefix=self.enter)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _add(self, name, kind):
        global _serial
        _serial += 1
        port = kind(self, name, f"gw{os.getpid():x}.{_serial}")
        with self._lock:
            self.ports[name] = port
        os.write(self._wake, b".")
        return port

    def port(self, name):
        """The port of a machine (any key), made at first use."""
        return self.ports.get(name) or self._add(name, _MachinePort)

    def forget(self, port=None):
        """Of one side, or of all: the addresses learnt."""
        with self._lock:
            self.table = {mac: p for mac, p in self.table.items() if port and p is not port}

    def where(self, mac):
        """Name of the port behind which that address (text) was seen last, or None."""
        port = self.table.get(bytes.fromhex(mac.replace(":", "")))
        return port and port.name

    def ping(self, ip, count=1, wait=5.0):
        """From the peer. Round-trip times in seconds (None for what was not answered): one, or a list of count > 1."""
        done = subprocess.run(
            [*self.enter, sys.executable, os.path.abspath(__file__), "ping", ip, "--count", str(count), "--wait", str(wait)],
            capture_output=True,
            text=True,
            check=True,
        )
        times = [None if line == "-" else float(line) for line in done.stdout.split()]
        return times if count > 1 else times[0]

    def _send(self, port, frame):
        try:
            port.write(frame)
            port.sent += 1
        except OSError as e:  # the machine is off, or does not read
            port.lost += 1
            self.errors[f"{port.name}: {e.strerror}"] += 1

    def _forward(self, source, frame):
        with self._lock:
            if len(frame) < 14 or len(frame) > FRAME_MAX or source.is_cut:
                return
            source.received += 1
            self.recording.append((time.monotonic(), source.name, frame))
            if not self.stuck:
                self.table[frame[6:12]] = source
            if self.loss and random.random() < self.loss:
                source.lost += 1
                return
            known = self.table.get(frame[:6]) if not frame[0] & 1 else None
            for port in [known] if known else self.ports.values():
                if port is source or port.is_cut:
                    continue
                if self.delay:
                    self._order += 1
                    heapq.heappush(self._due, (time.monotonic() + self.delay, self._order, port, frame))
                else:
                    self._send(port, frame)

    def _run(self):
        while not self._stop:
            with self._lock:
                ports = list(self.ports.values())
                wait = self._due[0][0] - time.monotonic() if self._due else None
            poller = select.poll()
            by_fd = {port.fileno(): port for port in ports}
            for fd in (*by_fd, self._sleep):
                poller.register(fd, select.POLLIN)
            for fd, _ in poller.poll(None if wait is None else max(0, wait * 1000)):
                if fd == self._sleep:
                    os.read(fd, 4096)
                    continue
                try:
                    for _ in range(64):
                        self._forward(by_fd[fd], by_fd[fd].read())
                except BlockingIOError:
                    pass
                except OSError as e:
                    self.errors[f"{by_fd[fd].name}: {e.strerror}"] += 1
            with self._lock:
                while self._due and self._due[0][0] <= time.monotonic():
                    _, _, port, frame = heapq.heappop(self._due)
                    if not port.is_cut:
                        self._send(port, frame)

    def write_pcap(self, path):
        """The last frames, for Wireshark and the like."""
        with open(path, "wb") as f:
            f.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
            for t, _, frame in list(self.recording):
                f.write(struct.pack("<IIII", int(t), int(t % 1 * 1e6), len(frame), len(frame)) + frame)

    def close(self):
        """Everything gone. Machines should be off."""
        if self._stop:
            return
        self._stop = True
        os.write(self._wake, b".")
        self._thread.join()
        if self.directory:
            self.write_pcap(os.path.join(self.directory, "lan.pcap"))
        for port in self.ports.values():
            port.close()
        self._holder.stdin.close()
        self._holder.stdout.close()
        self._holder.wait()
        os.close(self._wake)
        os.close(self._sleep)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _sum16(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ping(ip, count, wait):
    """Prints a round-trip time in seconds a line, "-" for none."""
    s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    for number in range(1, count + 1):
        body = struct.pack("!HH", os.getpid() & 0xFFFF, number) + bytes(range(32))
        request = b"\x08\0" + struct.pack("!H", _sum16(b"\x08\0\0\0" + body)) + body
        start, answer = time.monotonic(), "-"
        s.sendto(request, (ip, 0))
        while answer == "-" and (left := start + wait - time.monotonic()) > 0:
            if select.select([s], [], [], left)[0]:
                packet = s.recv(4096)
                if packet[20:21] == b"\0" and packet[24:] == body:
                    answer = f"{time.monotonic() - start:.6f}"
        print(answer, flush=True)
        if number < count and answer != "-":
            time.sleep(0.05)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["ping"])
    parser.add_argument("ip")
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--wait", type=float, default=5.0)
    args = parser.parse_args()
    ping(args.ip, args.count, args.wait)


if __name__ == "__main__":
    main()
