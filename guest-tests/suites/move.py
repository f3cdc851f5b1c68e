# SPDX-License-Identifier: MIT
"""Moves between two hosts that have to succeed."""
import json
import os
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from pair import GUESTS, TOP, Pair, guest, images, wait_until
from runner import test

LINUX = {
    "vmlinuz": os.path.join(TOP, "build", "linux", "vmlinuz"),
    "initrd.cpio": os.path.join(GUESTS, "initrd.cpio"),
}
WEB = """
[guest web]
memory=96M
kernel=vmlinuz
initrd=initrd.cpio
cmdline=console=ttyS0 cryptomgr.notests hb.pattern_mb=8 hb.dirty_set_mb=8
autostart=yes
console=serial
"""
BEAT = re.compile(r"HB seq=(\d+) mono=(\d+)\.(\d{9}) real=\S+ chk=(\S+) dirty=(\d+) gap=(\d+)$")


def beats(pair):
    """All heartbeats so far [(seq, mono in ns, chk, dirty MiB, host)], in order of seq; everything else is checked."""
    found = []
    for host, lines in pair.console("web").items():
        for line in lines:
            assert "HB FAIL" not in line and "BUG:" not in line and "Call Trace" not in line, line
            beat = BEAT.match(line)
            assert beat or "HB seq" not in line, f"a torn line on {host}: {line}"
            if beat:
                seq, s, ns, chk, dirty, _ = beat.groups()
                found.append((int(seq), int(s) * 10**9 + int(ns), chk, int(dirty), host))
    return sorted(found)


def check_beats(pair):
    """None is missing, doubled or late in its own time, memory and clocks are right in all of them."""
    all_beats = beats(pair)
    for number, (seq, _, chk, _, host) in enumerate(all_beats, 1):
        assert seq == number, f"beat {number} is {'missing' if seq > number else 'there twice'}"
        assert chk == "OK", f"beat {seq} on {host} says {chk}"
    for one, two in zip(all_beats, all_beats[1:]):
        assert one[1] < two[1], f"CLOCK_MONOTONIC went back after beat {one[0]} ({one[4]} to {two[4]})"
    return all_beats


def wait_beats(pair, host, count):
    """So many more beats have come on that host."""
    had = sum(beat[4] == host for beat in beats(pair))
    wait_until(lambda: sum(b[4] == host for b in beats(pair)) >= had + count, f"{count} more beats on {host}", 120)


def move_linux(pair, to, *options):
    """Move by the godwit command; checks its summary against what both hosts say, and that the guest beats on."""
    source = "b" if to == "a" else "a"
    epoch = pair.q[source].guest("web")["epoch"]
    result = pair.godwit("migrate", "web", to, "--verify=full", "--json", *options, timeout=240)
    summary = json.loads(result.stdout)
    info = summary["migration"]
    assert (summary["outcome"], summary["owner"], summary["epoch"]) == ("completed", to, epoch + 1), summary
    assert info["status"] == "completed" and info["verify"] == "full" and info["hash-verified"], info
    assert info["downtime-us"] > 0 and info["epoch"] == epoch + 1, info
    pair.check_at("web", to, epoch=epoch + 1)
    left = pair.q[source].guest("web")
    assert left["status"] == "postmigrate" and left["owner"] == to, left
    print(
        f"{source} to {to}: total {info['total-time']} ms, down {info['downtime-us']} us,"
        f" {info['ram']['transferred']} bytes, {info['round']} rounds, {info['ram']['pages-resent']} resent",
        flush=True,
    )
    wait_beats(pair, to, 3)
    return info


@test(timeout=900, cores=2)
def linux_moves(run):
    """The stock kernel, five times there and back: idle, dirtying a little, dirtying 16 MiB/s; by the godwit command."""
    pair = Pair(run, {"a": WEB}, LINUX)
    pair.hosts["a"].wait_for(r"^web\| HB seq=10 ", timeout=200)
    before = pair.free()
    move_linux(pair, "b")
    move_linux(pair, "a")
    pair.q["a"].type("web", "dirty 2\n")
    for to in "bababa":
        move_linux(pair, to)
    move_linux(pair, "b")
    # What was typed on one host is answered on the other. From 16 MiB/s on, this link cannot keep up.
    pair.q["b"].type("web", "dirty 16\n")
    dirtied = check_beats(pair)[-1][3]
    wait_until(lambda: beats(pair)[-1][3] > dirtied + 16, "the guest dirties memory", 120)
    info = move_linux(pair, "a", "--max-rounds=8")
    assert info["round"] >= 3 and info["ram"]["pages-resent"] > 1024, info
    pair.q["a"].type("web", "stats\n")
    stats = pair.hosts["a"].wait_for(r"^web\| HB STATS .* fails=(\d+) ", timeout=120)
    assert stats.group(1) == "0", stats.group(0)
    assert check_beats(pair)[-1][3] > 2 * dirtied
    pair.check_memory(before)


