#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Measures what Godwit costs, and sets it beside KVM/QEMU and what we aim at. `make bench` runs it.

    tools/bench/measure.py [PART...]        parts: host smp move; none = all

Prints a table and writes build/bench.json, a flat object of numbers; parts that were not run keep their old
figures there. In Bochs with one CPU one instruction is one tick, so ticks do not depend on the machine that runs
it, but where somebody outside (an NBD server) is waited for; docs/HARDWARE.md has what several CPUs do to them. In QEMU with KVM
they are the CPU's own. Figures are not tests: a missed aim is not a failure (exit code 0).
"""
import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import bench
import cluster
import servers

GUESTS = os.path.join(bench.BUILD, "guests")
OUT = os.path.join(bench.BUILD, "bench.json")
MOVES = {"idle": 2, "dirty16": 1}  # how often; the median counts
# Not faster than an emulator is while it does AES: else one host waits, in ticks, for the emulator of the other, and that
# counts as freeze. Not slower either, or 16 MiB/s is more than an emulated CPU can send.
MOVE_IPS = 50_000_000
# A guest that dirties faster than the link carries is frozen after the last round; the default of 30 only takes longer.
OPTIONS = ["--max-rounds=8"]
DIRTY_MIB_S = 16

# KVM and QEMU 7.2 on stock Debian 12, measured in the same emulator (same unit); and what Godwit aims at. A move's
# figures there are with TLS, both ends together.
KVM = {
    "exit.cpuid.ticks": 1421,
    "exit.vmcall.ticks": 1216,
    "exit.mmio.ticks": None,
    "exit.pmtimer.ticks": 5945,
    "boot.first_guest_output.ticks": 8.7e9,
    "hypervisor.memory.bytes": 104e6,
    "move.idle.wire_bytes": 67.1e6,
    "move.idle.freeze_ticks": 270e6,
    "move.idle.busy_ticks_per_byte": 20,
    "move.dirty16.wire_bytes": 86.05e6,
    "move.dirty16.freeze_ticks": 429e6,
}
AIM = {
    "exit.cpuid.ticks": 300,
    "exit.vmcall.ticks": 300,
    "exit.pmtimer.ticks": 600,
    "boot.first_guest_output.ticks": 1.0e9,
    "hypervisor.memory.bytes": (32 << 20) - 1,
    "move.idle.freeze_ticks": 10e6,
    "move.idle.busy_ticks_per_byte": 8,
}

def section(name, kernel, *lines, autostart="yes"):
    """A [guest ...] section of a tiny guest."""
    keys = (f"kernel = {kernel}.elf", "memory = 16M", f"autostart = {autostart}", "debug-exit = yes", "console = serial")
    return "\n".join((f"[guest {name}]", *keys, *lines)) + "\n"


def later(*args):
    """One that is started when those before it have ended."""
    return section(*args, autostart="no")


# What runs on a host with one CPU and on one with three. `answer` ends only with the host.
DEVICES = (
    "[switch lan]\n"
    + later("answer", "net", "cmdline = answer", "nic = lan")
    + later("net", "net", "cmdline = ask", "nic = lan")
    + later("compute", "spin", "cmdline = how=compute rounds=8")
    + later("compute-hz250", "spin", "cmdline = how=compute rounds=8 hz=250")
)
DISK_REQUESTS = 200
TINY = section("hello", "hello") + section("exits", "exits")
SMP = section("smp", "smp", "cmdline = x2apic", "vcpus = 2")
LINUX = """[guest web]
memory = 128M
kernel = vmlinuz
initrd = initrd.cpio
cmdline = console=ttyS0 cryptomgr.notests hb.pattern_mb=1
autostart = yes
console = serial
"""
LINUX_FILES = {
    "vmlinuz": os.path.join(bench.BUILD, "linux", "vmlinuz"),
    "initrd.cpio": os.path.join(GUESTS, "initrd.cpio"),
}


def note(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


def directory(part):
    return os.path.join(bench.BUILD, "bench-" + part)


def figures_of(name, text):
    """What a guest printed: {name: value}."""
    found = {}
    for key, ticks, per_s, lost in re.findall(
        rf"^{name}\| BENCH (\S+)\.ticks=(\d+)(?: per_s=(\d+))?(?: lost=(\d+))?", text, re.M
    ):
        found[key + ".ticks"] = int(ticks)
        if per_s:
            found[key + ".per_s"] = int(per_s)
        if lost:
            found[key + ".lost"] = int(lost)
    return found


def lost(name, text):
    """The share of its time that a computing guest did not get, by all that it printed: {name: percent}."""
    rounds = [(int(ppm), int(ms)) for ppm, ms in re.findall(rf"^compute\S*\| SPIN lost-ppm=(\d+) .* ms=(\d+)", text, re.M)]
    return {f"lost.{name}.percent": round(sum(ppm * ms for ppm, ms in rounds) / sum(ms for _, ms in rounds) / 10000, 2)}


def measure_guests(part, what, cpus, at_boot, prefix):
    """Runs tiny guests on one host, each alone, and collects their figures: those of at_boot, which start with it, and the
    devices'. prefix: of the devices' keys. Returns the figures and the host's answer to `status`."""
    run = cluster.Cluster(directory(part), "bench")
    image = os.path.join(run.dir, "nbd.img")
    with open(image, "wb") as f:
        f.truncate(8 << 20)
    server = servers.NbdServer("nbdkit", image, run.dir).start()
    disks = ("disk = ram:8M", f"disk = {server.uri()}")
    conf = at_boot + DEVICES + later("disk", "disk", f"cmdline = disks=2 bench loops={DISK_REQUESTS}", *disks)
    kernels = set(re.findall(r"^kernel = (\S+)$", conf, re.M))
    host = run.host("a", conf, {name: os.path.join(GUESTS, name) for name in kernels}, cpus=cpus)
    found = {}

    def wait(name):
        if host.wait_for(rf"^{name}\| GUEST (PASS|FAIL)", timeout=600, rewind=True)[1] != "PASS":
            raise bench.BenchError(f"the guest '{name}' failed; see {host.serial_path}")

    try:
        note(what)
        host.start()
        boot = re.findall(r"^\[guest (\S+)\]", at_boot, re.M)
        for name in boot:
            wait(name)
        for name in boot:
            found.update(figures_of(name, host.serial()))
        run.godwit("start", "answer")
        for name in ("disk", "net", "compute", "compute-hz250"):
            note(f"guest {name}")
            start = len(host.serial())
            run.godwit("start", name)
            wait(name)
            text = host.serial()
            figures = lost(name, text[start:]) if name.startswith("compute") else figures_of(name, text)
            for key, value in figures.items():
                key = re.sub(r"^disk(\d)", lambda m: "disk." + ("ram", "nbd")[int(m[1])], key)
                found[prefix + (f"net.{key}" if name == "net" else key)] = value
        (answer,) = run.query("status")["hosts"]
        return found, answer["host"]
    finally:
        run.stop()
        server.stop()


