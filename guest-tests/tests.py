#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The list of guest tests, for whoever runs them; and by itself, those that QEMU TCG can run.

    guest-tests/tests.py [-k PATTERN] [--guests build/guests]

TESTS is a list of Test. A guest goes into a host's godwit.conf as kernel=IMAGE, cmdline=ARGS (left out
if empty), memory=MEMORY, debug-exit=yes, os=multiboot. `expect` is one of
    pass            its console ends with GUEST PASS (it leaves through debug-exit 0: state shutdown)
    off             it switches itself off (state shutdown), and does not say GUEST FAIL
    reset           it starts again and again: `output` comes at least three times
    runs            it never ends by itself: still running when its time is up, `output` was seen
    dead:REGEX      its host stopped it (state internal-error) for a reason that matches
Whatever happens to a guest, its host and all other guests go on. `output` is a regular expression for
the console. `seconds` is what it needs of emulated time on an idle host, generously. `qemu` says whether
QEMU TCG is a good enough PC for it (it has no x2APIC, reads unknown MSRs as 0, ...). `vcpus`: how many it has. `disk`: disk= of
its section, or None.
"""
import argparse
import collections
import os
import re
import subprocess
import sys

Test = collections.namedtuple("Test", "name image args expect output memory seconds qemu modules vcpus disk")


def _t(name, args="", expect="pass", output="", memory=16, seconds=5, qemu=True, image=None, modules=(),
       vcpus=1, disk=None):
    return Test(name, (image or name.split("-")[0]) + ".elf", args, expect, output, memory, seconds, qemu, modules,
                vcpus, disk)


TESTS = [
    # A guest and its loader.
    _t("hello", "ram-mb=16 args first=one last=0x2a"),
    _t("hello64", "args first=one last=0x2a", qemu=False),  # QEMU loads no ELF64 by Multiboot
    _t("hello-modules", "expect-modules=2 sum=5050", modules=(("mod1.bin", bytes(range(101))), ("mod2.bin", b"x"))),
    _t("memory", "passes=2"),
    _t("memory64", "passes=1", qemu=False),
    _t("memory-64m", "passes=1", memory=64),
    _t("dirty", "seqs=5 mb=4 const-mb=2"),
    _t("dirty-paced", "seqs=5 mb=4 const-mb=2 rate=8"),
    # The virtual machine.
    _t("timer", "strict", seconds=10, qemu=False),
    _t("timer-lax", "slack-us=200000 percent=3", seconds=10),
    _t("uart"),
    _t("uart-echo", "echo", expect="runs", output="UART echo"),
    _t("cpuid", qemu=False),
    _t("msr", qemu=False),
    _t("fpu", "turns=50 exits=10"),
    _t("ports", "step=61", qemu=False),
    _t("ports-aligned", "step=60"),
    _t("exits", output="BENCH exit.cpuid.ticks="),
    _t("decoder", qemu=False),
    _t("decoder-undefined", "forms=undefined", qemu=False),
    _t("traps", qemu=False),
    _t("pci", seconds=10, qemu=False),
    _t("pci-direct", "direct loops=100", seconds=10, qemu=False),
    _t("ring", "turns=40", seconds=10, qemu=False),
    _t("ring-direct", "turns=40 direct", seconds=10, qemu=False),
    _t("disk", disk="ram:8M", output="DISK round=200", seconds=10, qemu=False),
    _t("disk-bench", "bench loops=40", disk="ram:8M", output="BENCH disk0.write.depth32.ticks=", qemu=False),
    _t("poweroff", expect="off", output="POWEROFF"),
    _t("reboot-kbd", "how=kbd", expect="reset", output="REBOOT start how=kbd"),
    _t("reboot-cf9", "how=cf9", expect="reset", output="REBOOT start how=cf9"),
    _t("reboot-fadt", "how=fadt", expect="reset", output="REBOOT start how=fadt", qemu=False),
    # Several CPUs.
    _t("smp", "cpus=4", seconds=10, vcpus=4),
    _t("smp-x2apic", "cpus=4 x2apic", seconds=10, qemu=False, vcpus=4),
    _t("smp-2", "cpus=2 x2apic", seconds=10, qemu=False, vcpus=2),
    _t("smp-8", "cpus=8", seconds=20, qemu=False, vcpus=8),
    _t("smp-1", "cpus=1", vcpus=1),
    # One property each, over and over.
    _t("smp-startup", "prove=startup x2apic turns=20", seconds=10, qemu=False, vcpus=3),
    _t("smp-ipi", "prove=ipi turns=8", seconds=10, vcpus=3),
    _t("smp-tsc", "prove=tsc turns=8", seconds=10, vcpus=3),
    _t("timer-loop", "turns=120 slack-us=200000", seconds=10, vcpus=2),
    _t("fpu-2", "turns=30 exits=5", seconds=10, vcpus=2),
    _t("pci-loop", "turns=40", seconds=10, qemu=False, vcpus=2),
    # Guests that behave badly.
    _t("badmsr", seconds=10, qemu=False),
    _t("unmapped-read", "op=read", qemu=False),
    _t("unmapped-write", "op=write"),
    _t("unmapped-exec", "op=exec", expect="dead:.", output="UNMAPPED", qemu=False),
    _t("unmapped-table", "op=table", expect="dead:.", output="UNMAPPED", qemu=False),
    _t("triplefault", expect="dead:triple fault", output="TRIPLEFAULT now", qemu=False),
    _t("reboot-triple", "how=triple", expect="dead:triple fault", output="REBOOT start how=triple", qemu=False),
    _t("decoder-vector", "forms=vector", expect="dead:does not emulate", qemu=False),
    _t("panic", "how=panic", image="poweroff", expect="panicked:its kernel panicked", output="PANIC now", qemu=False),
    _t("spin", expect="runs", output="SPIN"),
    _t("spin-sti", "how=sti", expect="runs", output="SPIN"),
    _t("spin-hlt", "how=hlt", expect="runs", output="SPIN"),
    _t("spin-cpuid", "how=cpuid", expect="runs", output="SPIN"),
    _t("spin-window", "how=nmi-window", expect="runs", output="SPIN"),
    _t("spin-compute", "how=compute rounds=2 hz=250", output="SPIN lost-ppm=", qemu=False),
    _t("traps-loop", "how=loop", expect="runs", output="TRAPS loop", qemu=False),
]


def write_modules(test, folder):
    """Write a test's Multiboot modules into a folder; returns their names."""
    for name, content in test.modules:
        with open(os.path.join(folder, name), "wb") as f:
            f.write(content)
    return [name for name, _ in test.modules]