@test(timeout=300, cores=2)
def tiny_guests_move(run):
    """What is hard to move: guests that write all the time, that never exit, that are paused; two at a time."""
    spins = ("cli", "hlt", "sti", "cpuid", "nmi-window")
    guests = (
        guest("flat", "dirty", "mb=4 const-mb=1 period-ms=100")  # as fast as it can: only max-rounds ends it
        + guest("memory", "memory", "passes=0 mb=2")
        + guest("paced", "dirty", "mb=1 const-mb=1 rate=4 period-ms=100")
        + guest("echo", "uart", "echo")
        + "".join(guest(how, "spin", f"how={how}", autostart="no") for how in spins)
    )
    pair = Pair(run, {"a": guests, "b": guest("other", "dirty", "mb=1 const-mb=1 rate=1 period-ms=100")}, images("dirty", "memory", "spin", "uart"))
    a, b = pair.q["a"], pair.q["b"]
    pair.hosts["a"].wait_for(r"^flat\| DIRTY seq=5 ", timeout=120)
    info = pair.move("flat", "b", max_rounds=4, downtime_limit=1)
    assert info["round"] == 5 and info["ram"]["pages-resent"] > 1000, info
    pair.hosts["a"].wait_for(r"^memory\| MEMORY pass=1 ", timeout=120, rewind=True)
    pair.move("memory", "b", max_rounds=3)
    done = pair.hosts["b"].wait_for(r"^memory\| MEMORY pass=(\d+) mib=\d+ bad=(\d+)", timeout=120, rewind=True)
    assert done.group(2) == "0", done.group(0)
    b.call("guest-stop", guest="memory")
    b.call("guest-stop", guest="flat")
    assert pair.check_sequence("flat") > 5

    # Never an exit of its own accord.
    for how in spins:
        a.call("guest-start", guest=how)
        pair.hosts["a"].wait_for(rf"^{how}\| SPIN", timeout=120, rewind=True)
        pair.move(how, "b")
        exits = b.guest(how)["exits"]
        if how != "hlt":  # halted for ever: no exit comes from that
            wait_until(lambda: b.guest(how)["exits"] > exits, f"the spinning guest {how} runs on b", 60)
        b.call("guest-stop", guest=how)

    # Both ways at once.
    pair.hosts["a"].wait_for(r"^paced\| DIRTY seq=2 ", timeout=120, rewind=True)
    pair.hosts["b"].wait_for(r"^other\| DIRTY seq=2 ", timeout=120, rewind=True)
    pair.migrate("paced", "b")
    pair.migrate("other", "a")
    for name, source, to in (("paced", "a", "b"), ("other", "b", "a")):
        info = pair.wait_moved(name, source)
        assert info["status"] == "completed", info
        pair.check_at(name, to)
    # Paused before, paused after, and not a tick older.
    b.call("stop", guest="paced")
    pair.migrate("paced", "a")
    info = pair.wait_moved("paced", "b")
    assert info["status"] == "completed", info
    pair.check_at("paced", "a", status="paused")
    a.call("cont", guest="paced")
    pair.check_sequence("paced")
    pair.wait_sequence("paced")
    pair.wait_sequence("other")

    # Typed before the move, answered on either side.
    a.type("echo", "one\n")
    pair.hosts["a"].wait_for(r"^echo\| .*one", timeout=120, rewind=True)
    pair.move("echo", "b")
    b.type("echo", "two\n")
    pair.hosts["b"].wait_for(r"^echo\| .*two", timeout=120, rewind=True)
    for name in ("paced", "other"):
        a.call("guest-stop", guest=name)
    b.call("guest-stop", guest="echo")
