# SPDX-License-Identifier: MIT
"""A guest that storms all that is emulated (guest-tests/hostile): its host, its neighbours and moves do not suffer.

What becomes of the hostile guest itself is its own affair, and printed: it may die, and resets itself with `power`.
"""
import os
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import lib
from lib import conf, until
from pair import Pair, guest, images, wait_until
from runner import test

SWITCH = "[switch lan]\nuplink=none\n"
HOSTILE = "vcpus=2\ndisk=ram:2M\nnic=lan\n"
PACED = guest("paced", "dirty", "mb=1 const-mb=1 rate=2") + guest("db", "disk", "loops=0 paced", more="disk=ram:4M\n")
FILES = images("hostile", "dirty", "disk")
ENDS = ("internal-error", "shutdown", "guest-panicked")


def hostile(name, args, autostart="no"):
    return guest(name, "hostile", args, autostart=autostart, more=HOSTILE)


def beats(*hosts):
    """(number, TSC) of each line of the guest `paced`, all of them right: none lost, none twice, its memory and clocks good."""
    lines = []
    for host in hosts:
        for text in re.findall(r"^paced\| (DIRTY .*)\n", host.serial(), re.M):
            assert "BAD" not in text, text
            found = re.match(r"DIRTY seq=(\d+) sweeps=\d+ tsc=(\d+) chk=OK$", text)
            if found:
                lines.append((int(found.group(1)), int(found.group(2))))
    lines.sort()
    assert [n for n, _ in lines] == list(range(1, len(lines) + 1)), [n for n, _ in lines]
    return lines


def rounds(*hosts):
    """How far the guest `db` is with its checked disk."""
    text = "".join(host.serial() for host in hosts)
    assert not re.search(r"^db\| FAIL", text, re.M), re.findall(r"^db\| FAIL.*", text, re.M)
    return max([int(n) for n in re.findall(r"^db\| DISK round=(\d+)$", text, re.M)], default=0)


def last_words(host, name):
    """What the hostile guest said last, as far as it can be read: it storms its serial port, too."""
    said = re.findall(rf"^{name}\| .*?(HOSTILE s\w+=\d+ [ -~]*)", host.serial(), re.M)
    return said[-1] if said else "nothing"


def storm(host, c, name):
    """Let one hostile guest storm for 1.5 s of its neighbour's time; returns its exits and how it ended."""
    had, disk = len(beats(host)), rounds(host)
    c.call("guest-start", guest=name)
    until(lambda: len(beats(host)) >= had + 15, 100, lambda: f"paced goes on after {had} beside {name}")
    until(lambda: rounds(host) > disk, 60, lambda: f"db goes on after {disk} beside {name}")
    entry = c.guests()[name]
    assert entry["status"] == "running" or (entry["status"] in ENDS and entry["exit-reason"]), entry
    if entry["status"] == "running":
        c.call("guest-stop", guest=name)
    return entry["exits"], f"{entry['status']} {entry['exit-reason']}; {entry['exits']} exits; {last_words(host, name)}"


def one_host(run, cpus, cases, worst_ms):
    """Hostile guests one after the other beside two that are watched."""
    text = SWITCH + PACED + "".join(hostile(f"bad{n}", args) for n, args in enumerate(cases))
    host = run.host("a", run.esp("a", conf(text), FILES), sync="none", cpus=cpus)
    host.wait_for(r"^db\| DISK round=100$", 90)
    c = lib.Operator(run, host).control()
    first = len(beats(host))
    free = c.call("query-host")["memory-free"]
    exits = 0
    for n, args in enumerate(cases):
        more, end = storm(host, c, f"bad{n}")
        exits += more
        print(f"{cpus} CPUs, {args}: {end}", flush=True)
    assert exits > 10000, f"only {exits} exits: that is no storm"
    until(lambda: c.call("query-host")["memory-free"] >= free - (256 << 10), 30, "the memory of the hostile comes back")
    slowest = c.slowest_answer(10)
    lines = beats(host)
    khz = int(re.search(r"tsc-khz=(\d+)", host.serial()).group(1))
    gap = max(two[1] - one[1] for one, two in zip(lines[first:], lines[first + 1 :])) / khz
    print(f"{cpus} CPUs: paced says one line each 100 ms, at most {gap:.0f} ms apart; slowest answer {slowest} us", flush=True)
    assert gap < worst_ms and slowest < 1e6 and host.alive(), (gap, slowest)
    host.stop()


@test(timeout=300)
def hostile_beside(run):
    """Beside hostile guests others miss nothing, the control port answers, and the host stays."""
    one_host(run, 2, ["seed=1", "seed=2", "seed=3 power", "seed=4 modes=0x20"], 400)
    one_host(run, 1, ["seed=5", "seed=6 power"], 600)


def runs_on(entry, exits):
    """It has not stopped since it had so many exits, or has ended by itself."""
    return entry["exits"] > exits or (entry["status"] in ENDS and entry["exit-reason"])


@test(timeout=400, cores=2)
def hostile_moves(run):
    """A hostile guest moves while it storms, or stays where it is with a reason; another guest moves while it does."""
    text = SWITCH + PACED + hostile("bad1", "seed=7", "yes") + hostile("bad2", "seed=8")
    pair = Pair(run, {"a": text, "b": SWITCH}, FILES)
    a, b = pair.hosts["a"], pair.hosts["b"]
    a.wait_for(r"^db\| DISK round=100$", timeout=120)
    for name in ("bad1", "bad2"):
        if name == "bad2":
            pair.q["a"].call("guest-start", guest=name)
        a.wait_for(rf"^{name}\| .*HOSTILE s", timeout=60)
        for guest_name in ("paced", "db"):
            to = "b" if pair.q["a"].status(guest_name) == "running" else "a"
            info = pair.move(guest_name, to, max_rounds=4)
            print(f"{guest_name} to {to} beside {name}: {info['status']}, down {info['downtime-us']} us", flush=True)
        at = "a"
        for _ in range(2):
            entry = pair.q[at].guest(name)
            if entry["status"] != "running":
                break
            to = "b" if at == "a" else "a"
            pair.migrate(name, to, max_rounds=4)
            info = pair.wait_moved(name, at)
            print(f"{name} to {to}: {info['status']} {info.get('error-desc', '')}", flush=True)
            if info["status"] == "completed":
                pair.check_at(name, to)
                at = to
                had = pair.q[at].guest(name)["exits"]
                wait_until(lambda: runs_on(pair.q[at].guest(name), had), f"{name} goes on at {at}", 30)
            else:
                assert info["error-desc"], info
                pair.check_at(name, at, status=pair.q[at].status(name))
        entry = pair.q[at].guest(name)
        print(f"{name}: {entry['status']} on {at} {entry['exit-reason']}; {last_words(pair.hosts[at], name)}", flush=True)
        assert entry["status"] == "running" or (entry["status"] in ENDS and entry["exit-reason"]), entry
        if entry["status"] == "running":
            pair.q[at].call("guest-stop", guest=name)
    had, disk = len(beats(a, b)), rounds(a, b)
    wait_until(lambda: len(beats(a, b)) > had + 3 and rounds(a, b) > disk, "paced and db go on", 60)
    assert a.alive() and b.alive()
