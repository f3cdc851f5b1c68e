# SPDX-License-Identifier: MIT
"""Moves between two hosts that must not succeed, or only after trouble.

What has to hold in all of them: the guest runs on the source, or runs on the target, or waits and is settled when
the link heals; never on both (the numbers that it prints would come twice), never on none; the text says why; all
memory comes back; both hosts go on, and a normal move works afterwards. Two hosts that mostly wait for each other keep one
CPU busy: so each counts as one.
"""
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import bench
from pair import Pair, Qmp, QmpError, certificate, guest, images, wait_until
from peer import ALPN as MIG
from peer import MAX_PAYLOAD, Conn, Fake, Middle, frame, hello, is_last, text
from pki import Pki
from runner import GODWIT, test

QMP = "godwit-qmp/1"
G = guest("g", "dirty", "mb=1 const-mb=1 rate=2 period-ms=100")


def other(host):
    return "b" if host == "a" else "a"


def say(*words):
    print(*words, flush=True)


class Cases:
    """One case that fails does not hide those after it: `with cases("title"): ...`, and done() at the end."""

    def __init__(self):
        self.title, self.failed = None, []

    def __call__(self, title):
        say(title)
        self.title = title
        return self

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind and issubclass(kind, (AssertionError, QmpError)):
            self.failed.append(self.title)
            traceback.print_exception(kind, value, trace)
            sys.stderr.flush()
            return True
        return False

    def done(self):
        assert not self.failed, "failed: " + "; ".join(self.failed)


class Place:
    """A guest that is sent to and fro, each way through a man in the middle."""

    def __init__(self, pair, name="g", at="a"):
        self.pair, self.name, self.at = pair, name, at
        hosts = pair.hosts
        self.middles = {"a": Middle(pair.run.pki, hosts["b"], hosts["a"]), "b": Middle(pair.run.pki, hosts["a"], hosts["b"])}
        self.move()
        self.move()  # heaps have grown to what moves need
        self.free = {at: pair.free()}
        self.move()
        self.free[self.at] = pair.free()
        self.move()

    @property
    def to(self):
        return other(self.at)

    @property
    def middle(self):
        """That on the way from where the guest is."""
        return self.middles[self.to]

    def begin(self, **arguments):
        self.pair.migrate(self.name, self.to, self.middle.uri, **arguments)

    def ended(self, *statuses):
        return self.pair.wait_moved(self.name, self.at, *([statuses] if statuses else []))

    def move(self, **arguments):
        info = self.pair.move(self.name, self.to, self.middle.uri, **arguments)
        self.at = self.to
        return info

    def stayed(self, pattern, status="failed", epoch=None):
        """The move ended with that text, the guest runs on the source, and all memory is back."""
        info = self.ended()
        if info["status"] == "completed":
            self.at = self.to
        assert info["status"] == status, info
        error = info["error-desc"]
        assert re.search(pattern, error), f"{pattern!r} is not in {error!r}"
        self.pair.check_at(self.name, self.at, epoch=epoch)
        self.pair.check_memory(self.free[self.at])
        say(f"  {info['status']} in {info['phase']}: {error}")
        return info

    def went(self):
        """The move ended well after all."""
        info = self.ended()
        assert info["status"] == "completed", info
        self.at = self.to
        self.pair.check_at(self.name, self.at)
        self.pair.check_memory(self.free[self.at])
        return info


LAST = {"when": is_last}
NOT_LAST = {"when": lambda payload: not is_last(payload)}
# (side, frame, more about which, what becomes of the guest). In the window between COMMIT and COMMITTED it waits.
CUTS = (
    ("S", "HELLO", {}, "stays"),
    ("T", "HELLO", {}, "stays"),
    ("S", "CONFIG", {}, "stays"),
    ("T", "READY", {}, "stays"),
    ("S", "PAGES", {"nth": 5}, "stays"),
    ("S", "ROUND_END", NOT_LAST, "stays"),
    ("T", "ROUND_END", {}, "stays"),
    ("S", "ROUND_END", LAST, "stays"),
    ("S", "STATE", {}, "stays"),
    ("S", "FINAL", {}, "stays"),
    ("T", "PREPARED", {}, "stays"),
    ("S", "COMMIT", {}, "waits, stays"),
    ("T", "COMMITTED", {}, "waits, goes"),
)


