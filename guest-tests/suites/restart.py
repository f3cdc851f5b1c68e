# SPDX-License-Identifier: MIT
"""What survives a restart of a host: records in the firmware's variables."""
import os

import lib
from lib import conf, guest
from pair import Pair, QmpError, wait_until
from pair import guest as section
from pair import images
from runner import test


def up(host, operator):
    """A control session with a host that is starting."""
    host.wait_for(r"hv: ready", timeout=180)
    return operator.control(host.name)


def definitions(run, **options):
    """Guests are defined, changed and deleted; the power goes; they are as they were."""
    sections = [guest(name, "hello.elf", autostart="no") for name in ("one", "two")]
    files = {"hello.elf": os.path.join(lib.GUESTS, "hello.elf")}
    a = run.host("a", run.esp("a", conf(*sections), files), **options)
    operator = lib.Operator(run, a)
    q = up(a, operator)
    q.call("guest-create", guest="new", kernel="hello.elf", memory="24M", debug_exit=True, autostart=True)
    q.call("guest-create", guest="short-lived", kernel="hello.elf")
    q.call("guest-change", guest="one", memory="32M")
    q.call("guest-delete", guest="two")
    q.call("guest-delete", guest="short-lived")
    assert q.call("query-host")["records-error"] == ""
    a.power_cut()
    q = up(a, operator)
    got = q.guests()
    assert sorted(got) == ["new", "one"], got
    assert (got["new"]["memory"], got["one"]["memory"]) == (24 << 20, 32 << 20), got
    assert q.call("query-host")["config-errors"] == []
    return a, operator, q


@test(timeout=400)
def definitions_survive_a_power_cut(run):
    """And the guest that was made, and is to start by itself, does."""
    _, _, q = definitions(run)
    assert q.wait_status("new", "shutdown")["debug-exit-code"] == 0


@test(timeout=400)
def definitions_survive_in_flash(run):
    """QEMU has a flash chip for the firmware, but runs no guests. Whoever edits a section has the last word."""
    a, operator, q = definitions(run, emulator="tcg")
    q.call("guest-change", guest="one", cmdline="x")
    run.esp("a", conf(*[guest(name, "hello.elf", memory="48M", autostart="no") for name in ("one", "two")]),
            {"hello.elf": os.path.join(lib.GUESTS, "hello.elf")})
    a.power_cut()
    got = up(a, operator).guests()
    assert {n: g["memory"] >> 20 for n, g in got.items()} == {"new": 24, "one": 48, "two": 48}, got
    assert "keep: warning: guest one: its section in godwit.conf was edited" in a.serial()


@test(timeout=400)
def a_full_store_is_said(run):
    """Firmware's store fills up (OVMF makes room only when it starts): what was kept stays, and after a restart all is well."""
    files = {"hello.elf": os.path.join(lib.GUESTS, "hello.elf")}
    a = run.host("a", run.esp("a", conf(guest("g", "hello.elf", autostart="no")), files), emulator="tcg")
    operator = lib.Operator(run, a)
    q = up(a, operator)
    for changes in range(2000):
        answer = q.call("guest-change", guest="g", memory="32M" if changes % 2 else "16M", cmdline="x" * 100)
        if answer:
            break
    print(f"{changes} changes fit")
    assert changes > 50 and "store is full" in answer["warning"], (changes, answer)
    assert q.call("query-host")["records-error"] == answer["warning"]
    assert "store is full" in operator.godwit("status").stdout
    a.power_cut()
    q = up(a, operator)
    assert q.guests()["g"]["memory"] >> 20 == (16 if changes % 2 else 32)  # the last that was kept
    assert q.call("guest-change", guest="g", memory="64M") == {}


@test(timeout=700)
def a_restarted_host_knows_what_has_moved(run):
    """The guest starts by itself on a. Whichever host restarts, it never starts on a second one."""
    pair = Pair(run, {"a": section("g", "dirty", "mb=1 const-mb=1 rate=1 period-ms=200")}, images("dirty"))
    for name in "ab":
        assert pair.q[name].call("query-host")["records-error"] == ""

    def power_cut(name):
        # The target of a move writes its record in the turn after the one that says that the guest is here. The second of two
        # answers comes after that.
        for _ in range(2):
            pair.q[name].status("g")
        pair.hosts[name].power_cut()
        pair.connect(name)
        pair.hosts[name].wait_for(r"hv: ready", timeout=180)
        return pair.q[name].guest("g")

    wait_until(lambda: pair.q["a"].status("g") == "running", "g runs")
    pair.move("g", "b")
    got = power_cut("a")
    assert (got["status"], got["owner"], got["epoch"]) == ("postmigrate", "b", 2), got
    try:
        pair.q["a"].call("guest-start", guest="g")
        raise AssertionError("started a second time")
    except QmpError as e:
        assert "was moved to host b (epoch 2)" in e.desc, e
    assert pair.q["b"].status("g") == "running"
    pair.move("g", "a")
    # It is a's again: a starts it, b has nothing of it.
    got = power_cut("a")
    assert (got["status"], got["owner"], got["epoch"]) == ("running", "a", 4), got
    assert power_cut("b") is None
    # The host that it lives on restarts: it is off there, and starts nowhere but by somebody's word.
    pair.move("g", "b")
    got = power_cut("b")
    assert (got["status"], got["owner"], got["epoch"]) == ("shutdown", "b", 5), got
    assert power_cut("a")["status"] == "postmigrate"
    # b is gone for good.
    pair.hosts["b"].stop()
    pair.q["a"].call("guest-start", guest="g", force=True)
    got = power_cut("a")
    assert (got["status"], got["owner"]) == ("running", "a") and got["epoch"] > 6, got
