#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""lanclient.py against servers that do right, and against such as do each thing wrong that it is to notice."""
import os
import socket
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lanclient import LAP, Client, lap_of


class Server:
    """Serves one connection on a free loopback port."""

    def __init__(self, serve):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port, self.serve = self.listener.getsockname()[1], serve
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        connection, _ = self.listener.accept()
        self.listener.close()
        with connection:
            try:
                self.serve(connection)
            except OSError:
                pass  # the client has seen enough


def stream(connection, change=None, pause_at=None, limit=1 << 30):
    """The stream of services.c; change(offset, bytes) may spoil it."""
    seed, _ = connection.recv(100).split()
    lap, sent = bytearray(lap_of(int(seed))), 0
    while sent < limit:
        number, at = divmod(sent, LAP)
        lap[:8] = number.to_bytes(8, "little")
        piece = bytes(lap[at : at + 5000])
        if pause_at and sent <= pause_at < sent + len(piece):
            time.sleep(2)  # longer than a client that is kept from its CPU takes for what it has not read yet
        connection.sendall(change(sent, piece) if change else piece)
        sent += len(piece)


def echo(connection):
    while data := connection.recv(4096):
        connection.sendall(data)


class Clients(unittest.TestCase):
    def client(self, mode, serve, *options):
        client = Client([], mode, "127.0.0.1", "--port", Server(serve).port, *options)
        self.addCleanup(client.kill)
        return client

    def wrong(self, text, *args):
        client = self.client(*args)
        self.assertIn(text, client.wait_end().get("error", "nothing"))
        with self.assertRaises(AssertionError):
            client.finish()

    def test_stream(self):
        began = time.monotonic()
        client = self.client("stream", lambda c: stream(c, pause_at=3 * LAP))
        client.wait_connected()
        client.wait(lambda e: e["event"] == "progress" and e["bytes"] > 4 * LAP, 180, "stream after the pause")
        end = client.finish()
        self.assertGreater(end["bytes"], 4 * LAP)
        self.assertTrue(0.4 < client.longest_gap() < time.monotonic() - began, client.longest_gap())
        self.assertEqual(round(client.longest_gap(), 3), round(end["longest_gap"], 3))
        self.assertLess(client.longest_gap(time.monotonic()), 0.1)

    def test_stream_wrong(self):
        def flip(offset, data):
            return data[:77] + bytes([data[77] ^ 1]) + data[78:] if offset > 10 * LAP else data

        def drop(offset, data):
            return data[1:] if offset // LAP == 5 else data

        def repeat(offset, data):
            return data + data if offset // LAP == 5 else data

        first = lap_of(1)
        self.wrong("of the stream is", "stream", lambda c: stream(c, flip))
        self.wrong("of the stream is", "stream", lambda c: stream(c, drop))
        self.wrong("of the stream is", "stream", lambda c: stream(c, repeat))
        # A lap that comes twice is the right bytes but for its number.
        self.wrong(f"byte {LAP} of", "stream", lambda c: c.sendall((bytes(8) + first[8:]) * 2))
        self.wrong("closed by the guest", "stream", lambda c: stream(c, limit=LAP))

    def test_stall(self):
        self.wrong("nothing came for", "stream", lambda c: time.sleep(300), "--stall", "1")

    def test_echo(self):
        client = self.client("echo", echo, "--period", "1")
        client.wait(lambda e: e.get("requests", 0) > 50, 30, "fifty answers")
        end = client.finish()
        self.assertGreater(end["requests"], 50)
        self.assertLessEqual(end["median_ms"], end["p99_ms"])
        self.assertLessEqual(end["p99_ms"], end["max_ms"])

    def test_echo_wrong(self):
        self.wrong("answered with others", "echo", lambda c: c.sendall(bytes(x ^ 1 for x in c.recv(4096))) or echo(c))

    def test_transactions(self):
        def serve(connection):
            for number in range(7, 100000):
                connection.sendall(b"%d\n" % number)
                time.sleep(0.01)

        client = self.client("tx", serve)
        client.wait(lambda e: e.get("last", 0) > 50, 30, "transactions")
        end = client.finish()
        self.assertEqual(end["first"], 7)
        self.assertGreater(end["last"], 50)

    def test_transactions_wrong(self):
        self.wrong("acknowledged after", "tx", lambda c: c.sendall(b"1\n2\n4\n") or time.sleep(300))
        self.wrong("acknowledged after", "tx", lambda c: c.sendall(b"1\n2\n2\n") or time.sleep(300))

    def test_banner(self):
        client = self.client("banner", lambda c: c.sendall(b"SSH-2.0-x\r\n") or time.sleep(300))
        self.assertEqual(client.wait_end()["banner"], "SSH-2.0-x")
        self.wrong("not an SSH server", "banner", lambda c: c.sendall(b"220 hello\r\n") or time.sleep(300))

    def test_nobody(self):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))  # ours, and nobody listens
            client = Client([], "echo", "127.0.0.1", "--port", s.getsockname()[1], "--connect", "0.5")
            self.assertIn("no connection", client.wait_end()["error"])
            client.kill()


if __name__ == "__main__":
    unittest.main()