def measure_host():
    """Exits; the time from power-on to a tiny guest's first byte; devices, and what a computing guest loses, on one CPU."""
    found, host = measure_guests("host", "one host with one CPU, tiny guests", 1, TINY, "")
    found["boot.first_guest_output.ticks"] = host["first-guest-output-ticks"]
    return found


def measure_smp():
    """From one vCPU to the other's interrupt handler, and from a deadline to it, on a host with three CPUs; devices again."""
    found, _ = measure_guests("smp", "one host with three CPUs, tiny guests", 3, SMP, "smp.")
    return {key if key.startswith("smp.") else "smp." + key: value for key, value in found.items()}


def one_move(run, source, target):
    """Move the guest; its figures as both ends tell them."""
    try:
        run.godwit("migrate", "web", target, *OPTIONS)
    except cluster.CommandFailed as e:
        # On a machine with too few cores a peer's timeouts pass while its partner's emulator waits for one.
        note(f"{e}; trying once more")
        run.godwit("migrate", "web", target, *OPTIONS)
    out = run.query("migrate-status", "web", "--host", source)
    into = run.query("migrate-status", "web", "--host", target)
    if out["status"] != "completed" or not out["hash-verified"]:
        raise bench.BenchError(f"the move was not completed and verified: {out}")
    sent = out["ram"]["transferred"]
    return {
        "wire_bytes": sent,
        "rounds": out["round"],
        "resent_pages": out["ram"]["pages-resent"],
        # By the source's clock, up to the target's answer that the guest runs.
        "freeze_us": out["downtime-us"],
        "freeze_ticks": out["downtime-ticks"],
        "wall_us": out["total-time-us"],
        "busy_ticks_per_byte": round((out["busy-ticks"] + into["busy-ticks"]) / sent, 2),
    }


def moves(run, kind, ends, found):
    """Between the two hosts of ends, whose first has the guest; the median of each figure. Returns ends as they are now."""
    all_figures = []
    for _ in range(MOVES[kind]):
        figures = one_move(run, *ends)
        note(f"move {kind} {' to '.join(ends)}: " + ", ".join(f"{k} {v}" for k, v in figures.items()))
        all_figures.append(figures)
        ends = ends[::-1]
        time.sleep(2)
    for key in all_figures[0]:
        found[f"move.{kind}.{key}"] = statistics.median(f[key] for f in all_figures)
    return ends


