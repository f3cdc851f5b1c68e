#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The demo's verdict must be able to fail: one test per way in which a move can go wrong."""
import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import verdict


def line(seq, mono=None, chk="OK"):
    mono = seq / 10 if mono is None else mono
    return f"web| HB seq={seq} mono={mono:.9f} real={1e9 + mono:.9f} chk={chk} dirty={seq} gap=90\n"


def log(*lines):
    return "[    0.2] hv: ready\nweb| [    0.0] Linux version 6.1\n" + "".join(lines)


class Verdict(unittest.TestCase):
    def check(self, a, b, *wanted):
        faults, facts = verdict.judge(log(*a), log(*b))
        self.assertEqual(len(faults), len(wanted), faults)
        for fault, want in zip(faults, wanted):
            self.assertIn(want, fault)
        return facts

    def test_good(self):
        facts = self.check([line(1), line(2)], [line(3, 0.5), line(4, 0.6)])
        self.assertEqual((facts["last"].seq, facts["first"].seq), (2, 3))
        self.assertAlmostEqual(facts["gap_s"], 0.3)
        self.assertAlmostEqual(facts["largest_gap_s"], 0.3)

    def test_missing(self):
        self.check([line(1), line(2)], [line(4)], "missing: 3")
        self.check([line(2)], [line(3)], "missing: 1")
        self.check([line(1), line(2)[:30] + "\n"], [line(3)], "missing: 2")

    def test_twice(self):
        self.check([line(1), line(2)], [line(2, 0.3), line(3, 0.4)], "twice: 2")

    def test_runs_on_both(self):
        faults, _ = verdict.judge(log(line(1), line(2), line(4)), log(line(3), line(5)))
        self.assertTrue(any("order" in f for f in faults), faults)

    def test_time_back(self):
        self.check([line(1), line(2, 0.9)], [line(3, 0.8)], "(mono) went back at heartbeat 3", "(real)")

    def test_memory(self):
        self.check([line(1)], [line(2, chk="FAIL:1")], "wrong memory")
        self.check([line(1)], [line(2), "web| HB FAIL chk page=1\n"], "HB FAIL chk")

    def test_absent(self):
        self.check([line(1)], [], "host B saw no heartbeat")
        self.check([], [line(1)], "host A saw no heartbeat")

    def test_lost_log(self):
        self.check([line(1)], [line(2), "[lost]\n"], "lost lines")

    def test_other_guest(self):
        self.check([line(1)], [line(2), line(1).replace("web|", "mail|")])


if __name__ == "__main__":
    unittest.main()
