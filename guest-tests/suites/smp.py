# SPDX-License-Identifier: MIT
"""Hosts and guests with several CPUs: the smp guest, stock Linux under load, shares of CPU time, moves."""
import os
import re
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import guests
import lib
import move
from lib import conf, guest, until
from linux import FILES, beats, healthy, linux
from pair import Pair, images, wait_until
from pair import guest as pair_guest
from runner import test

import tests  # isort: skip (found through lib)

# What a kernel says when a CPU, a clock or an interrupt is not what it should be.
SICK = re.compile(r"lockup|stall|[Uu]nstable|TSC.*(warp|skew|unsynchronized)|BUG:|Call Trace|not responding|NMI backtrace|Hardware Error")
SMP = [t for t in tests.TESTS if t.name.startswith("smp")]


def well(text):
    """No sick line in a Linux guest's console."""
    bad = [line for line in text.splitlines() if SICK.search(line)]
    assert not bad, bad


def smp_host(run, cpus, *names, more=""):
    """One after the other on a host that is idle otherwise: they measure."""
    host, _, c = guests.run_batch(run, [t for t in SMP if t.name in names], more=more, timeout=100, cpus=cpus, alone=names)
    for name in names:
        bench = re.findall(r"^BENCH .*", c.console(name), re.M)
        print(f"{cpus} CPUs, {name}: {bench} {c.guests()[name]['self-migrations']} self-migrations", flush=True)
        ticks = {kind: int(n) for kind, n in re.findall(r"BENCH ([\w-]+)\.ticks=(\d+)", " ".join(bench))}
        if cpus == 1 and not more:  # its vCPUs wait for each other: who says PAUSE gives way long before its slice ends
            assert 2 * ticks["handover"] < ticks["handover-nopause"], ticks
    host.stop()


@test(timeout=400)
def smp_one_cpu(run):
    """Several vCPUs that share one CPU with the services."""
    smp_host(run, 1, "smp", "smp-2")
    smp_host(run, 1, "smp", more="[debug]\nself-migrate-exits=40\n\n")


@test(timeout=500)
def smp_three_cpus(run):
    """Two CPUs for vCPUs; also with all state wiped and loaded every few exits."""
    smp_host(run, 3, "smp", "smp-x2apic", "smp-8")
    smp_host(run, 3, "smp-x2apic", "smp-8", more="[debug]\nself-migrate-exits=40\n\n")


@test(timeout=400)
def apic_in_software(run):
    """Where the CPU delivers interrupts to an x2APIC, end and self-sending of one do not exit; the same guests with [debug] apicv=no."""
    cost = {}
    for more, by in ("", "the CPU"), ("[debug]\napicv=no\n\n", "software"):
        for name in "exits", "smp-x2apic":
            t = next(t for t in tests.TESTS if t.name == name)
            host, _, c = guests.run_batch(run, [t], more=more, timeout=100, cpus=3 if t.vcpus > 1 else 1)
            assert f"in x2APIC mode are delivered by {by}" in host.serial()
            cost.setdefault(by, []).extend(re.findall(r"^BENCH .*", c.console(name), re.M))
            host.stop()
    ticks = {by: dict(re.findall(r"BENCH ([\w.-]+)\.ticks=(\d+)", " ".join(lines))) for by, lines in cost.items()}
    print("\n".join(f"{by}: {found}" for by, found in ticks.items()), flush=True)
    for kind in "exit.x2eoi", "exit.x2selfipi":
        assert 5 * int(ticks["the CPU"][kind]) < int(ticks["software"][kind]), (kind, ticks)


def self_migrate_on_three_cpus(run, names):
    """A guest's state is wiped and loaded every few exits, and any CPU may run any of them next."""
    batch = [t for t in tests.TESTS if t.name in names.split()]
    _, _, c = guests.run_batch(run, batch, more="[debug]\nself-migrate-exits=10\n\n", timeout=150, cpus=3)
    few = {name: e["self-migrations"] for name, e in c.guests().items() if e["self-migrations"] < 2}
    assert not few, f"too few self-migrations: {few}"


