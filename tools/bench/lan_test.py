#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""lan.py with cards played by hand: learning, moving, flooding, a pulled cable, and the TAP behind which clients run."""
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lan import Lan

ALL = b"\xff" * 6
ONE, TWO = b"\x52\x54\0\0\0\1", b"\x52\x54\0\0\0\2"


def frame(target, source, text):
    return (target + source + b"\x88\xb5" + text).ljust(60, b"\0")


class Card:
    """An emulated card's end of a cable."""

    def __init__(self, port):
        self.port, self.sock = port, socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", port))

    def send(self, data):
        self.sock.sendto(data, ("127.0.0.1", self.port + 1))

    def got(self, timeout=0.3):
        """The texts of our own frames that came in until nothing comes any more."""
        texts = []
        self.sock.settimeout(timeout)
        try:
            while True:
                data = self.sock.recv(2000)
                if data[12:14] == b"\x88\xb5":  # the kernel sends its own, too
                    texts.append(data[14:].rstrip(b"\0"))
        except TimeoutError:
            return texts

    def answer_arp(self, mac, ip, seconds=5):
        """Be the machine that has that address, until somebody asks."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.sock.settimeout(deadline - time.monotonic())
            data = self.sock.recv(2000)
            if data[12:14] == b"\x08\x06" and data[20:22] == b"\0\1" and data[38:42] == ip:
                answer = b"\0\1\x08\0\6\4\0\2" + mac + ip + data[22:32]
                self.send((data[6:12] + mac + b"\x08\x06" + answer).ljust(60, b"\0"))
                return True
        return False


class Lans(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.dir = folder.name
        self.lan = Lan(self.dir)
        self.addCleanup(self.lan.close)
        self.cards = [Card(self.lan.port(i)) for i in range(3)]
        for card in self.cards:
            self.addCleanup(card.sock.close)

    def test_switch(self):
        a, b, c = self.cards
        a.send(frame(ALL, ONE, b"hello"))
        self.assertEqual((b.got(), c.got(), a.got()), ([b"hello"], [b"hello"], []))
        b.send(frame(ONE, TWO, b"for one"))
        self.assertEqual((a.got(), c.got()), ([b"for one"], []))
        # One moves to the third port; until it speaks, what is for it goes where it was.
        b.send(frame(ONE, TWO, b"lost"))
        self.assertEqual((a.got(), c.got()), ([b"lost"], []))
        c.send(frame(ALL, ONE, b"here now"))
        b.send(frame(ONE, TWO, b"found"))
        self.assertEqual((a.got(), c.got()), ([b"here now"], [b"found"]))
        stats = self.lan.stats()
        self.assertEqual(stats["macs"][ONE.hex(":")], 2)
        self.assertEqual(stats["moved"], {ONE.hex(":"): 1})

    def test_cut(self):
        a, b, _ = self.cards
        self.lan.cut(0)
        a.send(frame(ALL, ONE, b"out"))
        b.send(frame(ALL, TWO, b"in"))
        self.assertEqual((a.got(), b.got()), ([], []))
        self.lan.heal(0)
        a.send(frame(ALL, ONE, b"out"))
        self.assertEqual(b.got(), [b"out"])
        self.lan.drop(0, 0.5)
        for _ in range(200):
            a.send(frame(ALL, ONE, b"x"))
        self.assertTrue(40 < len(b.got()) < 160)

    def test_tap(self):
        """A program in the LAN's namespace reaches a card, and the capture has it."""
        done = subprocess.Popen([*self.lan.enter, sys.executable, "-c", SEND])
        self.assertTrue(self.cards[1].answer_arp(TWO, bytes((10, 77, 0, 2))))
        self.cards[1].sock.settimeout(5)
        while b"from the tap" not in (data := self.cards[1].sock.recv(2000)):
            pass
        self.assertEqual(data[:6], TWO)
        self.assertEqual(done.wait(5), 0)
        self.lan.stats()
        with open(os.path.join(self.dir, "lan.pcap"), "rb") as f:
            text = f.read()
        self.assertEqual(struct.unpack("<I", text[:4])[0], 0xA1B2C3D4)
        self.assertIn(b"from the tap", text)

    def test_two(self):
        """Two LANs do not meet."""
        with Lan(self.dir, "other") as other:
            card = Card(other.port(0))
            self.cards[0].send(frame(ALL, ONE, b"here"))
            card.send(frame(ALL, ONE, b"there"))
            self.assertEqual(self.cards[1].got(), [b"here"])
            card.sock.close()


SEND = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.sendto(b"from the tap", ("10.77.0.2", 9))
"""

if __name__ == "__main__":
    if os.geteuid() and not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        sys.exit("lan_test: needs root, or a /dev/net/tun for everybody")
    unittest.main()