def move_beside(run, ends, host, found):
    """A move away from a host whose CPU another guest computes on: what that one loses. Returns ends as they are now."""
    run.godwit("start", "compute")
    host.wait_for(r"^compute\| SPIN lost-ppm", timeout=120)
    before = len(host.serial())
    figures = one_move(run, *ends)
    found.update(lost("compute-moving", host.serial()[before:]))
    found["move.beside.wall_us"] = figures["wall_us"]
    run.godwit("stop", "--force", "compute")
    note(f"move beside a computing guest: {figures}; it lost {found['lost.compute-moving.percent']} %")
    return ends[::-1]


def dirty_from_now(run, host):
    """Tells the guest on its console to rewrite memory. `godwit console` would stay as long as the guest talks."""
    command = [cluster.GODWIT, "console", "web"]
    with subprocess.Popen(
        command, env=run.env(), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as console:
        console.stdin.write(f"dirty {DIRTY_MIB_S}\n".encode())
        console.stdin.flush()
        try:
            host.wait_for(r"^web\| HB SET dirty_mb_s=", timeout=60)
        finally:
            console.kill()


def measure_move():
    """Moves of a 128 MiB Linux guest between two hosts: idle, beside a guest that computes, and while it dirties memory."""
    run = cluster.Cluster(directory("move"), "bench")
    b = run.host("b", ips=MOVE_IPS)
    files = {**LINUX_FILES, "spin.elf": os.path.join(GUESTS, "spin.elf")}
    a = run.host("a", LINUX + later("compute", "spin", "cmdline = how=compute"), files, ips=MOVE_IPS)
    found = {}
    try:
        note("two hosts, a Linux guest of 128 MiB")
        a.start()
        b.start()
        b.wait_for(r"hv: ready", timeout=180)
        a.wait_for(r"^web\| HB seq=10 ", timeout=300)
        hosts = {h["name"]: h["host"] for h in run.query("status")["hosts"]}
        found["hypervisor.memory.bytes"] = hosts["a"]["hypervisor-memory"]
        ends = moves(run, "idle", ("a", "b"), found)
        ends = move_beside(run, ends, a, found)
        dirty_from_now(run, run.hosts[ends[0]])
        moves(run, f"dirty{DIRTY_MIB_S}", ends, found)
        text = a.serial() + b.serial()
        if "HB FAIL" in text or not re.search(r"^web\| HB seq=\d+ .* chk=OK ", b.serial(), re.M):
            raise bench.BenchError(f"the guest found a fault; see the logs in {directory('move')}")
        return found
    finally:
        run.stop()


PARTS = {"host": measure_host, "smp": measure_smp, "move": measure_move}


def text(value):
    """A figure for people: 1,421 or 8.70e9."""
    if value is None:
        return "-"
    if value >= 1e9:
        return f"{value / 1e9:.2f}e9"
    if value >= 1e6:
        return f"{value / 1e6:.1f}e6"
    return f"{value:,.2f}".rstrip("0").rstrip(".")


def table(figures):
    """The figures beside KVM/QEMU's and the aims, as text."""
    lines = [f"{'':34}{'Godwit':>10}{'KVM/QEMU':>11}{'aim':>10}"]
    for key in sorted(figures):
        aim = AIM.get(key)
        verdict = "" if aim is None else "  met" if figures[key] <= aim else "  MISSED"
        lines.append(
            f"{key:34}{text(figures[key]):>10}{text(KVM.get(key)):>11}"
            f"{'-' if aim is None else '<=' + text(aim):>10}{verdict}"
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="host, smp, move (default: all)")
    parts = parser.parse_args().parts or list(PARTS)
    for part in parts:
        if part not in PARTS:
            parser.error(f"no such part: {part} (there are {', '.join(PARTS)})")
    bench.enter_netns()
    figures = {}
    if set(parts) != set(PARTS) and os.path.exists(OUT):
        with open(OUT, encoding="ascii") as f:
            figures = json.load(f)
    emulator, reason = bench.pick_emulator()
    note(f"{emulator} ({reason})")
    try:
        bench.selfcheck()
        for part in parts:
            figures.update(PARTS[part]())
    except bench.BenchError as e:
        sys.exit(f"bench: {e}")
    print(table(figures))
    with open(OUT, "w", encoding="ascii") as f:
        json.dump(figures, f, indent="\t", sort_keys=True)
        f.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
