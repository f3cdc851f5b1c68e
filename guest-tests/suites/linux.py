# SPDX-License-Identifier: MIT
"""The real guest: Debian's stock kernel with the heartbeat (see guest-tests/README.md)."""
import os
import re

import lib
from lib import conf, guest, until
from runner import test

CMDLINE = "console=ttyS0 cryptomgr.notests hb.pattern_mb=8 "
FILES = {
    "vmlinuz": os.path.join(lib.LINUX, "vmlinuz"),
    "initrd.cpio": os.path.join(lib.GUESTS, "initrd.cpio"),
    "dirty.elf": os.path.join(lib.GUESTS, "dirty.elf"),
}


def linux(name="web", kernel="vmlinuz", cmdline="", **keys):
    return guest(name, kernel, "128M", initrd="initrd.cpio", cmdline=CMDLINE + cmdline, os="linux", **keys)


def start(run, *guests, more="", **files):
    """Boot a host with these guests; returns (host, operator, control session)."""
    host = run.host("a", run.esp("a", conf(*guests, more=more), {**FILES, **files}), sync="none")
    host.wait_for(r"hv: ready", 60)
    op = lib.Operator(run, host)
    return host, op, op.control()


def beats(c, count, name="web", boots=1, timeout=150):
    """Wait until the guest has come up so many times and has beaten so often since; returns the console since then."""

    def check():
        runs = c.console(name).split("HB START ")
        return runs[boots] if len(runs) > boots and f"HB seq={count} " in runs[boots] else None

    text = until(check, timeout, lambda: f"{count} beats; the console ends with {c.console(name)[-600:]!r}")
    healthy(text)
    return text


def healthy(text):
    """No beat is missing, out of order or failed."""
    text = text[: text.rfind("\n") + 1]  # the last line may still be coming
    found = [line for line in text.splitlines() if line.startswith("HB ")]
    bad = [line for line in found if "FAIL" in line or ("HB seq=" in line and " chk=OK " not in line)]
    assert not bad, bad
    seqs = [int(s) for s in re.findall(r"^HB seq=(\d+) ", text, re.M)]
    assert seqs == list(range(1, len(seqs) + 1)), seqs
    monos = [float(s) for s in re.findall(r"^HB seq=.* mono=([\d.]+) .*", text, re.M)]
    assert monos == sorted(monos), monos


@test(timeout=240)
def linux_life(run):
    """Boots beside a tiny guest, takes input, reboots and powers off from inside, and leaves nothing behind."""
    host, op, c = start(run, guest("tiny", "dirty.elf", cmdline="mb=4 rate=4"), linux(autostart="no"))
    c.wait_console("tiny", "DIRTY seq=1 ")
    free = c.call("query-host")["memory-free"]
    op.godwit("start", "web")
    beats(c, 5)
    assert "physical x2apic" in c.console("web"), c.console("web")
    c.type("web", "stats\n")
    stats = c.wait_console("web", r"^HB STATS .* fails=(\d+) tsc_khz=(\d+)", 20)
    assert stats.group(1) == "0", stats.group(0)
    real = c.call("query-host")["tsc-khz"]
    assert abs(int(stats.group(2)) - real) < real / 50, (stats.group(0), real)
    # The check can fail at all.
    c.type("web", "corrupt\n")
    c.wait_console("web", r"^HB FAIL chk page=\d+ area=pattern ", 20)

    c.type("web", "reboot\n")
    c.wait_console("web", r"^HB END reboot", 20)
    beats(c, 3, boots=2)
    assert c.guests()["web"]["status"] == "running"
    c.type("web", "poweroff\n")
    entry = c.wait_status("web", "shutdown", 30)
    assert entry["exit-reason"] == "ACPI power off", entry
    until(lambda: c.call("query-host")["memory-free"] >= free, 10, lambda: f"memory: {free} {c.call('query-host')}")
    seq = int(re.findall(r"DIRTY seq=(\d+) ", c.console("tiny"))[-1])
    c.wait_console("tiny", rf"DIRTY seq={seq + 2} .*chk=OK")


@test(timeout=240)
def linux_self_migrate(run):
    """All of the guest's state is wiped and loaded some hundred times while it boots and beats."""
    _, _, c = start(run, linux(), more="[debug]\nself-migrate-exits=100\n\n")
    beats(c, 20)
    entry = c.guests()["web"]
    assert entry["self-migrations"] >= 300, entry
    c.type("web", "poweroff\n")
    c.wait_status("web", "shutdown", 30)
    healthy(c.console("web").split("HB START ")[1])


@test(timeout=240)
def linux_xapic(run):
    """Without x2APIC: every access to the local APIC is MMIO. Its state is wiped and loaded, too."""
    _, _, c = start(run, linux(cmdline="nox2apic "), more="[debug]\nself-migrate-exits=500\n\n")
    beats(c, 5)
    assert "x2apic enabled" not in c.console("web"), c.console("web")
    assert c.guests()["web"]["self-migrations"] >= 50, c.guests()


@test(timeout=240)
def linux_generic(run):
    """The distribution's generic kernel, which tries out far more hardware than the cloud kernel."""
    generic = os.path.join(lib.LINUX, "vmlinuz-generic")
    host, _, c = start(run, linux(kernel="generic"), more="[debug]\nquit-when-idle=yes\n\n", generic=generic)
    beats(c, 5)
    c.type("web", "poweroff\n")
    host.wait_for("guest: web: shutdown", 30)
    host.wait_exit(30)  # the last guest is off
