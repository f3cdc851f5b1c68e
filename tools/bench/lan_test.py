#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""lan.py with machines that are other Linux namespaces behind TAP devices, as an emulator would open them."""
import os
import select
import socket
import subprocess
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import bench
import lan as lan_module
from lan import Lan, open_tap


class Machine:
    """Holds the port's TAP device open like an emulator, and has a Linux behind its network card."""

    def __init__(self, port, address, mac):
        self.holder = subprocess.Popen(
            ["unshare", "-n", "sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6; echo; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.holder.stdout.readline()
        self.enter = ["nsenter", "--net", "-t", str(self.holder.pid)]
        self.outer, card = open_tap(port.tap), "c" + port.tap
        self.inner = open_tap(card)
        lan_module._ip("link", "set", card, "netns", str(self.holder.pid))
        for args in ("link", "set", card, "address", mac), ("addr", "add", address, "dev", card), ("link", "set", card, "up"):
            lan_module._ip(*args, prefix=self.enter)
        self.over = False
        self.thread = threading.Thread(target=self.pump)
        self.thread.start()

    def pump(self):
        ways = {self.outer: self.inner, self.inner: self.outer}
        while not self.over:
            for fd in select.select(list(ways), [], [], 0.05)[0]:
                try:
                    os.write(ways[fd], os.read(fd, 65536))
                except OSError:
                    pass

    def close(self):
        self.over = True
        self.thread.join()
        os.close(self.outer)
        os.close(self.inner)
        self.holder.stdin.close()
        self.holder.stdout.close()
        self.holder.wait()


MAC = "52:54:00:00:00:02"
SERVER = "import socket; s = socket.create_server(('', 7000)); print(flush=True); c = s.accept()[0]\nwhile d := c.recv(65536): c.sendall(d)"
CLIENT = """import os, socket, sys
s = socket.create_connection((sys.argv[1], 7000), 10); data = os.urandom(300000); got = b''
s.settimeout(20)
for i in range(0, len(data), 10000):
    s.sendall(data[i:i + 10000])
    while len(got) < i + 10000: got += s.recv(65536)
assert got == data"""


class LanTest(unittest.TestCase):
    def setUp(self):
        self.lan = Lan()
        self.addCleanup(self.lan.close)

    def machine(self, name, address="10.77.0.2/24", mac=MAC):
        machine = Machine(self.lan.port(name), address, mac)
        self.addCleanup(machine.close)
        return machine

    def test_ping_and_counts(self):
        self.machine("a")
        self.assertIsNotNone(self.lan.ping("10.77.0.2"))
        self.assertIsNone(self.lan.ping("10.77.0.3", wait=0.3))
        self.assertEqual(self.lan.where(MAC), "a")
        self.assertGreaterEqual(self.lan.port("a").received, 2)
        self.assertGreaterEqual(self.lan.port("a").sent, 2)

    def test_tcp(self):
        machine = self.machine("a")
        server = subprocess.Popen([*machine.enter, sys.executable, "-c", SERVER], stdout=subprocess.PIPE)
        server.stdout.readline()
        subprocess.run([*self.lan.enter, sys.executable, "-c", CLIENT, "10.77.0.2"], check=True, timeout=60)
        server.wait(10)
        server.stdout.close()

    def test_between_machines(self):
        a = self.machine("a")
        self.machine("b", "10.77.0.3/24", "52:54:00:00:00:03")
        ping = [*a.enter, sys.executable, lan_module.__file__, "ping", "10.77.0.3", "--wait", "3"]
        self.assertNotEqual(subprocess.run(ping, capture_output=True, text=True, check=True).stdout, "-\n")
        # What is for b alone does not go to the peer.
        before = self.lan.ports["peer"].sent
        subprocess.run(ping, capture_output=True, check=True)
        self.assertEqual(self.lan.ports["peer"].sent, before)

    def test_cut_loss_delay(self):
        self.machine("a")
        self.assertIsNotNone(self.lan.ping("10.77.0.2"))
        self.lan.port("a").cut()
        self.assertIsNone(self.lan.ping("10.77.0.2", wait=0.3))
        self.lan.port("a").heal()
        self.assertIsNotNone(self.lan.ping("10.77.0.2"))
        self.lan.loss = 1.0
        self.assertIsNone(self.lan.ping("10.77.0.2", wait=0.3))
        self.lan.loss, self.lan.delay = 0.0, 0.1
        self.assertGreaterEqual(self.lan.ping("10.77.0.2"), 0.2)

    def test_moves(self):
        """The same address elsewhere: found as soon as it has said a word, and not before."""
        self.machine("a")
        self.assertIsNotNone(self.lan.ping("10.77.0.2"))
        self.lan.port("a").cut()
        self.lan.table[bytes.fromhex(MAC.replace(":", ""))] = self.lan.port("a")
        b = self.machine("b")
        time.sleep(0.3)
        self.lan.stuck = True
        self.lan.table[bytes.fromhex(MAC.replace(":", ""))] = self.lan.port("a")
        self.assertIsNone(self.lan.ping("10.77.0.2", wait=0.3))
        self.lan.stuck = False
        subprocess.run([*b.enter, sys.executable, lan_module.__file__, "ping", "10.77.0.1"], capture_output=True, check=True)
        self.assertEqual(self.lan.where(MAC), "b")
        self.assertIsNotNone(self.lan.ping("10.77.0.2"))

    def test_recording(self):
        self.machine("a")
        self.lan.ping("10.77.0.2")
        kinds = {(name, frame[12:14]) for _, name, frame in self.lan.recording}
        self.assertIn(("peer", b"\x08\0"), kinds)
        self.assertIn(("a", b"\x08\0"), kinds)
        path = os.path.join(bench.BUILD, "lan_test.pcap")
        self.lan.write_pcap(path)
        self.assertGreater(os.path.getsize(path), 200)
        os.unlink(path)

    def test_machine_off(self):
        """Frames for a machine that is not there are lost, and nothing else."""
        self.lan.port("a")
        self.assertIsNone(self.lan.ping("10.77.0.2", wait=0.3))
        self.machine("b")
        self.assertIsNotNone(self.lan.ping("10.77.0.2"))


if __name__ == "__main__":
    bench.enter_netns()
    if os.geteuid():
        print("not root: the LAN's tests are left out")
        sys.exit(0)
    socket.setdefaulttimeout(30)
    unittest.main()
