# SPDX-License-Identifier: MIT
"""Disks: RAM, image and NBD, alone and in moves, with servers that die."""
import os
import re
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import lib
from lib import conf
from pair import Pair, guest, images, wait_until
from runner import test
from servers import NbdServer


def serve(run, name, kind, mib=4, **more):
    image = os.path.join(run.dir, name + ".img")
    with open(image, "wb") as f:
        f.truncate(mib << 20)
    return NbdServer(kind, image, run.dir, name=name, **more).start()


def rounds(pair):
    """How far the guest is; it has not said that anything is wrong."""
    done = 0
    for host, lines in pair.console("db").items():
        for line in lines:
            assert "FAIL" not in line, f"db on {host}: {line}"
            found = re.match(r"DISK round=(\d+)$", line)
            if found:
                done = max(done, int(found.group(1)))
    return done


def goes_on(pair, more=100):
    had = rounds(pair)
    wait_until(lambda: rounds(pair) >= had + more, f"guest db goes on after round {had}", 120)


@test(timeout=150)
def disks_self_migrate(run):
    """A guest with a RAM disk and two NBD disks, one with TLS, is saved and loaded again and again."""
    plain = serve(run, "plain", "nbdkit")
    secure = serve(run, "secure", "qemu-nbd", tls=run.pki)
    text = guest("db", "disk", "disks=3 loops=300", more=f"debug-exit=yes\ndisk=ram:4M\ndisk={plain.uri()}\ndisk={secure.uri()}\n")
    text = conf(text, more="[debug]\nself-migrate-exits=50\n\n")
    host = run.host("a", run.esp("a", text, images("disk")))  # not ahead of its servers
    host.wait_for(r"nbds://\S+: connected, 4 MiB, TLS", 60)
    host.wait_for(r"^db\| GUEST (PASS|FAIL)", 90)
    assert "GUEST PASS" in host.serial(), host.serial()[-2000:]
    entry = lib.Operator(run, host).control().guests()["db"]
    assert entry["self-migrations"] > 10, entry


@test(timeout=400, cores=2)
def disks_move(run):
    """There and back with three disks under load. A server that is killed and restarted, whenever, costs time and no data; one
    that is away when a move is to begin makes the target refuse it."""
    plain = serve(run, "plain", "nbdkit")
    secure = serve(run, "secure", "qemu-nbd", tls=run.pki)
    more = f"disk=ram:4M\ndisk={plain.uri()}\ndisk={secure.uri()}\n"
    pair = Pair(run, {"a": guest("db", "disk", "disks=3 loops=0 paced", more=more)}, images("disk"))
    pair.hosts["a"].wait_for(r"^db\| DISK round=100$", timeout=120)
    pair.move("db", "b")
    goes_on(pair)

    # Killed and restarted again and again while it moves.
    stop = threading.Event()

    def trouble():
        while True:
            for server in (plain, secure):
                if stop.wait(4):
                    return
                server.kill()
                time.sleep(0.3)
                server.start()

    killer = threading.Thread(target=trouble)
    killer.start()
    try:
        ends = []
        for _ in range(3):
            at = "b" if pair.q["b"].status("db") == "running" else "a"
            to = "a" if at == "b" else "b"
            pair.migrate("db", to)
            info = pair.wait_moved("db", at)
            ends.append(info["status"])
            if info["status"] != "completed":
                assert "disk" in info["error-desc"], info
            pair.check_at("db", to if info["status"] == "completed" else at)
            time.sleep(1)
    finally:
        stop.set()
        killer.join()
        for server in (plain, secure):  # a server ends with the thread that started it
            server.kill()
            server.start()
    print("moves among dying servers:", *ends)
    goes_on(pair)

    # Away: the guest stays, and goes on when the server is back.
    at = "b" if pair.q["b"].status("db") == "running" else "a"
    to = "a" if at == "b" else "b"
    plain.kill()
    pair.migrate("db", to)
    info = pair.wait_moved("db", at)
    assert info["status"] == "failed" and "disk" in info["error-desc"], info
    pair.check_at("db", at)
    plain.start()
    goes_on(pair)
    pair.move("db", to)
    goes_on(pair)
