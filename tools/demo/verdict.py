# SPDX-License-Identifier: MIT
"""What became of the guest, judged from nothing but the two hosts' serial logs."""
import re
from decimal import Decimal

# Every heartbeat line, with the prefix that its host gives it (guest-tests/README.md describes the line).
BEAT = re.compile(
    r"^(?P<guest>[^|\n]+)\| HB seq=(?P<seq>\d+) mono=(?P<mono>\d+\.\d+) real=(?P<real>\d+\.\d+)"
    r" chk=(?P<chk>\S+) dirty=(?P<dirty>\d+) gap=(?P<gap>\d+)$",
    re.M,
)
FAILURE = re.compile(r"^[^|\n]+\| (HB FAIL .*|.*Kernel panic.*)$", re.M)
LOST = re.compile(r"^\[lost\]$", re.M)


class Beat:
    """One heartbeat: host ("A" or "B"), number, guest clocks in seconds, memory check, MiB dirtied, worst gap in us."""

    def __init__(self, host, match):
        self.host = host
        self.seq, self.dirty, self.gap_us = (int(match[k]) for k in ("seq", "dirty", "gap"))
        # Nanoseconds since the boot of a long-running guest do not fit a float's 53 bits for ever.
        self.mono, self.real = Decimal(match["mono"]), Decimal(match["real"])
        self.check = match["chk"]


def beats(host, text, guest="web"):
    """The guest's heartbeats in a host's serial log, in the order in which they were printed."""
    return [Beat(host, m) for m in BEAT.finditer(text) if m["guest"] == guest]


def _numbers(found):
    """Faults of numbering: each number once, none left out, in order."""
    faults = []
    seen = [b.seq for b in found]
    missing = sorted(set(range(1, max(seen) + 1)) - set(seen))
    twice = sorted({n for n in seen if seen.count(n) > 1})
    if missing:
        faults.append(f"heartbeats are missing: {_some(missing)}")
    if twice:
        faults.append(f"heartbeats were printed twice: {_some(twice)}")
    if not missing and not twice and seen != sorted(seen):
        faults.append("heartbeats are out of order")
    return faults


def _some(numbers):
    return ", ".join(map(str, numbers[:5])) + (" ..." if len(numbers) > 5 else "")


def judge(log_a, log_b, guest="web"):
    """(faults, facts): the faults in words (none = all is well) and, if both hosts saw the guest, figures.

    facts: last (last beat on A), first (first on B), beats_a, beats_b, largest_gap_s and gap_s (guest clock: the
    largest time between two beats, and that between last and first), worst_us (guest's own worst lateness).
    """
    on_a, on_b = beats("A", log_a, guest), beats("B", log_b, guest)
    faults = [
        f"host {name} saw no heartbeat" for name, found in (("A", on_a), ("B", on_b)) if not found
    ]
    faults += [m[1] for text in (log_a, log_b) for m in FAILURE.finditer(text)]
    faults += [
        f"host {name} lost lines of its log"
        for name, text in (("A", log_a), ("B", log_b))
        if LOST.search(text)
    ]
    if not on_a or not on_b:
        return faults, None
    found = on_a + on_b
    faults += _numbers(found)
    pairs = list(zip(found, found[1:]))
    for clock in ("mono", "real"):
        back = [b for a, b in pairs if getattr(b, clock) <= getattr(a, clock)]
        if back:
            faults.append(f"the guest's clock ({clock}) went back at heartbeat {back[0].seq}")
    bad = [b for b in found if b.check != "OK"]
    if bad:
        faults.append(f"the guest found wrong memory: chk={bad[0].check} at heartbeat {bad[0].seq}")
    facts = {
        "beats_a": len(on_a),
        "beats_b": len(on_b),
        "last": on_a[-1],
        "first": on_b[0],
        "gap_s": float(on_b[0].mono - on_a[-1].mono),
        "largest_gap_s": float(max(b.mono - a.mono for a, b in pairs)),
        "worst_us": found[-1].gap_us,
    }
    return faults, facts
