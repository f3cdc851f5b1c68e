#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""servers.py does what it says: each server, with and without TLS, killed and restarted; and its checks can fail."""
import os
import re
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import bench
import pki
import servers
from servers import KINDS, NbdServer

SIZE = 8 << 20


def qemu_io(server, *commands, identity=None):
    """Another client's view: (worked, what qemu-io said)."""
    image = f"driver=nbd,host=127.0.0.1,port={server.port},export={servers.EXPORT}"
    tls = []
    if identity:
        tls = ["--object", f"tls-creds-x509,id=tls,endpoint=client,verify-peer=on,dir={identity}"]
        image += ",tls-creds=tls"
    args = [x for c in commands for x in ("-c", c)]
    done = subprocess.run(
        ["qemu-io", "-t", "writeback", *tls, *args, "--image-opts", image], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    text = done.stdout.decode(errors="replace")
    return done.returncode == 0 and "failed" not in text and "error" not in text.lower(), text


class Servers(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.dir = folder.name
        self.image = os.path.join(self.dir, "disk.img")
        with open(self.image, "wb") as f:
            f.truncate(SIZE)

    def identity(self, authority, folder="client"):
        """A client's certificate where qemu looks for it."""
        crt, key = authority.issue("someone", "host")
        home = os.path.join(self.dir, folder)
        os.makedirs(home)
        for source, target in ((self.pki.ca_crt, "ca-cert"), (crt, "client-cert"), (key, "client-key")):
            os.symlink(source, os.path.join(home, target + ".pem"))
        return home

    def serve(self, *args, **options):
        server = NbdServer(*args, self.dir, **options)
        self.addCleanup(server.kill)
        return server.start()

    def wait_until(self, check, seconds=60):
        deadline = time.monotonic() + seconds
        while not check():
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.02)

    def test_killed_and_restarted(self):
        for kind in KINDS:
            with self.subTest(kind):
                server = self.serve(kind, self.image)
                worked, text = qemu_io(server, "write -P 0x5a 4096 8192", "flush", "discard 1M 1M")
                self.assertTrue(worked, text)
                server.kill()
                self.assertFalse(qemu_io(server, "read 0 512")[0])
                server.start()
                worked, text = qemu_io(server, "read -P 0x5a 4096 8192", "read -P 0 12288 4096", "write -P 0 0 64k")
                self.assertTrue(worked, text)
                server.stop()
                server.stop()

    def test_tls(self):
        self.pki = pki.Pki(os.path.join(self.dir, "pki"))
        mine = self.identity(self.pki)
        others = self.identity(pki.Pki(os.path.join(self.dir, "pki2"), "other"), "stranger")
        for kind in KINDS:
            with self.subTest(kind):
                server = self.serve(kind, self.image, tls=self.pki, address="127.0.0.1")
                self.assertTrue(server.uri().startswith("nbds://127.0.0.1:"))
                worked, text = qemu_io(server, "write -P 0x77 0 4096", "flush", "read -P 0x77 0 4096", identity=mine)
                self.assertTrue(worked, text)
                self.assertFalse(qemu_io(server, "read 0 512")[0], "without TLS")
                self.assertFalse(qemu_io(server, "read 0 512", identity=others)[0], "with a stranger's certificate")
                server.stop()

    def test_read_only(self):
        for kind in KINDS:
            with self.subTest(kind):
                server = self.serve(kind, self.image, read_only=True)
                self.assertTrue(qemu_io(server, "read -r 0 512")[0] or qemu_io(server, "read 0 512")[0] is False)
                self.assertFalse(qemu_io(server, "write 0 512")[0])
                server.stop()

    def test_volatile(self):
        """What was flushed survives, what was not is lost."""
        log = os.path.join(self.dir, "requests")
        server = self.serve("nbdkit", self.image, volatile=True, log=log)
        image = f"driver=nbd,host=127.0.0.1,port={server.port},export={servers.EXPORT}"
        commands = ("write -P 1 0 64k", "flush", "write -P 2 64k 64k", "sleep 3600000")
        client = subprocess.Popen(
            ["qemu-io", "-t", "writeback", *(x for c in commands for x in ("-c", c)), "--image-opts", image],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        self.addCleanup(client.wait)
        self.addCleanup(client.kill)

        def written():
            """Whether the last write was answered: it is in the cache then, and does not come to the disk."""
            with open(log, encoding="ascii") as f:
                text = f.read()
            last = re.search(r"\bWrite id=(\d+) offset=0x10000 .*\n", text)
            return last and re.search(rf"\bWrite id={last.group(1)} return=0\n", text[last.end() :])

        self.wait_until(written)
        server.kill()
        with open(self.image, "rb") as f:
            self.assertEqual(f.read(131072), b"\1" * 65536 + b"\0" * 65536)

    def test_log(self):
        log = os.path.join(self.dir, "requests")
        server = self.serve("nbdkit", self.image, log=log)
        qemu_io(server, "write -P 1 512 512", "flush")
        server.stop()
        with open(log, encoding="ascii") as f:
            text = f.read()
        self.assertIn("offset=0x200 count=0x200", text)
        self.assertIn("Flush", text)

    def test_freeze(self):
        server = self.serve("nbdkit", self.image)
        server.freeze()
        self.assertFalse(server._answers())
        server.thaw()
        self.wait_until(server._answers)
        server.freeze()
        server.stop()

    def test_refused(self):
        with self.assertRaises(bench.BenchError):
            NbdServer("nbdkit", os.path.join(self.dir, "none"), self.dir).start()
        with self.assertRaises(bench.BenchError):
            NbdServer("qemu-nbd", self.image, self.dir, volatile=True)


class Ports(unittest.TestCase):
    def test_reserved(self):
        """A port that was given out is nobody else's: no other process's of the bench, and no connection's own."""
        code = "import bench; print(*(bench.free_port() for _ in range(300)), flush=True); import sys; sys.stdin.read()"
        with subprocess.Popen(
            [sys.executable, "-c", code], cwd=os.path.dirname(os.path.abspath(__file__)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as other:
            theirs = set(map(int, other.stdout.readline().split()))
            ours = {bench.free_port() for _ in range(300)}
            other.stdin.close()
        self.assertEqual((len(theirs), len(ours), theirs & ours), (300, 300, set()))
        with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as f:
            low, high = map(int, f.read().split())
        if low >= 12000:
            self.assertFalse([port for port in theirs | ours if low <= port <= high])

    def test_used_by_one_that_is_dying(self):
        """A server waits for its port."""
        with tempfile.TemporaryDirectory() as folder:
            image = os.path.join(folder, "disk.img")
            with open(image, "wb") as f:
                f.truncate(SIZE)
            server = NbdServer("nbdkit", image, folder)
            self.addCleanup(server.kill)
            last = socket.create_server(("127.0.0.1", server.port))
            threading.Timer(0.5, last.close).start()
            server.start()
            server.kill()


class Checks(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.dir = folder.name
        self.image, self.db = os.path.join(self.dir, "fs.img"), os.path.join(self.dir, "test.db")
        database = sqlite3.connect(self.db)
        database.execute("CREATE TABLE t(n INTEGER PRIMARY KEY, mix TEXT NOT NULL, pad BLOB)")
        for n in range(1, 51):
            database.execute("INSERT INTO t VALUES(?, ?, randomblob(600))", (n, f"{servers.mix(n):016x}"))
        database.commit()
        database.close()
        with open(self.image, "wb") as f:
            f.truncate(SIZE)
        self.tool("mke2fs", "-q", "-t", "ext4", "-F", self.image)

    def tool(self, *command):
        code, text = servers._run(*command)
        self.assertEqual(code, 0, text)

    def put(self):
        self.tool("debugfs", "-w", "-R", f"write {self.db} /test.db", self.image)

    def test_good(self):
        self.put()
        servers.check_filesystem(self.image)
        self.assertEqual(servers.check_transactions(self.image, 50, "/test.db"), 50)
        self.assertEqual(servers.check_transactions(self.image, 49, "/test.db"), 50)
        servers.check_filesystem(self.image, unmounted=False)

    def refused(self, *args):
        with self.assertRaises(AssertionError):
            servers.check_transactions(self.image, *args)

    def test_missing(self):
        self.put()
        self.refused(51, "/test.db")
        self.refused(50, "/other.db")

    def change(self, statement):
        database = sqlite3.connect(self.db)
        database.execute(statement)
        database.commit()
        database.close()
        self.put()
        self.refused(1, "/test.db")

    def test_hole(self):
        self.change("DELETE FROM t WHERE n = 20")

    def test_wrong_row(self):
        self.change("UPDATE t SET mix = 'x' WHERE n = 20")

    def test_broken_database(self):
        with open(self.db, "r+b") as f:
            f.seek(4096 * 3)
            f.write(b"\xff" * 4096)
        self.put()
        with self.assertRaises((AssertionError, sqlite3.DatabaseError)):
            servers.check_transactions(self.image, 1, "/test.db")

    def test_broken_filesystem(self):
        self.put()
        self.tool("debugfs", "-w", "-R", "clri /test.db", self.image)
        with self.assertRaises(AssertionError):
            servers.check_filesystem(self.image)


if __name__ == "__main__":
    unittest.main()