def judge(test, console, ended):
    """None if the console of a guest that ran outside Godwit is as expected, else what is wrong."""
    if test.output and not re.search(test.output, console):
        return "no %r on the console" % test.output
    if "GUEST FAIL" in console:
        return "\n".join(line for line in console.splitlines() if line.startswith("FAIL"))
    if test.expect == "pass" and "GUEST PASS" not in console:
        return "no GUEST PASS; last line: %r" % console.strip().splitlines()[-1:]
    if test.expect == "runs" and ended:
        return "ended by itself"
    if test.expect in ("off", "reset") and not ended:
        return "still runs"
    return None


def run_qemu(test, guests, scratch):
    """Run one test in QEMU TCG; returns None or what is wrong. A reset ends QEMU there."""
    cmd = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", str(test.memory), "-kernel",
           os.path.join(guests, test.image), "-append", test.args, "-device", "isa-debug-exit,iobase=0xf4,iosize=4",
           "-smp", str(test.vcpus), "-serial", "stdio", "-display", "none", "-monitor", "none", "-vga", "none", "-net", "none", "-no-reboot"]
    modules = [os.path.join(scratch, name) for name in write_modules(test, scratch)]
    if modules:
        cmd += ["-initrd", ",".join(modules)]
    timeout = 3 if test.expect == "runs" else 60
    try:
        done = subprocess.run(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              timeout=timeout)
        out, ended = done.stdout, True
    except subprocess.TimeoutExpired as late:
        out, ended = late.stdout or b"", False
    return judge(test, out.decode(errors="replace").replace("\r", ""), ended)


def main():
    top = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-k", default="", help="only tests whose name contains this")
    parser.add_argument("--guests", default=os.path.join(top, "build", "guests"))
    args = parser.parse_args()
    scratch = os.path.join(args.guests, "obj")
    passed = failed = 0
    for test in TESTS:
        if not test.qemu or args.k not in test.name:
            continue
        wrong = run_qemu(test, args.guests, scratch)
        passed += not wrong
        failed += bool(wrong)
        print("%s %s%s" % ("FAIL" if wrong else "ok  ", test.name, ": " + wrong if wrong else ""), flush=True)
    print("%d passed, %d failed" % (passed, failed))
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