@test(timeout=200)
def guests_on_three_cpus(run):
    """The other tiny guests, most of them with one vCPU."""
    self_migrate_on_three_cpus(run, "dirty memory64 fpu traps decoder uart msr exits hello timer smp-2")


@test(timeout=200)
def properties_on_three_cpus(run):
    """One property on several vCPUs in each; properties.py moves these."""
    self_migrate_on_three_cpus(run, "smp-startup smp-ipi smp-tsc timer-loop fpu-2 pci-loop ring")


def linux_smp(run, cpus, count, more="", least=0):
    esp = run.esp("a", conf(linux(cmdline="hb.threads=8 ", vcpus=4), more=more), FILES)
    host = run.host("a", esp, sync="none", cpus=cpus)
    host.wait_for(r"hv: ready", 60)
    c = lib.Operator(run, host).control()
    beats(c, count, timeout=300)
    text = c.console("web")
    assert "Brought up 1 node, 4 CPUs" in text, text
    c.type("web", "stats\n")
    stats = c.wait_console("web", r"^HB STATS .* thread_rounds=(\d+) fails=(\d+) ", 60)
    assert int(stats.group(1)) > 50 and stats.group(2) == "0", stats.group(0)
    well(c.console("web"))
    entry = c.guests()["web"]
    assert entry["self-migrations"] >= least, entry
    print(f"{cpus} CPUs: {stats.group(0)}, {entry['exits']} exits, {entry['self-migrations']} self-migrations", flush=True)
    c.type("web", "poweroff\n")
    c.wait_status("web", "shutdown", 60)
    healthy(c.console("web").split("HB START ")[1])
    well(c.console("web"))


@test(timeout=400)
def linux_four_cpus(run):
    """Stock Linux with four vCPUs on three CPUs: futexes, membarriers, timers, checked pages on all of them."""
    linux_smp(run, 3, 20)


@test(timeout=400)
def linux_four_cpus_self_migrate(run):
    """The same with everything wiped and loaded every 2000 exits of its first vCPU; and on a host with one CPU."""
    linux_smp(run, 3, 10, more="[debug]\nself-migrate-exits=2000\n\n", least=5)


@test(timeout=200)
def fair_shares(run):
    """Two guests that spin on one CPU get time by their weights; a third gets what it needs; the control port answers."""
    files = {name: os.path.join(lib.GUESTS, name) for name in ("spin.elf", "dirty.elf")}
    spin = {"cmdline": "how=cli", "os": "multiboot", "memory": "8M"}
    text = conf(
        guest("light", "spin.elf", weight=100, **spin),
        guest("heavy", "spin.elf", weight=300, **spin),
        guest("paced", "dirty.elf", cmdline="mb=1 const-mb=1 rate=2", memory="8M", weight=300, os="multiboot"),
    )
    host = run.host("a", run.esp("a", text, files), sync="none", cpus=2)
    host.wait_for(r"hv: ready", 60)
    c = lib.Operator(run, host).control()
    c.wait_console("paced", r"DIRTY seq=3 ", 60)

    def times():
        got = c.guests()
        return {name: got[name]["cpu-us"] for name in ("light", "heavy")}

    before, up = times(), c.call("query-host")["uptime-us"]
    until(lambda: c.call("query-host")["uptime-us"] - up > 3e6, 60, "three seconds go by")
    after = times()
    light, heavy = (after[name] - before[name] for name in ("light", "heavy"))
    print(f"light {light} us, heavy {heavy} us: 1 : {heavy / light:.2f}", flush=True)
    assert 3 * 0.85 < heavy / light < 3 * 1.15, (light, heavy)
    # Nobody waits long for an answer, in the machine's own time.
    slowest = c.slowest_answer(20)
    print(f"slowest answer {slowest} us", flush=True)
    assert slowest < 1e6, slowest
    c.wait_console("paced", r"DIRTY seq=10 .*chk=OK", 60)


