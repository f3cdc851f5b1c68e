# SPDX-License-Identifier: MIT
"""What the demo prints: live on a terminal, plain lines with times into a pipe. 80 columns are enough."""
import os
import shutil
import sys
import textwrap
import time

COLORS = {"a": "36", "b": "33", "good": "32", "bad": "31", "bold": "1", "dim": "2"}
CELL = 33  # width of one host's half
PLAIN_STATUS_EVERY = 10  # seconds


class Screen:
    """Lines that stay, and below them on a terminal a few that are redrawn."""

    def __init__(self):
        self.tty = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self.color = self.tty and not os.environ.get("NO_COLOR")
        self.start = time.monotonic()
        self.live = 0  # lines of the live part on the screen now
        self.status_at = self.start

    def paint(self, name, text):
        return f"\033[{COLORS[name]}m{text}\033[0m" if self.color and name and text else text

    def seconds(self):
        return time.monotonic() - self.start

    def _wipe(self):
        if self.live:
            sys.stdout.write(f"\033[{self.live}A\r\033[J")
            self.live = 0

    def say(self, text="", color=None):
        """A line that stays."""
        self._wipe()
        sys.stdout.write(self.paint(color, text) + "\n")
        sys.stdout.flush()

    def tell(self, text):
        """A paragraph of the story."""
        for line in textwrap.wrap(text, 76):
            self.say("  " + line)

    def event(self, text, color=None):
        """A line that stays, with the time."""
        self.say(f"[{self.seconds():6.1f} s] {text}", color)
        self.status_at = time.monotonic()

    def status(self, text):
        """What goes on now: live on a terminal, else now and then a line."""
        if self.tty:
            self.draw([(None, f"[{self.seconds():6.1f} s] {text}")])
        elif time.monotonic() - self.status_at > PLAIN_STATUS_EVERY:
            self.event(text)

    def draw(self, lines):
        """Replaces the live part by lines of (color, text); terminal only."""
        size = shutil.get_terminal_size((80, 24))
        lines = lines[-max(1, size.lines - 2) :]
        self._wipe()
        for color, text in lines:
            sys.stdout.write(self.paint(color, text[: size.columns - 1]) + "\n")
        self.live = len(lines)
        sys.stdout.flush()

    def keep(self):
        """What is live now stays for good."""
        self.live = 0


def row(left, right, middle="|"):
    """One line of the side-by-side view."""
    return f"{left:<{CELL}} {middle} {right:<{CELL}}".rstrip()


class SideBySide:
    """The guest's heartbeats, A's on the left and B's on the right, in the order in which they come."""

    SHOWN = 9  # rows on a terminal
    EVERY = 10  # into a pipe: each so many heartbeats one row ...
    NEAR = 3  # ... and this many on each side of the hand-over
    HEAD = [("bold", row("host A", "host B")), ("dim", "-" * CELL + "-+-" + "-" * CELL)]

    def __init__(self, screen):
        self.screen = screen
        self.rows = []  # (color, text) for a terminal
        self.waiting = []  # into a pipe: A's rows not printed yet
        self.count = {"A": 0, "B": 0}
        self.last_a = None
        self.output = []  # of the command that runs, if any

    def header(self):
        if not self.screen.tty:
            self.screen.event(row("host A", "host B"), "bold")

    def add(self, beat):
        cell = f"beat {beat.seq:4}  {beat.mono:9.3f} s  memory {beat.check}"
        self.count[beat.host] += 1
        if beat.host == "A":
            self.last_a = beat
            self._row("a", row(cell, ""), self.count["A"] % self.EVERY == 1)
            return
        if self.count["B"] == 1:
            self._hand_over(beat)
        near = self.count["B"] <= self.NEAR
        self._row("b", row("", cell), near or self.count["B"] % self.EVERY == 0)

    def _hand_over(self, beat):
        for color, text in self.waiting[-self.NEAR :]:
            self.screen.event(text, color)
        self.waiting = []
        gap = f", {beat.mono - self.last_a.mono:.3f} s later" if self.last_a else ""
        # The arrow's head is where the line between the hosts is.
        self._row("bold", f"{'leaves host A ':=<{CELL}}==> goes on on host B{gap}", True)

    def _row(self, color, text, wanted):
        self.rows.append((color, text))
        if self.screen.tty:
            return
        if wanted:
            self.screen.event(text, color)
            self.waiting = []
        else:
            self.waiting.append((color, text))

    def draw(self):
        """On a terminal: the last rows, and the command's last output below them."""
        if not self.screen.tty:
            return
        rows = self.rows[-self.SHOWN :]
        # Always as high, so that nothing jumps.
        rows += [(None, row("", ""))] * (self.SHOWN - len(rows))
        self.screen.draw(self.HEAD + rows + [(None, "")] + self.output[:1] + self.output[1:][-8:])

    def finish(self):
        """On a terminal: what stays is the moment of the hand-over, and all of the command's output."""
        if not self.screen.tty:
            return
        at = next((i for i, (color, _) in enumerate(self.rows) if color == "bold"), len(self.rows))
        self.screen.draw([])
        for color, text in self.HEAD + self.rows[max(0, at - 4) : at + 5] + [(None, "")] + self.output:
            self.screen.say(text, color)
