# SPDX-License-Identifier: MIT
"""The tiny guests of guest-tests/tests.py on a host: many at a time, which also tests that they share its CPU."""
import os
import re
import time

import lib
from lib import conf, guest, until
from runner import test

import tests  # isort: skip (found through lib)

ENDS = {"pass": "shutdown", "off": "shutdown", "dead": "internal-error"}
ALONE = ("timer", "timer-lax")  # measure time, so nobody may compete for the CPU


def sections(batch, **keys):
    return [
        guest(
            t.name,
            t.image,
            memory=f"{t.memory}M",
            cmdline=t.args or None,
            os="multiboot",
            modules=[name for name, _ in t.modules],
            **{"autostart": "no" if t.name in ALONE else "yes", **keys},
        )
        for t in batch
    ]


def files(batch):
    found = {t.image: os.path.join(lib.GUESTS, t.image) for t in batch}
    found.update({name: content for t in batch for name, content in t.modules})
    return found


def wrong(t, entry, console):
    """None if the guest is as its test expects, else what is wrong (as long as it may still come right)."""
    status, kind, _, reason = entry["status"], *t.expect.partition(":")
    seen = len(re.findall(t.output, console)) if t.output else 1
    if "GUEST FAIL" in console:
        return "\n".join(line for line in console.splitlines() if line.startswith("FAIL"))
    if kind in ("reset", "runs"):
        wanted = 3 if kind == "reset" else 1
        if status != "running" or seen < wanted:
            return f"{status} ({entry['exit-reason']}), {seen} times {t.output!r} instead of {wanted}"
        return None
    if status != ENDS[kind] or not seen:
        return f"{status} instead of {ENDS[kind]} ({entry['exit-reason']}), {seen} times {t.output!r}"
    if kind == "pass" and ("GUEST PASS" not in console or entry.get("debug-exit-code") != 0):
        return f"no GUEST PASS, {entry['exit-reason']}"
    if not re.search(reason, entry["exit-reason"]):
        return f"died of {entry['exit-reason']!r}, not of {reason!r}"
    return None


def judge(c, batch, timeout):
    """Wait until all guests of the batch are as expected."""
    bad = {}

    def check():
        bad.clear()
        entries = c.guests()
        for t in batch:
            why = wrong(t, entries[t.name], c.console(t.name))
            if why:
                bad[t.name] = why
        return not bad

    until(check, timeout, lambda: "\n".join(f"{name}: {why}" for name, why in bad.items()))


def run_batch(run, batch, more="", timeout=60, **keys):
    """Boot a host with these guests, judge them; returns (host, operator, control session)."""
    host = run.host("a", run.esp("a", conf(*sections(batch, **keys), more=more), files(batch)), sync="none")
    host.wait_for(r"hv: ready", 60)
    op = lib.Operator(run, host)
    c = op.control()
    judge(c, [t for t in batch if t.name not in ALONE], timeout)
    for t in batch:
        if t.name in ALONE:
            c.call("guest-start", guest=t.name)
            judge(c, [t], timeout)
    return host, op, c


def chosen(*kinds):
    return [t for t in tests.TESTS if t.expect.partition(":")[0] in kinds]


GOOD = chosen("pass", "off")
BAD = chosen("reset", "runs", "dead")
HALF = (len(GOOD) + 1) // 2


@test(timeout=120)
def guests_pass_1(run):
    run_batch(run, GOOD[:HALF])


@test(timeout=120)
def guests_pass_2(run):
    run_batch(run, GOOD[HALF:])


@test(timeout=150)
def guests_misbehave(run):
    """Guests that spin, die and reset for ever: a good one beside them gets its share, and all can be switched off."""
    dirty = next(t for t in tests.TESTS if t.name == "dirty")
    neighbour = dirty._replace(name="neighbour", args="mb=4 rate=4", expect="runs", output="DIRTY seq=5 ")
    host, op, c = run_batch(run, [neighbour] + BAD)
    status = op.godwit("status").stdout
    for t in BAD:
        if t.expect.startswith("dead"):
            assert re.search(rf"guest '{t.name}' on 'a' is internal-error: .", status), status

    # A host that is still in command: each guest can be stopped, started, reset.
    free = {}
    for t in BAD:
        if t.expect == "runs":
            free[t.name] = op.status()[0]["memory-free"]
            out = op.godwit("stop", t.name).stdout
            assert "it is now shutdown" in out, out
            c.wait_status(t.name, "shutdown")
            gained = until(lambda: op.status()[0]["memory-free"] - free[t.name], 10, "memory comes back")
            assert gained >= t.memory << 20, (t.name, gained)
            assert c.guests()[t.name]["exit-reason"] == "switched off by alice", c.guests()[t.name]
    entry = c.guests()["spin"]
    got = op.godwit("stop", "spin", check=False)
    assert got.returncode == 1 and "does not run here: it is shutdown" in got.stderr, got
    c.call("guest-start", guest="spin")
    again = c.guests()["spin"]
    assert again["status"] == "running" and again["epoch"] == entry["epoch"] + 1, again
    c.call("guest-start", guest="triplefault")
    assert "triple fault" in c.wait_status("triplefault", "internal-error")["exit-reason"]
    seq = int(re.findall(r"DIRTY seq=(\d+) ", c.console("neighbour"))[-1])
    c.wait_console("neighbour", rf"DIRTY seq={seq + 3} .*chk=OK")
    assert "chk=BAD" not in c.console("neighbour") and host.alive()