@test(timeout=200)
def spinning_smp(run):
    """A guest that spins on all of its vCPUs stops neither another guest nor the control port; on one CPU, too."""
    files = {name: os.path.join(lib.GUESTS, name) for name in ("smp.elf", "dirty.elf")}
    text = conf(
        guest("all", "smp.elf", cmdline="loop", vcpus=4, os="multiboot"),
        guest("paced", "dirty.elf", cmdline="mb=1 const-mb=1 rate=2", memory="8M", os="multiboot"),
    )
    for cpus in (1, 2):
        host = run.host("a", run.esp("a", text, files), sync="none", cpus=cpus)
        host.wait_for(r"hv: ready", 60)
        c = lib.Operator(run, host).control()
        c.wait_console("all", r"SMP loop cpus=4", 90)
        seq = int((re.findall(r"DIRTY seq=(\d+) ", c.console("paced")) or ["0"])[-1])
        c.wait_console("paced", rf"DIRTY seq={seq + 10} .*chk=OK", 60)
        c.wait_console("all", r"DIRTY seq=5 .*chk=OK", 60)
        began = time.monotonic()
        c.call("stop", guest="all")
        c.call("cont", guest="all")
        c.call("system_reset", guest="all")
        c.call("guest-stop", guest="all")
        print(f"{cpus} CPUs: paused, resumed, reset and stopped in {time.monotonic() - began:.1f} s", flush=True)
        assert "BAD" not in c.console("all") and "FAIL" not in c.console("all"), c.console("all")
        host.stop()


# Two hosts.

WEB = """
[guest web]
memory=112M
vcpus=4
kernel=vmlinuz
initrd=initrd.cpio
cmdline=console=ttyS0 cryptomgr.notests hb.pattern_mb=8 hb.threads=4 hb.nap_us=20000
autostart=yes
console=serial
"""


@test(timeout=900, cores=2)
def linux_smp_moves(run):
    """Stock Linux with four vCPUs under load moves between hosts with two CPUs each, only one of which has APICs in its CPUs' hands."""
    pair = Pair(run, {"a": WEB, "b": "[debug]\napicv=no\n"}, move.LINUX, {name: {"cpus": 2} for name in "ab"})
    pair.hosts["a"].wait_for(r"^web\| HB seq=5 ", timeout=400)
    for to in "baba":
        move.move_linux(pair, to, "--max-rounds=5")
    pair.q["a"].type("web", "stats\n")
    stats = pair.hosts["a"].wait_for(r"^web\| HB STATS .* thread_rounds=(\d+) fails=(\d+) ", timeout=120)
    assert stats.group(2) == "0", stats.group(0)
    move.check_beats(pair)
    for lines in pair.console("web").values():
        well("\n".join(lines))


@test(timeout=400, cores=2)
def smp_moves(run):
    """Four vCPUs that write checked pages side by side move there and back: the dirty log misses nothing.

    One host has three CPUs, the other has one, and delivers interrupts in software. The guest halts most of the time: a busy emulated CPU takes speed from the others.
    """
    text = pair_guest("smp", "smp", "loop kb=256 paced x2apic", memory="16M", more="vcpus=4\n")
    pair = Pair(run, {"a": text, "b": "[debug]\napicv=no\n"}, images("smp"), {"a": {"cpus": 3}, "b": {"cpus": 1}})
    for name, by in ("a", "the CPU"), ("b", "software, as godwit.conf says"):
        assert f"in x2APIC mode are delivered by {by}" in pair.hosts[name].serial()
    pair.hosts["a"].wait_for(r"^smp\| DIRTY seq=3 ", timeout=200)
    for to in "baba":
        info = pair.move("smp", to, max_rounds=4)
        print(f"to {to}: {info['round']} rounds, {info['ram']['pages-resent']} resent, down {info['downtime-us']} us", flush=True)
        pair.wait_sequence("smp", 3)
    said = "".join("\n".join(lines) for lines in pair.console("smp").values())
    assert not [line for line in said.splitlines() if "SMP BAD" in line or line.startswith("FAIL")], said
    wait_until(lambda: pair.q["a"].guest("smp")["status"] == "running", "it runs", 20)
