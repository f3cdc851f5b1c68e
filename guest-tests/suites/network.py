# SPDX-License-Identifier: MIT
"""A guest with a network card on the bench's LAN, and moves of it while a client talks to it."""
import os
import re
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import lan as lan_module
from lan import Lan
from lanclient import Client
from move import check_beats, wait_beats
from pair import GUESTS, TOP, Pair, guest, images, wait_until
from runner import test

FILES = {
    "vmlinuz": os.path.join(TOP, "build", "linux", "vmlinuz"),
    "initrd-net.cpio": os.path.join(GUESTS, "initrd-net.cpio"),
}
ADDRESS = "10.77.0.2"
WEB = f"""
[guest web]
memory=96M
kernel=vmlinuz
initrd=initrd-net.cpio
cmdline=console=ttyS0 cryptomgr.notests hb.pattern_mb=8 hb.dirty_set_mb=8 lan={ADDRESS}/24
autostart=yes
console=serial
nic=lan
"""
SWITCH = "[switch lan]\nuplink=1\n"


def announced(lan, port, since):
    """What the guest's new place said about it: the kinds of announcement."""
    kinds = set()
    for t, name, frame in list(lan.recording):
        if t < since or name != str(port):
            continue
        if frame[12:14] == b"\x80\x35":
            kinds.add("RARP")
        if frame[12:14] == b"\x08\x06" and frame[28:32] == frame[38:42] == bytes(map(int, ADDRESS.split("."))):
            kinds.add("ARP")
        if frame[:6] == b"\x33\x33\0\0\0\x01" and frame[12:14] == b"\x86\xdd" and frame[54] == 136:
            kinds.add("NA")
    return kinds


def switch(pair, host):
    return next(s for s in pair.q[host].call("query-switches") if s["name"] == "lan")


def move(pair, client, to):
    """One move with a client talking all the time; returns how long it heard nothing."""
    since = time.monotonic()
    info = pair.move("web", to, verify="fold", downtime_limit=2000)
    client.wait_progress(60)
    wait_beats(pair, to, 3)
    print(f"to {to}: down {info['downtime-us'] / 1000:.0f} ms, longest silence {client.longest_gap(since):.2f} s", flush=True)


@test(timeout=600, cores=2)
def network_moves(run):
    """A TCP connection outlives moves; the network is told, and what it sends to the wrong host follows the guest."""
    with Lan(run.dir) as lan:
        dmz = "[switch dmz]\n" + guest("lone", "dirty", "mb=1 rate=1", more="nic=dmz\n")
        pair = Pair(
            run,
            {"a": SWITCH + dmz + WEB, "b": SWITCH},
            {**FILES, **images("dirty")},
            {name: {"lan": lan.port(name)} for name in "ab"},
        )
        mac = pair.hosts["a"].wait_for(r"^web\| LAN (\S+)$", timeout=240).group(1)
        wait_beats(pair, "a", 3)
        assert pair.q["a"].guest("web")["nics"] == 1
        assert None not in lan.ping(ADDRESS, 5, wait=30)
        client = Client(lan.enter, "echo", ADDRESS)
        client.wait_connected()
        client.wait_progress()
        assert lan.where(mac) == "a"

        # Where its network is not, it does not go.
        pair.migrate("lone", "b")
        info = pair.wait_moved("lone", "a")
        assert info["status"] == "failed" and "switch dmz, which this host does not have" in info["error-desc"], info

        since = time.monotonic()
        move(pair, client, "b")
        assert lan.where(mac) == "b"
        assert announced(lan, "b", since) == {"RARP", "ARP", "NA"}, announced(lan, "b", since)
        assert None not in lan.ping(ADDRESS, 3, wait=30)

        # The network is slow to learn: for a while everything still goes to b.
        lan.stuck = True
        # Something new all the time: after a long freeze the client's TCP is silent for longer than b forwards.
        with subprocess.Popen(
            [*lan.enter, sys.executable, lan_module.__file__, "ping", ADDRESS, "--count", "100000", "--wait", "0.1"],
            stdout=subprocess.DEVNULL,
        ) as pings:
            try:
                pair.move("web", "a", verify="fold", downtime_limit=2000)
                wait_until(lambda: switch(pair, "b")["forwarded"], "frames are forwarded by b")
            finally:
                pings.kill()
        lan.stuck = False
        wait_until(lambda: lan.where(mac) == "a", "the LAN learns where the guest is")
        client.wait_progress(60)
        wait_beats(pair, "a", 3)
        client.wait(lambda e: e.get("requests", 0) > 20, 180, "answers")
        facts = client.finish()
        check_beats(pair)
        here, there = switch(pair, "a"), switch(pair, "b")
        assert (here["ports"], there["ports"]) == (1, 0) and here["frames-in"] and here["frames-out"], (here, there)
        print(f"{facts['requests']} requests, {there['forwarded']} frames forwarded, LAN: {dict(lan.errors)}")
        for host in pair.hosts.values():
            assert not re.search(r"needs a reset by its driver", host.serial()), host.name
            host.stop()
