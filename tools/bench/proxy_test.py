#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Tests of proxy.py: what a link does to real sockets."""
import os
import socket
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from proxy import Proxy


class Wire:
    """A connected pair through a proxy: near connects, far is what the target accepted."""

    def __init__(self):
        listener = socket.create_server(("127.0.0.1", 0))
        self.link = Proxy(listener.getsockname())
        self.listener, self.open = listener, []
        self.near, self.far = self.connect()

    def connect(self):
        near = socket.create_connection(("127.0.0.1", self.link.port))
        far, _ = self.listener.accept()
        for s in (near, far):
            s.settimeout(60)
            self.open.append(s)
        return near, far

    def close(self):
        self.link.close()
        for s in [*self.open, self.listener]:
            s.close()


def receive(sock, count):
    data = b""
    while len(data) < count:
        part = sock.recv(min(65536, count - len(data)))
        if not part:
            break
        data += part
    return data


class ProxyTest(unittest.TestCase):
    def setUp(self):
        self.wire = Wire()
        self.addCleanup(self.wire.close)
        self.link, self.near, self.far = self.wire.link, self.wire.near, self.wire.far

    def assert_silent(self, sock, seconds=0.3):
        sock.settimeout(seconds)
        with self.assertRaises(TimeoutError):
            sock.recv(1)
        sock.settimeout(60)

    def assert_reset(self, sock):
        with self.assertRaises(ConnectionResetError):
            while True:
                if not sock.recv(65536):
                    self.fail("ended with FIN, not RST")

    def test_passes_bytes_both_ways_and_counts(self):
        self.near.sendall(b"hello")
        self.assertEqual(receive(self.far, 5), b"hello")
        self.far.sendall(b"worldly")
        self.assertEqual(receive(self.near, 7), b"worldly")
        self.assertEqual(self.link.bytes, {"to": 5, "back": 7})

    def test_passes_end_of_stream_one_way(self):
        self.near.sendall(b"x")
        self.near.shutdown(socket.SHUT_WR)
        self.assertEqual(receive(self.far, 2), b"x")
        self.far.sendall(b"still")
        self.assertEqual(receive(self.near, 5), b"still")

    def seconds(self, total, block=1 << 20):
        """How long so many bytes take this time; on a busy machine any one time may be long."""
        start = time.monotonic()
        thread = threading.Thread(target=lambda: [self.near.sendall(bytes(block)) for _ in range(total // block)])
        thread.start()
        got, buffer = 0, bytearray(1 << 20)
        while got < total:
            got += self.far.recv_into(buffer)
        thread.join()
        return time.monotonic() - start

    def test_speed(self):
        # Far below what a quiet machine does (hundreds): this catches only a link that became the bottleneck.
        for _ in range(8):
            speed = (256 << 20) / self.seconds(256 << 20) / 1e6
            print(f"link: {speed:.0f} MB/s", flush=True)
            if speed > 30:
                return
        self.fail("the link is slow each time")

    def test_rate(self):
        self.link.rate = 2_000_000
        for _ in range(8):
            seconds = self.seconds(1_000_000, 1_000_000)
            self.assertGreater(seconds, 0.4)
            if seconds < 2:
                return
        self.fail("the link is slower than its rate each time")

    def test_delay(self):
        self.link.delay = 0.2
        start = time.monotonic()
        self.near.sendall(b"ping")
        receive(self.far, 4)
        self.assertGreaterEqual(time.monotonic() - start, 0.19)

    def test_cut_resets_and_refuses_until_healed(self):
        self.link.cut()
        self.assert_reset(self.near)
        self.assert_reset(self.far)
        with self.assertRaises(OSError):
            with socket.create_connection(("127.0.0.1", self.link.port)) as again:
                again.settimeout(60)
                again.recv(1)
        self.link.heal()
        near, far = self.wire.connect()
        near.sendall(b"back")
        self.assertEqual(receive(far, 4), b"back")

    def test_stall_loses_nothing(self):
        self.near.sendall(b"a")
        receive(self.far, 1)
        self.link.stall()
        self.near.sendall(b"bc")
        self.assert_silent(self.far)
        self.link.heal()
        self.assertEqual(receive(self.far, 2), b"bc")

    def test_stall_of_one_direction(self):
        self.link.stall("to")
        self.near.sendall(b"a")
        self.far.sendall(b"b")
        self.assertEqual(receive(self.near, 1), b"b")
        self.assert_silent(self.far)

    def test_half_cut_swallows_and_heal_resets(self):
        self.link.half_cut("to")
        self.near.sendall(b"lost")
        self.far.sendall(b"kept")
        self.assertEqual(receive(self.near, 4), b"kept")
        self.assert_silent(self.far)
        self.assertEqual(self.link.bytes["to"], 0)
        deadline = time.monotonic() + 60
        while not any(pump.lost for connection in list(self.link._open) for pump in connection.pumps.values()):
            self.assertLess(time.monotonic(), deadline, "nothing was lost")
            time.sleep(0.01)
        self.link.heal()
        self.assert_reset(self.far)

    def test_cut_after_exact_count(self):
        self.link.cut_after("to", 100_000)

        def send():
            try:
                self.near.sendall(bytes(300_000))
            except OSError:
                pass

        threading.Thread(target=send, daemon=True).start()
        with self.assertRaises(ConnectionResetError):
            receive(self.far, 300_000)
        self.assertEqual(self.link.bytes["to"], 100_000)

    def test_stall_after_exact_count(self):
        self.link.cut_after("to", 1000, action="stall")
        self.near.sendall(bytes(3000))
        self.assertEqual(len(receive(self.far, 1000)), 1000)
        self.assert_silent(self.far)
        self.link.heal()
        self.assertEqual(len(receive(self.far, 2000)), 2000)

    def test_half_cut_after_exact_count(self):
        self.link.cut_after("back", 10, action="half_cut")
        self.far.sendall(bytes(30))
        self.assertEqual(len(receive(self.near, 10)), 10)
        self.assert_silent(self.near)
        self.near.sendall(b"x")
        self.assertEqual(receive(self.far, 1), b"x")

    def test_wrong_direction_is_refused(self):
        with self.assertRaises(ValueError):
            self.link.stall("sideways")


if __name__ == "__main__":
    unittest.main()