@test(timeout=420)
def link_cut_in_each_phase(run):
    """The link breaks just before each kind of frame; a normal move the other way after each."""
    pair = Pair(run, {"a": G}, images("dirty"))
    place = Place(pair)
    for side, name, which, fate in CUTS:
        say(f"cut at {name} of {side}: {fate}")
        source, middle = place.at, place.middle
        epoch = pair.q[source].guest("g")["epoch"]
        rule = middle.on(side, name, "cut", **which)
        place.begin()
        rule.wait()
        if fate.startswith("waits"):
            info = place.ended("wait-commit")
            assert info["phase"] == "commit", info
            entry = pair.q[source].guest("g")
            assert entry["status"] == "paused" and entry["owner"] == "?", entry
            assert f"waits for host {place.to}" in entry["exit-reason"], entry
            # It is settled by the target's word and by nothing else.
            for command in ("cont", "system_reset", "migrate_cancel"):
                try:
                    pair.q[source].call(command, guest="g")
                    raise AssertionError(f"{command} was done")
                except QmpError as e:
                    say(f"  {command}: {e.desc}")
            there = pair.q[place.to].guest("g")
            if fate == "waits, goes":
                assert there["owner"] == place.to, there
                wait_until(lambda: pair.q[place.to].status("g") == "running", "it runs on the target")
            else:
                wait_until(lambda: pair.q[place.to].status("g") != "inmigrate", "the target gave its copy up")
        middle.heal()
        if fate == "waits, goes":
            place.went()
        else:
            place.stayed("connection|gave the move up", epoch=epoch)
        pair.wait_sequence("g", 1)
        place.move()
    # The same in the window with only a short break: nobody has to heal anything.
    for side, name, action, fate in (
        ("S", "COMMIT", "break", place.stayed),
        ("T", "COMMITTED", "break", place.went),
        ("S", "COMMIT", "forget", place.stayed),  # the target still waits for COMMIT when it is asked
    ):
        say(f"{action} at {name} of {side}")
        rule = place.middle.on(side, name, action)
        middle = place.middle
        place.begin()
        rule.wait()
        if fate == place.went:
            place.went()
        else:
            place.stayed("never took the guest over")
        middle.heal()
    # COMMIT arrives, and nothing after it.
    rule, middle = place.middle.on("S", "COMMIT", "last"), place.middle
    place.begin()
    rule.wait()
    place.ended("wait-commit", "completed")
    middle.heal()
    place.went()
    # The target has lost its source without a word, and the source begins anew.
    rule, middle = place.middle.on("S", "PAGES", "forget", nth=3), place.middle
    place.begin()
    rule.wait()
    assert place.ended()["status"] == "failed"
    assert pair.q[place.to].status("g") == "inmigrate"
    place.move()
    middle.heal()
    pair.wait_sequence("g")


# As CUTS; and how long until the source gives up or asks anew, and the text.
STALLS = {
    "s1": ("S", "PAGES", {"nth": 2}, "precopy", "did not answer for 60 s .phase precopy"),
    "s2": ("S", "STATE", {}, "freeze", "did not answer for 30 s .phase freeze"),
    "s3": ("T", "PREPARED", {}, "freeze", "did not answer for 30 s .phase freeze"),
    "s4": ("S", "COMMIT", {}, "commit", "never took the guest over"),
    "s5": ("S", "CONFIG", {}, "connect", "did not answer for 30 s .phase connect"),
    "s6": ("T", "COMMITTED", {}, "commit", None),
    "s7": (None, "silent", {}, "connect", "silent"),
    "s8": (None, "nowhere", {}, "connect", "no answer within"),
}


