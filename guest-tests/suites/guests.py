# SPDX-License-Identifier: MIT
"""The tiny guests of guest-tests/tests.py on a host: many at a time, which also tests that they share its CPU."""
import os
import re
import subprocess
import time

import bench
import lib
from lib import conf, guest, until
from runner import GODWIT, test

import tests  # isort: skip (found through lib)

ENDS = {"pass": "shutdown", "off": "shutdown", "dead": "internal-error", "panicked": "guest-panicked"}
ALONE = ("timer", "timer-lax", "timer-loop")  # measure time, so nobody may compete for the CPU


def sections(batch, alone=ALONE, **keys):
    return [
        guest(
            t.name,
            t.image,
            memory=f"{t.memory}M",
            cmdline=t.args or None,
            vcpus=t.vcpus,
            disk=t.disk,
            os="multiboot",
            modules=[name for name, _ in t.modules],
            **{"autostart": "no" if t.name in alone else "yes", **keys},
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


def run_batch(run, batch, more="", timeout=60, cpus=1, alone=ALONE, **keys):
    """Boot a host with these guests, judge them; returns (host, operator, control session). Those named in `alone` run
    after the others, one by one."""
    host = run.host("a", run.esp("a", conf(*sections(batch, alone, **keys), more=more), files(batch)), sync="none", cpus=cpus)
    host.wait_for(r"hv: ready", 60)
    op = lib.Operator(run, host)
    c = op.control()
    judge(c, [t for t in batch if t.name not in alone], timeout)
    for t in batch:
        if t.name in alone:
            c.call("guest-start", guest=t.name)
            judge(c, [t], timeout)
    return host, op, c


def chosen(*kinds):
    return [t for t in tests.TESTS if t.expect.partition(":")[0] in kinds]


def parts(batch, most):
    """The batch in parts of about the same size, for as many hosts."""
    count = -(-len(batch) // most)
    return [batch[n::count] for n in range(count)]


def register(name, timeout, body, batches):
    """One test per batch: NAME_1, NAME_2..."""
    for n, batch in enumerate(batches, 1):

        def run_one(run, batch=batch):
            body(run, batch)

        run_one.__name__ = f"{name}_{n}"
        test(timeout=timeout)(run_one)


GOOD = [t for t in chosen("pass", "off") if t.vcpus == 1]  # smp.py has the others: a crowd of vCPUs on one CPU takes its time
BAD = chosen("reset", "runs", "dead", "panicked")


def self_migrate(run, batch):
    """All guest state is wiped and loaded every few exits: nothing may change for the guest."""
    _, _, c = run_batch(run, batch, more="[debug]\nself-migrate-exits=10\n\n", timeout=120)
    few = {name: e["self-migrations"] for name, e in c.guests().items() if e["self-migrations"] < 2}
    assert not few, f"too few self-migrations: {few}"


def misbehave(run, batch):
    """Guests that spin, die and reset for ever: a good one beside them gets its share, and all can be switched off."""
    dirty = next(t for t in tests.TESTS if t.name == "dirty")
    neighbour = dirty._replace(name="neighbour", args="mb=4 rate=4", expect="runs", output="DIRTY seq=5 ")
    host, op, c = run_batch(run, [neighbour] + batch)
    status = op.godwit("status").stdout
    dead = [t.name for t in batch if t.expect.startswith("dead")]
    for name in dead:
        assert re.search(rf"guest '{name}' on 'a' is internal-error: .", status), status

    # A host that is still in command: each guest can be stopped and started.
    running = [t for t in batch if t.expect == "runs"]
    for t in running:
        free = op.status()[0]["memory-free"]
        out = op.godwit("stop", t.name, "--force").stdout
        assert "it is now shutdown" in out, out
        until(lambda: op.status()[0]["memory-free"] - free >= t.memory << 20, 10, f"memory of {t.name} comes back")
        assert c.guests()[t.name]["exit-reason"] == "switched off by alice", c.guests()[t.name]
    name = running[0].name
    entry = c.guests()[name]
    got = op.godwit("stop", name, "--force", check=False)
    assert got.returncode == 1 and "does not run here: it is shutdown" in got.stderr, got
    c.call("guest-start", guest=name)
    again = c.guests()[name]
    assert again["status"] == "running" and again["epoch"] == entry["epoch"] + 1, again
    free = c.call("query-host")["memory-free"]
    c.call("guest-start", guest=dead[0])
    entry = c.wait_status(dead[0], "internal-error")
    assert entry["epoch"] == 2, entry
    until(lambda: c.call("query-host")["memory-free"] >= free, 10, "memory of the dead comes back")
    seq = int(re.findall(r"DIRTY seq=(\d+) ", c.console("neighbour"))[-1])
    c.wait_console("neighbour", rf"DIRTY seq={seq + 3} .*chk=OK")
    assert "chk=BAD" not in c.console("neighbour") and host.alive()


register("guests_misbehave", 150, misbehave, parts(BAD, 12))
register("guests_self_migrate", 180, self_migrate, parts([t for t in GOOD if t.name != "timer-lax"], 14))
register("guests_pass", 120, run_batch, parts(GOOD, 14))


@test(timeout=120)
def guest_commands(run):
    """start, stop, reset, pause, resume and the console by the godwit command; memory comes back to the last page."""
    echo = next(t for t in tests.TESTS if t.name == "uart-echo")
    spin = next(t for t in tests.TESTS if t.name == "spin")
    power = guest("button", "poweroff.elf", memory="16M", cmdline="how=button", os="multiboot")
    text = conf(*sections([echo], autostart="no"), power, *sections([spin]))
    images = {**files([echo, spin]), "poweroff.elf": os.path.join(lib.GUESTS, "poweroff.elf")}
    host = run.host("a", run.esp("a", text, images), sync="none")
    host.wait_for(r"hv: ready", 60)
    op = lib.Operator(run, host)
    c = op.control()
    name = echo.name
    assert c.guests()[name]["status"] == "prelaunch"
    got = op.godwit("stop", name, "--force", check=False)
    assert got.returncode == 1 and "does not run here: it is prelaunch" in got.stderr, got
    got = op.godwit("start", "nobody", check=False)
    assert got.returncode == 1 and "nobody" in got.stderr, got

    def free():
        return c.call("query-host")["memory-free"]

    def boots():
        """How often the guest has come up so far."""
        return len(re.findall("UART echo", c.console(name)))

    # The power button: of a guest that listens, and of one that does not.
    until(lambda: "BUTTON listening" in c.console("button"), 20, "the guest listens to its power button")
    assert "was shut down; it is now shutdown" in op.godwit("stop", "button").stdout
    got = op.godwit("stop", spin.name, check=False)
    assert got.returncode == 1 and "does not listen to its power button" in got.stderr, got

    before = free()
    assert "it is now running" in op.godwit("start", name).stdout
    assert before - free() >= echo.memory << 20
    until(lambda: boots() == 1, 20, "the guest comes up")
    assert "it is now shutdown" in op.godwit("stop", name, "--force").stdout
    until(lambda: free() >= before, 10, lambda: f"memory comes back: {before} {free()}")
    left = []
    for _ in range(6):
        count = boots()
        c.call("guest-start", guest=name)
        until(lambda: boots() > count, 20, "the guest comes up")
        c.call("guest-stop", guest=name)
        c.wait_status(name, "shutdown")
        if len(left) > 2:  # by now the heap has what this needs
            until(lambda: free() >= left[2], 10, lambda: f"each start costs memory: {left} {free()}")
        left.append(free())

    count = boots()
    op.godwit("start", name)
    until(lambda: boots() > count, 20, "the guest comes up")
    c.type(name, "hello, world\n")
    c.wait_console(name, r"hello, world")

    def shown(*words, options=(), typed=b""):
        """The words come out of the command, however long that takes."""
        path = os.path.join(run.dir, "shown")
        with open(path, "wb") as out:
            command = subprocess.Popen(
                [GODWIT, "console", "--dir", op.dir, *bench.PATIENT, name, *options], stdin=subprocess.PIPE, stdout=out
            )
        try:
            command.stdin.write(typed)
            command.stdin.flush()

            def text():
                with open(path, encoding="utf-8", errors="replace") as f:
                    return f.read()

            until(lambda: all(w in text() for w in words), 20, lambda: f"{words} in {text()!r}")
            if typed:
                command.stdin.close()
                assert command.wait(60) == 0
        finally:
            command.kill()
            command.wait()

    # The same by the command: what is typed comes back.
    shown("typed by the command", typed=b"typed by the command\n")
    shown("UART echo", "hello, world", options=("--history", "--no-input"))

    count = boots()
    assert "it is now running" in op.godwit("reset", name).stdout
    until(lambda: boots() > count, 20, "the guest comes up after the reset")
    assert "it is now paused" in op.godwit("pause", "spin").stdout
    exits = c.guests()["spin"]["exits"]
    now = c.call("query-host")["uptime-us"]
    until(lambda: c.call("query-host")["uptime-us"] > now + 500000, 10, "half a second goes by")  # of hundreds of exits
    assert c.guests()["spin"]["exits"] == exits, "a paused guest runs"
    assert "it is now running" in op.godwit("resume", "spin").stdout
    until(lambda: c.guests()["spin"]["exits"] > exits, 10, "the guest goes on")
    got = op.godwit("start", "spin", check=False)
    assert got.returncode == 1 and "is running already" in got.stderr, got


@test(timeout=150)
def guests_talk(run):
    """Two tiny guests on one switch: every frame comes back as it was, with all state wiped and loaded again and again."""
    keys = {"debug_exit": "yes", "console": "serial", "nic": "lan"}
    text = conf(
        guest("answer", "net.elf", cmdline="answer", **keys),
        guest("ask", "net.elf", cmdline="ask frames=100 flood=1000", **keys),
        more="[switch lan]\n\n[debug]\nself-migrate-exits=50\n\n",
    )
    host = run.host("a", run.esp("a", text, {"net.elf": os.path.join(lib.GUESTS, "net.elf")}), sync="none")
    host.wait_for(r"^ask\| GUEST (PASS|FAIL)", 120)
    assert "GUEST PASS" in host.serial(), host.serial()[-2000:]
    entry = lib.Operator(run, host).control().guests()
    assert entry["ask"]["self-migrations"] > 10 and entry["answer"]["self-migrations"] > 10, entry
