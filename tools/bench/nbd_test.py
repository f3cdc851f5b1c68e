#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Godwit's NBD client (build/tests/nbd_real) against unmodified nbdkit, qemu-nbd and nbd-server, side by side: plain, with
TLS, and with the server killed and restarted under load. NBD_SECONDS (default 2): how long each works."""
import concurrent.futures
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import pki
import servers

CLIENT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../build/tests/nbd_real")
SECONDS = int(os.environ.get("NBD_SECONDS", "2"))
ENV = {**os.environ, "UBSAN_OPTIONS": "halt_on_error=1", "ASAN_OPTIONS": "detect_leaks=0"}


class NbdTest(unittest.TestCase):
    def setUp(self):
        self.tmp = tempfile.TemporaryDirectory()
        self.dir = self.tmp.name
        self.pki, self.lock = pki.Pki(os.path.join(self.dir, "pki")), threading.Lock()
        self.identity = (self.pki.ca_crt, *self.pki.issue("a", "host", eku="serverAuth,clientAuth", san="DNS:a"))
        self.addCleanup(self.tmp.cleanup)

    def side_by_side(self, check, *cases):
        """check(*case) for all of them at once: most of their time is waiting."""
        with concurrent.futures.ThreadPoolExecutor(len(cases)) as pool:
            for case, future in [(case, pool.submit(check, *case)) for case in cases]:
                with self.subTest(case):
                    future.result()

    def serve(self, kind, **more):
        more.setdefault("name", f"{kind}{'-tls' if more.get('tls') else ''}")
        image = os.path.join(self.dir, f"{more['name']}.img")
        with open(image, "wb") as f:
            f.truncate(24 << 20)
        with self.lock:  # of the CA
            server = servers.NbdServer(kind, image, self.dir, address="127.0.0.1", **more)
        self.addCleanup(server.kill)
        return server.start()

    def client(self, server, *, export=servers.EXPORT, tls=None, seconds=SECONDS):
        return subprocess.Popen(
            [CLIENT, "127.0.0.1", str(server.port), export, str(seconds), *(tls or ())],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENV,
        )

    def end(self, client, connections=1):
        out, err = client.communicate(timeout=SECONDS + 240)
        self.assertEqual(client.returncode, 0, out + err)
        requests, _, made = map(int, re.search(r"ok (\d+) requests, (\d+) flushes, (\d+) conn", out).groups())
        self.assertGreater(requests, 50)
        self.assertGreaterEqual(made, connections)
        return out

    def test_plain(self):
        self.side_by_side(lambda kind: self.end(self.client(self.serve(kind))), *((kind,) for kind in servers.KINDS))

    def test_tls(self):
        def check(kind):
            self.end(self.client(self.serve(kind, tls=self.pki), tls=self.identity))

        self.side_by_side(check, *((kind,) for kind in servers.KINDS))

    def test_killed_and_restarted(self):
        def check(kind, tls):
            server = self.serve(kind, tls=tls)
            client = self.client(server, tls=tls and self.identity, seconds=3600)
            self.addCleanup(client.kill)
            self.assertIn("up", client.stdout.readline())
            for _ in range(3):
                time.sleep(0.5)
                server.kill()
                time.sleep(0.2)
                server.start()
                self.assertIn("up", client.stdout.readline())
            time.sleep(SECONDS / 2)
            client.terminate()
            self.end(client, 4)

        self.side_by_side(check, *((kind, tls) for kind in servers.KINDS for tls in (None, self.pki)))

    def test_two_clients(self):
        """As in a move: the target is connected while the source works."""

        def check(kind):
            server = self.serve(kind)
            first = self.client(server, seconds=3600)
            self.addCleanup(first.kill)
            self.assertIn("up", first.stdout.readline())
            second = self.client(server, seconds=0)
            self.assertIn("up", second.stdout.readline())
            second.kill()
            second.communicate()
            first.terminate()
            self.end(first)

        self.side_by_side(check, *((kind,) for kind in servers.KINDS))

    def refused(self, text, server, **more):
        client = self.client(server, **more)
        out, err = client.communicate(timeout=240)
        self.assertEqual(client.returncode, 2, out + err)
        self.assertIn(text, err)

    def test_refused(self):
        plain = self.serve("nbdkit", name="p")
        secure = self.serve("qemu-nbd", tls=self.pki, name="s")
        other = pki.Pki(os.path.join(self.dir, "pki2"), "other")
        theirs = (other.ca_crt, *other.issue("a", "host", eku="serverAuth,clientAuth", san="DNS:a"))
        self.refused("it has no export 'none'", plain, export="none")
        self.refused("does not offer TLS", plain, tls=self.identity)
        self.refused("demands TLS", secure)
        self.refused("its certificate is not from this cluster's CA", secure, tls=theirs)
        wrong = servers.NbdServer("nbdkit", plain.image, self.dir, tls=self.pki, address="10.9.9.9", name="w")
        crt, key = self.pki.issue("w", "disk", eku="serverAuth", san="IP:10.9.9.9")
        for source, target in ((crt, "server-cert.pem"), (key, "server-key.pem")):
            with open(source, "rb") as f, open(os.path.join(wrong.certificates, target), "wb") as t:
                t.write(f.read())
        self.addCleanup(wrong.kill)
        self.refused("its certificate is not for this address", wrong.start(), tls=self.identity)


if __name__ == "__main__":
    unittest.main(verbosity=2)