@test(timeout=700)
def link_stalled_in_each_phase(run):
    """Nothing is lost and nothing moves any more: every time limit, several at a time. And stalls that end in time."""
    conf = "".join(guest(name, "dirty", "mb=1 const-mb=1 rate=1 period-ms=500", memory="6M") for name in STALLS)
    pair = Pair(run, {"a": conf}, images("dirty"))
    a, b = pair.q["a"], pair.q["b"]
    place = Place(pair, "s1")
    for side, name, which in (("T", "HELLO", {}), ("S", "PAGES", {}), ("S", "STATE", {}), ("S", "COMMIT", {}), ("T", "COMMITTED", {})):
        say(f"a short stall at {name} of {side}")
        middle = place.middle
        rule = middle.on(side, name, "stall", **which)
        place.begin()
        rule.wait()
        assert pair.q[place.at].call("query-migrate", guest="s1")["status"] in ("setup", "active", "device")
        middle.heal()
        place.went()
    if place.at == "b":
        place.move()

    before, middles = pair.free(), {}
    silent = Fake(run.pki.ca_crt, None, None)

    def begin(name):
        side, where, which, _, _ = STALLS[name]
        if side:
            middles[name] = Middle(run.pki, pair.hosts["a"], pair.hosts["b"])
            rule = middles[name].on(side, where, "stall", **which)
            uri = middles[name].uri
        else:
            rule, uri = None, silent.uri if where == "silent" else "tcp:10.0.2.77:4789"
        try:
            pair.migrate(name, "b", uri)
        except QmpError as e:
            assert "already has 4 connections" in e.desc, e
            if side:
                middles.pop(name).close()
            return False
        if rule:
            rule.wait()
        return True

    waiting, begun = list(STALLS), []
    deadline = time.monotonic() + 300 * bench.PATIENCE
    while waiting or begun:
        assert time.monotonic() < deadline, (waiting, begun)
        if waiting and begin(waiting[0]):
            begun.append(waiting.pop(0))
        for name in list(begun):
            side, where, _, phase, error = STALLS[name]
            info = a.call("query-migrate", guest=name)
            if info["status"] in ("setup", "active", "device"):
                assert info["phase"] == phase, (name, info)
                continue
            if phase == "commit":
                assert info["status"] == "wait-commit", info
                assert a.guest(name)["status"] == "paused"
                # s4: once the target is tired of waiting for COMMIT; s6: it has the guest already.
                if where == "COMMIT" and b.status(name) == "inmigrate":
                    continue
                middles[name].heal()
                info = pair.wait_moved(name, "a")
            if error:
                assert info["status"] == "failed" and re.search(error, info["error-desc"]), (name, info)
                assert a.status(name) == "running", name
            else:
                assert info["status"] == "completed", info
                pair.check_at(name, "b")
            say(f"{name} ({where}): {info['status']}: {info.get('error-desc')}")
            begun.remove(name)
        time.sleep(0.2)
    # A target that hears nothing for 120 s throws its copy away by itself: the links are stalled to this day.
    wait_until(lambda: b.status("s1") in ("gone", "postmigrate"), "the target gave s1 up", 200)
    assert "silent for 120 s" in b.call("query-migrate", guest="s1")["error-desc"]
    for middle in middles.values():
        middle.heal()
    silent.close()
    for name in STALLS:
        pair.check_at(name, "b" if name == "s6" else "a")
        pair.wait_sequence(name)
    pair.move("s6", "a")
    pair.check_memory(before)
    place.move()


