# SPDX-License-Identifier: MIT
"""One property per tiny guest, checked over and over while the guest moves there and back."""
import os
import re
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from pair import Pair, guest, images, wait_until
from runner import test

# name: (kernel, arguments, vCPUs, more keys, whether it can be held at the point where a move hurts most)
GUESTS = {
    "startup": ("smp", "prove=startup x2apic", 3, "", True),
    "ipi": ("smp", "prove=ipi x2apic", 3, "", True),
    "tsc": ("smp", "prove=tsc", 3, "", True),
    "timers": ("timer", "loop slack-us=100000", 2, "", False),
    "msix": ("pci", "loop", 2, "", True),
    "ring": ("ring", "loop", 1, "", True),
    "disk": ("disk", "loop", 1, "disk=ram:1M\n", True),
    "fpu": ("fpu", "loop exits=5", 2, "", True),
}
LINE = re.compile(r"LOOP seq=(\d+) turns=(\d+) tsc=(\d+) chk=OK$")


def turns(pair, name, host):
    """The numbers of turns in the guest's lines on that host. It has not said that anything is wrong."""
    lines = pair.console(name)[host]
    wrong = [text for text in lines if "FAIL" in text or "BAD" in text]
    assert not wrong, f"{name} on {host}: {wrong[0]}"
    return [int(found.group(2)) for found in map(LINE.match, lines) if found]


def wait_turns(pair, name, host, count=3):
    """So many more lines, and turns between them, on that host; all lines are right, and each is there once."""
    had = turns(pair, name, host)
    wait_until(lambda: len(turns(pair, name, host)) >= len(had) + count, f"{name} goes on on {host}", 120)
    pair.check_sequence(name)
    got = turns(pair, name, host)
    assert got[-1] > got[-count], (name, host, got)


def wait_line(pair, name, host, line, timeout=60):
    wait_until(lambda: any(re.match(line, text) for text in pair.console(name)[host]), f"{name} says {line} on {host}", timeout)


@test(timeout=500, cores=2)
def properties_move(run):
    """SMP start-up, IPIs, equal TSCs, timers, MSI-X, rings, disk, vector registers: right before, in and after two moves.

    The first move comes at any moment of a turn; before the second, guests are held where it hurts most.
    """
    text = "".join(
        guest(name, kernel, args, memory="4M", more=f"vcpus={vcpus}\ndebug-exit=yes\n{more}")
        for name, (kernel, args, vcpus, more, _) in GUESTS.items()
    )
    pair = Pair(run, {"a": text}, images(*{kernel for kernel, *_ in GUESTS.values()}), {"a": {"cpus": 2}, "b": {"cpus": 2}})
    began = time.monotonic()
    for name in GUESTS:
        wait_turns(pair, name, "a")
    print(f"all run after {time.monotonic() - began:.0f} s", flush=True)
    for name in GUESTS:
        info = pair.move(name, "b", max_rounds=4)
        print(f"{name} to b: down {info['downtime-us']} us, {info['round']} rounds", flush=True)
    for name in GUESTS:
        wait_turns(pair, name, "b")
    for name, (_, _, _, _, holds) in GUESTS.items():
        if holds:
            pair.q["b"].type(name, "h")
            wait_line(pair, name, "b", r"HOLD turns=")
        info = pair.move(name, "a", max_rounds=4)
        print(f"{name} to a: down {info['downtime-us']} us, {info['round']} rounds", flush=True)
        if holds:
            pair.q["a"].type(name, "g")
            wait_line(pair, name, "a", r"HOLD end us=")
    for name in GUESTS:
        wait_turns(pair, name, "a")
        pair.q["a"].type(name, "q")
    for name in GUESTS:
        wait_line(pair, name, "a", r"GUEST (PASS|FAIL)")
        entry = pair.q["a"].guest(name)
        assert "GUEST PASS" in pair.console(name)["a"] and entry["debug-exit-code"] == 0, (name, entry)
        print(name, turns(pair, name, "a")[-1], "turns", flush=True)