@test(timeout=120)
def guest_commands(run):
    """start, stop, reset, pause, resume and the console by the godwit command; memory comes back to the last page."""
    echo = next(t for t in tests.TESTS if t.name == "uart-echo")
    spin = next(t for t in tests.TESTS if t.name == "spin")
    text = conf(*sections([echo], autostart="no"), *sections([spin]))
    host = run.host("a", run.esp("a", text, files([echo, spin])), sync="none")
    host.wait_for(r"hv: ready", 60)
    op = lib.Operator(run, host)
    c = op.control()
    name = echo.name
    assert c.guests()[name]["status"] == "prelaunch"
    got = op.godwit("stop", name, check=False)
    assert got.returncode == 1 and "does not run here: it is prelaunch" in got.stderr, got
    got = op.godwit("start", "nobody", check=False)
    assert got.returncode == 1 and "nobody" in got.stderr, got

    def free():
        return c.call("query-host")["memory-free"]

    def boots():
        """How often the guest has come up so far."""
        return len(re.findall("UART echo", c.console(name)))

    before = []
    for n in range(3):
        before.append(free())
        assert "it is now running" in op.godwit("start", name).stdout
        assert before[-1] - free() >= echo.memory << 20
        until(lambda: boots() == n + 1, 20, "the guest comes up")
        assert "it is now shutdown" in op.godwit("stop", name).stdout
        until(lambda: free() >= before[-1], 10, lambda: f"memory comes back: {before} {free()}")
    assert before[1] == before[2], f"each start loses memory: {before}"

    op.godwit("start", name)
    until(lambda: boots() == 4, 20, "the guest comes up")
    c.type(name, "hello, world\n")
    c.wait_console(name, r"hello, world")
    # The same by the command: what is typed comes back.
    with open(os.path.join(run.dir, "typed"), "w", encoding="ascii") as f:
        f.write("typed by the command\n")
    with open(os.path.join(run.dir, "typed"), "rb") as f:
        out = op.godwit("console", name, "--idle", "1.5", stdin=f).stdout
    assert "typed by the command" in out, out
    out = op.godwit("console", name, "--history", "--no-input", "--idle", "0.7").stdout
    assert "UART echo" in out and "hello, world" in out, out

    assert "it is now running" in op.godwit("reset", name).stdout
    until(lambda: boots() == 5, 20, "the guest comes up after the reset")
    assert "it is now paused" in op.godwit("pause", "spin").stdout
    exits = c.guests()["spin"]["exits"]
    time.sleep(0.5)  # long enough for hundreds of exits
    assert c.guests()["spin"]["exits"] == exits, "a paused guest runs"
    assert "it is now running" in op.godwit("resume", "spin").stdout
    until(lambda: c.guests()["spin"]["exits"] > exits, 10, "the guest goes on")
    got = op.godwit("start", "spin", check=False)
    assert got.returncode == 1 and "is running already" in got.stderr, got


def self_migrations(c, least):
    entries = c.guests()
    few = {n: e["self-migrations"] for n, e in entries.items() if n in least and e["self-migrations"] < least[n]}
    assert not few, f"too few self-migrations: {few}"


@test(timeout=180)
def guests_self_migrate(run):
    """All guest state is wiped and loaded every few exits: nothing may change for the guest."""
    keep = [t for t in GOOD if t.name not in ALONE]
    _, _, c = run_batch(run, keep[:HALF], more="[debug]\nself-migrate-exits=20\n\n", timeout=120)
    self_migrations(c, {t.name: 5 for t in keep[:HALF]})


@test(timeout=180)
def guests_self_migrate_2(run):
    keep = [t for t in GOOD if t.name not in ALONE]
    timer = [t for t in GOOD if t.name == "timer"]
    _, _, c = run_batch(run, keep[HALF:] + timer, more="[debug]\nself-migrate-exits=20\n\n", timeout=120)
    self_migrations(c, {t.name: 2 for t in keep[HALF:]})