@test(timeout=700)
def hostile_peers(run):
    """Ends that say nothing, garbage, another version, something changed, or only the first bytes."""
    big = guest("big", "hello", "wait", memory="300M", autostart="no")
    pair = Pair(run, {"a": G + big, "b": guest("mine", "hello", "wait")}, images("dirty", "hello"), {"b": {"memory": 256}})
    place = Place(pair)
    a, b = pair.q["a"], pair.q["b"]
    host_a, host_b = (certificate(run.pki, name, "host") for name in "ab")
    port = pair.hosts["b"].port

    # Those that say nothing have their time; the rest goes on meanwhile.
    mute_tcp = socket.create_connection(("127.0.0.1", port))
    mute_tls = Conn.dial(port, "b", run.pki.ca_crt, *host_a)
    after_hello = Conn.dial(port, "b", run.pki.ca_crt, *host_a)
    after_hello.send(hello("a"))
    after_hello.expect("HELLO")

    say("bytes that are no TLS, and bytes that only begin so")
    for junk in (b"GET / HTTP/1.0\r\n\r\n", b"\0" * 4096, bytes(range(256)) * 64, b"\x16\x03\x01\x02\x00\x01" + b"\xaa" * 600):
        with socket.create_connection(("127.0.0.1", port)) as raw:
            raw.sendall(junk)
            raw.settimeout(600)
            try:
                while raw.recv(4096):
                    pass
            except ConnectionResetError:
                pass

    def config(name="x", memory=8 << 20, epoch=1, vcpus=1, flags=0, cpu=b""):
        head = b"".join(n.to_bytes(size, "little") for n, size in ((1, 8), (epoch, 8), (memory, 8), (10**8, 8), (vcpus, 4), (100, 4), (flags, 4)))
        return frame("CONFIG", head + text(name) + text("") * 5 + b"\0\0" * 2 + len(cpu).to_bytes(2, "little") + cpu + b"\0\0")

    cases = Cases()
    bad = (
        ("ERROR", "does not speak Godwit's migration protocol", [hello("a", magic=1)]),
        ("ERROR", "speaks migration protocol 1, this host 2", [hello("a", version=1)]),
        ("ERROR", "calls itself z, but its certificate says a", [hello("z")]),
        ("ERROR", "does not speak", [frame("HELLO", hello("a")[8:16])]),
        ("ERROR", "malformed HELLO", [frame("HELLO", hello("a")[8:-1])]),
        ("ERROR", "", [b"\xff" * 8]),
        ("ERROR", "", [b"\x01\0\0\0" + (MAX_PAYLOAD + 1).to_bytes(4, "little")]),
        ("ERROR", "does not belong here", [frame("COMMIT", b"\0" * 24)]),
        ("REFUSED", "malformed guest definition", [hello("a"), frame("CONFIG", b"junk")]),
        ("REFUSED", "malformed guest definition", [hello("a"), config(flags=4)]),
        ("REFUSED", "unusable name", [hello("a"), config(name="a b")]),
        ("REFUSED", "which cannot be", [hello("a"), config(memory=5 << 20)]),
        ("REFUSED", "vCPUs", [hello("a"), config(vcpus=99)]),
        ("REFUSED", "epoch 0", [hello("a"), config(epoch=0)]),
        ("REFUSED", "", [hello("a"), config()]),  # no CPU description
        ("REFUSED", "does not belong here", [hello("a"), frame("PAGES", b"\0" * 16)]),
    )
    for kind, words, frames in bad:
        with cases(f"a frame that does not belong there: {words}"):
            conn = Conn.dial(port, "b", run.pki.ca_crt, *host_a)
            conn.send(*frames)
            if kind == "REFUSED":
                conn.expect("HELLO")
            reason = conn.expect(kind)[2:].decode()
            say(f"  {kind}: {reason}")
            assert words in reason, (words, reason)
            if "migration protocol 2" in reason:  # once: the host gives its last words seconds to arrive
                assert conn.closed(), "the host keeps the connection"
            conn.close()
    # Their time is over by now, or soon: 10 s for TLS, 30 s for the first words.
    for conn in (mute_tls, after_hello):
        assert conn.closed(), "a silent peer was never dropped"
    assert Conn(mute_tcp).closed()
    assert "no TLS handshake within 10 s" in pair.hosts["b"].serial()
    with cases("no memory was kept for them"):
        pair.check_memory(place.free["a"])

    def at_text(payload):
        """Where the guest's code, which it never writes to, is in a PAGES frame; 0: not in it."""
        runs, offset = int.from_bytes(payload[:4], "little"), 0
        for at in range(8, 8 + runs * 16, 16):
            gfn, count = int.from_bytes(payload[at : at + 8], "little"), int.from_bytes(payload[at + 8 : at + 12], "little")
            if gfn <= 0x100 < gfn + count:
                return 8 + runs * 16 + (offset + 0x100 - gfn) * 4096
            offset += count
        return 0

    def flip(name, payload, offset):
        changed = bytearray(payload)
        changed[offset] ^= 1
        return frame(name, bytes(changed))

    changes = (
        ("T", "HELLO", lambda p: hello("b", version=1), "host b speaks migration protocol 1, this host 2: run the same version"),
        ("T", "HELLO", lambda p: hello("c"), "calls itself c, but its certificate says b"),
        ("T", "HELLO", lambda p: b"\x63\0\0\0" * 2, "unknown type 99"),
        ("T", "READY", lambda p: frame("READY", p[:-1]), "malformed READY"),
        ("T", "READY", lambda p: frame("REFUSED", text("no\x07 way")), "refuses the guest: no. way"),
        ("S", "PAGES", lambda p: flip("PAGES", p, at_text(p)), "hash"),
        ("S", "ZERO", lambda p: flip("ZERO", p, 8), "is not what was received|never sent"),
        ("S", "PAGES", lambda p: frame("PAGES", p[:-1]), "malformed PAGES"),
        ("S", "PAGES", lambda p: frame("PAGES", p[:8] + b"\xff" * 8 + p[16:]), "not memory of guest g"),
        ("S", "STATE", lambda p: flip("STATE", p, len(p) // 2), "device state .* did not arrive as it was sent"),
        ("S", "FINAL", lambda p: flip("FINAL", p, 16), "hash"),
        ("T", "PREPARED", lambda p: flip("PREPARED", p, 16), "has another hash"),
        ("S", "COMMIT", lambda p: frame("COMMIT", p[:-1]), "malformed COMMIT"),
    )
    for side, name, change, words in changes:
        with cases(f"{name} of {side} is changed on the way: {words}"):
            middle, epoch = place.middle, pair.q[place.at].guest("g")["epoch"]
            rule = middle.on(side, name, change, when=at_text if words == "hash" and name == "PAGES" else None)
            place.begin()
            rule.wait()
            middle.heal()
            place.stayed(words, epoch=epoch)
    place.move()
    place.move()
    assert place.at == "a"

    a.call("guest-start", guest="big")
    nobody = Fake(run.pki.ca_crt, host_b, b"220 mail ready\r\n")
    closed = bench.free_port()
    for uri, who, words in (
        (nobody.uri, "g", "does not speak TLS. Is the port right"),
        (f"tcp:10.0.2.2:{closed}", "g", "connection refused"),
        (place.middle.uri, "big", "memory"),
    ):
        with cases(f"a target that is nobody, is not there, or has no room: {words}"):
            pair.migrate(who, "b", uri)
            info = pair.wait_moved(who, "a")
            say(f"  {info['error-desc']}")
            assert info["status"] == "failed" and words in info["error-desc"], (words, info)
            pair.check_at(who, "a")
    a.call("guest-stop", guest="big")
    # By the command: what is known, and that nothing was changed.
    pair.hosts_ini(b=f"tcp:10.0.2.2:{closed}")
    result = pair.godwit("migrate", "g", "b", check=False)
    assert result.returncode == 1 and "Nothing was changed: the guest is running on 'a'" in result.stderr, result
    pair.hosts_ini()
    # A name that the target has itself, and a guest that is not there.
    for arguments, words in (
        ({"guest": "nobody", "host": "b", "uri": place.middle.uri}, "no guest is called 'nobody'"),
        ({"guest": "g", "host": "a", "uri": place.middle.uri}, "is on host 'a' already"),
        ({"guest": "big", "host": "b", "uri": place.middle.uri}, "only a running or paused guest"),
        ({"guest": "g", "host": "b", "uri": "tcp:b:4789"}, "is no address"),
        ({"guest": "g", "host": "b", "uri": place.middle.uri, "verify": "hope"}, "verify"),
    ):
        with cases(f"refused at once: {words}"):
            try:
                a.call("migrate", **arguments)
                raise AssertionError(f"accepted: {arguments}")
            except QmpError as e:
                assert words in e.desc, (words, e)

    nobody.close()
    pair.check_memory(place.free["a"])
    place.move()
    pair.wait_sequence("g")
    cases.done()


@test(timeout=420)
def stream_cut_at_any_byte(run):
    """The TCP connection ends after so many bytes, one way or the other, anywhere from the handshake to COMMITTED."""
    pair = Pair(run, {"a": guest("g", "dirty", "mb=1 const-mb=1 rate=1 period-ms=100", memory="4M")}, images("dirty"))
    place = Place(pair)
    before = {name: dict(link.bytes) for name, link in pair.links.items()}
    pair.move("g", "b")
    whole = {way: pair.links["b"].bytes[way] - before["b"][way] for way in ("to", "back")}
    pair.move("g", "a")
    say("bytes of a move:", whole)
    to, back = whole["to"], whole["back"]
    offsets = [("to", n) for n in (1, 200, 900, 1500, 2300, to // 4, to // 2, to * 3 // 4)]
    offsets += [("to", to - n) for n in (6000, 300, 70, 40, 10)]
    offsets += [("back", n) for n in (1, 300, 1100)] + [("back", back - n) for n in (200, 120, 70, 30, 1)]
    ends = {"completed": 0, "failed": 0, "waited": 0}

    def cut(way, count):
        link = pair.links[place.to]
        link.cut_after(way, count)
        pair.migrate("g", place.to, link.uri)
        info = pair.wait_moved("g", place.at, ("completed", "failed", "wait-commit"))
        if info["status"] == "wait-commit":
            ends["waited"] += 1
            link.heal()
            info = pair.wait_moved("g", place.at)
        say(f"{way} {count}: {info['status']} in {info['phase']}: {info.get('error-desc', '')}")
        link.heal()
        ends[info["status"]] += 1
        if info["status"] == "completed":
            place.at = place.to
        else:
            assert info["error-desc"], info
        pair.check_at("g", place.at)
        pair.check_memory(place.free[place.at])
        pair.wait_sequence("g", 1)

    for way, count in offsets:
        cut(way, count)
    # How many KEEPALIVEs there are differs from move to move, so all may have missed the window before COMMITTED.
    for n in range(30, 300, 30):
        if not ends["waited"]:
            cut("back", back - n)
            cut("back", back + n)
    say(ends)
    assert ends["failed"] >= 8 and ends["waited"], ends
    place.move()
    pair.wait_sequence("g")


@test(timeout=300)
def cancelled_moves(run):
    """By the command, by Ctrl-C, on the target; in each phase before the commit, and too late."""
    pair = Pair(run, {"a": G}, images("dirty"))
    place = Place(pair)
    a, b = pair.q["a"], pair.q["b"]
    middle = place.middle
    pair.hosts_ini(b=middle.uri)

    say("godwit migrate-cancel, in pre-copy")
    rule = middle.on("T", "ROUND_END", "hold")
    result = pair.godwit("migrate", "g", "b", "--detach")
    rule.wait()
    for command, words in (("migrate", "is being moved"), ("guest-stop", "is being moved"), ("stop", "is being moved")):
        try:
            a.call(command, guest="g", **({"host": "b", "uri": middle.uri} if command == "migrate" else {}))
            raise AssertionError(f"{command} was done in a move")
        except QmpError as e:
            assert words in e.desc, e
    result = pair.godwit("migrate-cancel", "g", "--json")
    assert json.loads(result.stdout)["outcome"] == "cancelled", result.stdout
    middle.heal()
    place.stayed("cancelled by the operator", "cancelled")

    say("Ctrl-C, in pre-copy")
    rule = middle.on("T", "ROUND_END", "hold")
    command = subprocess.Popen(
        [GODWIT, "migrate", "g", "b", *bench.PATIENT], env={**os.environ, "GODWIT_DIR": pair.dir}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        rule.wait()
        command.send_signal(signal.SIGINT)
        output, _ = command.communicate(timeout=300)
    finally:
        command.kill()
    say(output)
    assert command.returncode == 5 and "was cancelled" in output and "running on 'a'" in output, output
    middle.heal()
    place.stayed("cancelled by the operator", "cancelled")

    for side, name, which in (("T", "HELLO", {}), ("S", "PAGES", {"nth": 3}), ("T", "PREPARED", {})):
        say(f"while the link holds {name} of {side}")
        rule = middle.on(side, name, "hold", **which)
        place.begin()
        rule.wait()
        a.call("migrate_cancel", guest="g")
        place.ended()
        middle.heal()
        place.stayed("cancelled by the operator", "cancelled")

    say("on the target")
    rule = middle.on("T", "ROUND_END", "hold")
    place.begin()
    rule.wait()
    b.call("migrate_cancel", guest="g")
    middle.heal()
    place.stayed("cancelled by the operator of host b")

    say("too late")
    rule = middle.on("T", "COMMITTED", "hold")
    place.begin()
    rule.wait()
    try:
        a.call("migrate_cancel", guest="g")
        raise AssertionError("cancelled after COMMIT")
    except QmpError as e:
        assert "too late to cancel" in e.desc, e
    middle.heal()
    place.went()
    pair.wait_sequence("g")


@test(timeout=300)
def guests_that_end_in_a_move(run):
    """A guest that dies, switches itself off or resets in the middle of its move, on the source and after it."""
    conf = "".join(
        guest(name, kernel, f"wait {args}", autostart="no")
        for name, kernel, args in (
            ("dies", "triplefault", ""),
            ("off", "poweroff", ""),
            ("again", "reboot", "how=kbd"),
            ("hangs", "spin", "how=cli"),
        )
    )
    # To reset where it has moved to, a guest needs its image there: hosts read those that their own sections name.
    again = guest("again", "reboot", "wait how=kbd", autostart="no")
    pair = Pair(run, {"a": G + conf, "b": again}, images("dirty", "triplefault", "poweroff", "reboot", "spin"))
    place = Place(pair)
    a, b = pair.q["a"], pair.q["b"]
    for name, state, words in (
        ("dies", "internal-error", "ended by itself .*triple fault"),
        ("off", "shutdown", "ended by itself"),
        ("again", None, "REBOOT start"),
        ("hangs", None, "SPIN"),
    ):
        say(name)
        before = pair.free()
        a.call("guest-start", guest=name)
        pair.hosts["a"].wait_for(rf"^{name}\| WAITING", timeout=90, rewind=True)
        middle = place.middle
        rule = middle.on("T", "ROUND_END", "hold")
        pair.migrate(name, "b", middle.uri)
        rule.wait()
        a.type(name, "x")
        if state:
            info = pair.wait_moved(name, "a")
            assert info["status"] == "failed" and re.search(words, info["error-desc"]), info
            say(f"  {info['error-desc']}")
            assert a.status(name) == state, a.guest(name)
            middle.heal()
            wait_until(lambda: b.status(name) == "gone", "the target has thrown its copy away")
            pair.check_memory(before)
            continue
        pair.hosts["a"].wait_for(rf"^{name}\| {words}", timeout=90, rewind=True)
        if name == "again":
            wait_until(lambda: pair.console(name)["a"].count("WAITING") == 2, "it starts anew on the source")
        middle.heal()
        info = pair.wait_moved(name, "a")
        assert info["status"] == "completed", info
        pair.check_at(name, "b")
        if name == "again":
            b.type(name, "x")
            pair.hosts["b"].wait_for(r"^again\| REBOOT start", timeout=90, rewind=True)
            pair.hosts["b"].wait_for(r"^again\| WAITING", timeout=90)
        b.call("guest-stop", guest=name)
        pair.check_memory(before)
    # On the target, right after.
    a.call("guest-start", guest="dies")
    pair.move("dies", "b")
    b.type("dies", "x")
    wait_until(lambda: b.status("dies") == "internal-error", "it dies on the target")
    assert "triple fault" in b.guest("dies")["exit-reason"]
    place.move()
    pair.wait_sequence("g")


@test(timeout=300)
def hosts_that_restart_in_a_move(run):
    """The target loses its power inside the commit window, the source in pre-copy."""
    pair = Pair(run, {"a": G, "b": guest("mine", "dirty", "mb=1 const-mb=1 rate=1 period-ms=200")}, images("dirty"))
    place = Place(pair)
    a, middle = pair.q["a"], place.middle
    rule = middle.on("S", "COMMIT", "cut")
    place.begin()
    rule.wait()
    place.ended("wait-commit")
    pair.hosts["b"].stop()
    pair.start("b")
    pair.connect("b")
    middle.target = pair.hosts["b"]
    middle.heal()
    # The new b cannot know what the old one did.
    wait_until(
        lambda: "has been restarted since" in a.call("query-migrate", guest="g").get("error-desc", ""),
        "b says that it does not know",
    )
    assert a.call("query-migrate", guest="g")["status"] not in ("completed", "failed", "cancelled")
    entry = a.guest("g")
    assert entry["status"] == "paused" and entry["owner"] == "?", entry
    say(entry["exit-reason"])
    # The operator knows: b was off. He gives the copy up and starts anew.
    a.call("guest-stop", guest="g")
    wait_until(lambda: a.guest("g")["owner"] == "a" and a.status("g") == "shutdown", "the name is free again")
    old = len(pair.console("g")["a"])
    epoch = a.guest("g")["epoch"]
    a.call("guest-start", guest="g")
    wait_until(lambda: "DIRTY seq=2 " in "".join(pair.console("g")["a"][old:]), "it starts anew")
    assert a.guest("g")["epoch"] >= epoch
    pair.hosts_ini()
    pair.links["b"].target = ("127.0.0.1", pair.hosts["b"].port)
    pair.move("g", "b", middle.uri)

    # Now b is the source.
    pair.hosts["b"].wait_for(r"^mine\| DIRTY seq=2 ", timeout=90, rewind=True)
    free = a.free()
    middle = Middle(run.pki, pair.hosts["b"], pair.hosts["a"])
    rule = middle.on("T", "ROUND_END", "hold")
    pair.migrate("mine", "a", middle.uri)
    rule.wait()
    assert a.status("mine") == "inmigrate"
    pair.hosts["b"].stop()
    middle.heal()
    wait_until(lambda: a.status("mine") == "gone", "a throws away what came from the dead host")
    wait_until(lambda: a.free() >= free - (256 << 10), "its memory is back")
    result = pair.godwit("status", check=False)
    assert result.returncode == 3, result


@test(timeout=420)
def certificates(run):
    """Expired, of another CA, of the wrong role, with the wrong name: of people, of targets, of sources. And another CPU."""
    stranger = Pki(os.path.join(run.dir, "other-ca"), "stranger")
    shutil.copytree(os.path.dirname(run.pki.ca_crt), os.path.join(run.dir, "bad"))
    bad = Pki(os.path.join(run.dir, "bad"))  # the same CA, in a folder of its own
    here = run.pki.ca_crt
    # host b has no PML, no TSC scaling and no AVX-512.
    pair = Pair(run, {"a": G, "b": guest("old", "dirty", "mb=1 const-mb=1 rate=1 period-ms=200")}, images("dirty"),
                {"b": {"cpu": "corei7_haswell_4770"}})
    a, b = pair.q["a"], pair.q["b"]
    before, cases = pair.free(), Cases()

    pair.identity("late", "admin", days=-1)
    pair.identity("vera", "viewer")
    pair.identity("king", "king")
    for file, end in zip(stranger.issue("tester", "admin"), ("crt", "key")):
        shutil.copy(file, os.path.join(pair.dir, "identities", f"stranger.{end}"))
    for who, code, words, log in (
        ("late", 3, "your certificate .* expired on", None),
        ("stranger", 3, "was not made by the CA in", None),
        ("king", 3, "access_denied", "role .OU. 'king'"),
        ("vera", 1, "role viewer", None),
    ):
        with cases(f"people to hosts: {who}"):
            result = pair.godwit("migrate", "g", "b", "--from=a", f"--identity={who}", check=False)
            say(f"  {who}: {result.stderr.strip()}")
            assert result.returncode == code and re.search(words, result.stderr), (who, result)
            if log:
                pair.hosts["a"].wait_for(log, rewind=True)
    assert pair.godwit("status", "--identity=vera").stdout.count("running") == 2

    def bad_certificates():
        """What is wrong, and such files for one who calls itself b."""
        yield "expired", bad.issue("b", "host", days=-1)
        yield "ca", stranger.issue("b", "host")
        yield "role", bad.issue("b", "admin", eku="serverAuth,clientAuth")
        yield "name", bad.issue("c", "host")

    texts = {
        "expired": "the certificate of host 'b' .* expired on",
        "ca": "is not of your cluster's CA",
        "role": "role 'admin', which is not that of a host",
        "name": "is 'c', not 'b'",
    }
    for what, pair_of_files in bad_certificates():
        fake = Fake(here, pair_of_files, lambda conn: conn.closed(), QMP)
        with open(os.path.join(pair.dir, "hosts.ini"), "w", encoding="ascii") as f:
            f.write(f"[b]\naddress=127.0.0.1:{fake.port}\n")
        with cases(f"hosts to people: {what}"):
            result = pair.godwit("status", check=False)
            said = result.stdout + result.stderr
            assert result.returncode == 3 and re.search(texts[what], said), (what, said)
        fake.close()
    pair.hosts_ini()

    texts = {
        "expired": "its certificate .for 'b'. expired on",
        "ca": "is not from this host's CA",
        "role": "has the role admin, but only a host may answer there",
        "name": "its certificate is for 'c', not for 'b'",
    }
    for what, pair_of_files in bad_certificates():
        fake = Fake(here, pair_of_files, lambda conn: conn.closed())
        with cases(f"targets to sources: {what}"):
            pair.migrate("g", "b", fake.uri)
            info = pair.wait_moved("g", "a")
            say(f"  {info['error-desc']}")
            assert info["status"] == "failed" and re.search(texts[what], info["error-desc"]), (what, info)
        fake.close()
    pair.check_at("g", "a")

    for what, alpn, files, alert, log in (
        ("expired", MIG, bad.issue("late", "host", days=-1), "expired", "expired on"),
        ("expired", QMP, bad.issue("late", "admin", days=-1), "expired", "expired on"),
        ("ca", MIG, stranger.issue("a", "host"), "unknown ca", "is not from this host's CA"),
        ("ca", QMP, stranger.issue("tester", "admin"), "unknown ca", "is not from this host's CA"),
        ("role", MIG, certificate(run.pki, "tester", "admin"), "access denied", "only a host may move guests here"),
    ):
        with cases(f"clients of {alpn}: {what}"):
            try:
                conn = Conn.dial(pair.hosts["b"].port, "b", here, *files, alpn)
                conn.recv()
                raise AssertionError(f"{what}: let in")
            except OSError as e:
                say(f"  {what}: {e}")
                assert alert in str(e), (what, e)
            pair.hosts["b"].wait_for(f"connection refused: .*{log}", rewind=True)
    # The right one of another host: then it is that host.
    conn = Conn.dial(pair.hosts["b"].port, "b", here, *certificate(run.pki, "c", "host"))
    conn.send(hello("a"))
    assert b"calls itself a, but its certificate says c" in conn.expect("ERROR")
    conn.close()
    # No certificate at all, and a host's on the control port: it may look and not touch.
    guests = Qmp(run, pair.hosts["b"], host_as="a")
    assert guests.guest("old")["status"] == "running"
    try:
        guests.call("guest-stop", guest="old")
        raise AssertionError("a host stopped a guest by the control port")
    except QmpError as e:
        assert e.error_class == "AccessDenied" and "role host" in e.desc, e

    with cases("a CPU that lacks what the guest has seen"):
        pair.migrate("g", "b")
        info = pair.wait_moved("g", "a")
        say(f"  {info['error-desc']}")
        assert info["status"] == "failed" and "CPU" in info["error-desc"], info
        pair.check_at("g", "a")
        pair.check_memory(before)
    for to in "aba":
        pair.hosts[other(to)].wait_for(r"^old\| DIRTY seq=", timeout=90, rewind=True)
        pair.move("old", to)
    pair.wait_sequence("old")
    pair.wait_sequence("g")
    cases.done()
