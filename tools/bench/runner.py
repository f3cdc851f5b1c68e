#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Run tests in parallel: suites of Python functions, and programs that exit 0 or not.

    tools/bench/runner.py [-k PATTERN] [-j CORES] [--suites DIR | --no-suites] [PROGRAM...]

A suite is a file DIR/*.py (default guest-tests/suites) like this:

    from runner import test

    @test(timeout=90, cores=1)
    def boots(run):
        esp = run.esp("a", conf="[host]\\nname=a\\n")       # a folder with godwit.efi, config, keys
        host = run.host("a", esp)                           # started; stopped when the test ends
        host.wait_for(r"control: ready", timeout=60)
        run.godwit("status", "--host", "a")                 # fails the test if it fails

A test fails by raising anything (assert included). Each runs in a process group of its own that is killed
at its timeout, and leaves everything in build/runs/TEST/. The last line is "N passed, N failed".
"""
import argparse
import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
if __name__ == "__main__":
    sys.modules["runner"] = sys.modules["__main__"]  # suites import the one that runs
import bench
import pki

RUNS = os.path.join(bench.BUILD, "runs")
GODWIT_EFI = os.path.join(bench.BUILD, "godwit.efi")
GODWIT = os.path.join(bench.BUILD, "godwit")
_registered = []


class Test:
    """A test as the runner sees it: body(run) is called in a process of its own."""

    def __init__(self, name, body, timeout, cores):
        self.name, self.body, self.timeout, self.cores = name, body, timeout * bench.PATIENCE, cores
        self.pid = self.started = self.late = None

    @property
    def dir(self):
        return os.path.join(RUNS, self.name)


def test(timeout=120, cores=1):
    """Register a function of one argument (a Run) as a test. timeout: seconds (times bench.PATIENCE); cores = how many it keeps busy."""

    def register(function):
        _registered.append(Test(function.__name__, function, timeout, cores))
        return function

    return register


class Run:
    """What a test has at hand. dir is its own folder, emptied before it starts."""

    def __init__(self, directory):
        self.dir = directory
        self._hosts, self._links, self._pki, self._commands = [], [], None, 0

    @property
    def pki(self):
        """This test's own cluster CA (pki.Pki), made on first use."""
        if not self._pki:
            self._pki = pki.Pki(os.path.join(self.dir, "pki"))
        return self._pki

    def esp(self, name, conf, files=None, efi=GODWIT_EFI, keys=True):
        """Stage an ESP folder for host name and return its path.

        conf   text of \\godwit\\godwit.conf
        files  {name in \\godwit: path of a file, or bytes}
        keys   also \\godwit\\ca.crt, host.crt and host.key, from this test's CA
        """
        folder = os.path.join(self.dir, "esp-" + name)
        boot, home = os.path.join(folder, "EFI", "BOOT"), os.path.join(folder, "godwit")
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(boot)
        os.makedirs(home)
        shutil.copy(efi, os.path.join(boot, "BOOTX64.EFI"))
        staged = {"godwit.conf": conf.encode(), **(files or {})}
        if keys:
            crt, key = self.pki.issue(name, "host")
            staged = {"ca.crt": self.pki.ca_crt, "host.crt": crt, "host.key": key, **staged}
        for target, source in staged.items():
            path = os.path.join(home, target)
            if isinstance(source, bytes):
                with open(path, "wb") as f:
                    f.write(source)
            else:
                shutil.copy(source, path)
        return folder

    def host(self, name, esp, **options):
        """Start a machine (options: see bench.Host). It is stopped when the test ends."""
        host = bench.Host(name, esp, self.dir, **options)
        self._hosts.append(host)
        return host.start()

    def link(self, host):
        """A link to host that can be slowed and cut; other machines use its uri (controls: see proxy.Proxy)."""
        link = bench.Link(host)
        self._links.append(link)
        return link

    def godwit(self, *args, check=True, timeout=60, env=None, stdin=None):
        """Run the godwit command; returns subprocess.CompletedProcess with text. Logged in godwit.log."""
        command = [GODWIT, *map(str, args)]
        result = subprocess.run(
            command,
            stdin=stdin or subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=timeout * bench.PATIENCE,
            check=False,
            env={**os.environ, **(env or {})},
        )
        result.stdout, result.stderr = (
            b.decode(errors="replace") for b in (result.stdout, result.stderr)
        )
        with open(os.path.join(self.dir, "godwit.log"), "a", encoding="utf-8") as f:
            f.write(
                f"$ godwit {' '.join(command[1:])}\n{result.stdout}{result.stderr}[exit {result.returncode}]\n"
            )
        if check and result.returncode:
            raise AssertionError(
                f"godwit {' '.join(command[1:])} ended with {result.returncode}:\n{result.stdout}{result.stderr}"
            )
        return result

    def close(self):
        for host in self._hosts:
            host.stop()
        for link in self._links:
            link.close()


def load_suites(folder):
    """All tests of the folder's *.py, in order of file and definition."""
    sys.path.insert(0, folder)
    for file in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        if file.endswith(".py") and file != "lib.py":
            importlib.import_module(file[:-3])  # once, even if another suite uses it, too
    return _registered


def program(path, timeout):
    """A program as a test: it passes if it exits 0."""

    def body(_):
        os.execv(path, [path])

    return Test(os.path.basename(path), body, timeout, 1)


def start(job):
    """Fork the test into a process group of its own, with its output in DIR/test.log."""
    shutil.rmtree(job.dir, ignore_errors=True)
    os.makedirs(job.dir)
    sys.stdout.flush()
    sys.stderr.flush()
    job.started = time.monotonic()
    job.pid = os.fork()
    if job.pid:
        return
    code = 1
    try:
        os.setsid()
        log = os.open(
            os.path.join(job.dir, "test.log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644
        )
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ["ASAN_OPTIONS"] = os.environ.get(
            "ASAN_OPTIONS", "abort_on_error=0:detect_leaks=1"
        )
        run = Run(job.dir)
        try:
            job.body(run)
            code = 0
        finally:
            run.close()
    except BaseException:  # the process ends here, whatever it was
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def kill_group(pid):
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def report(job, status, cpu, verbose):
    """One progress line; on failure also the last lines of the test's logs."""
    seconds = time.monotonic() - job.started
    ok = status == 0 and not job.late
    why = ""
    if job.late:
        why = f"  (over its {job.timeout} s)"
    elif os.WIFSIGNALED(status):
        why = f"  (signal {os.WTERMSIG(status)})"
    print(f"{'PASS' if ok else 'FAIL'}  {job.name}  {seconds:.1f} s  (CPU {cpu:.0f} s){why}", flush=True)
    if ok and not verbose:
        return ok
    logs = [n for n in sorted(os.listdir(job.dir)) if n.endswith(".log") and n != "test.log"]
    for name in logs + ["test.log"]:
        text = bench.tail(os.path.join(job.dir, name), 30)
        if text:
            print(f"  --- {os.path.relpath(os.path.join(job.dir, name), bench.TOP)}")
            print(
                "\n".join(
                    "  | " + re.sub(r"\x1b\[[0-9;=]*[A-Za-z]", "", line)
                    for line in text.splitlines()
                ),
                flush=True,
            )
    return ok


def run_all(jobs, cores, verbose):
    """Run the jobs on so many cores; returns (passed, names of the failed)."""
    waiting, running, passed, failed, free = list(jobs), {}, 0, [], cores
    try:
        while waiting or running:
            for job in list(waiting):
                if min(job.cores, cores) <= free:
                    waiting.remove(job)
                    free -= min(job.cores, cores)
                    start(job)
                    running[job.pid] = job
                else:
                    break  # keep the order: a big test must not wait for ever behind small ones
            pid, status, used = os.wait4(-1, os.WNOHANG)  # used: with its emulators
            if pid in running:
                job = running.pop(pid)
                kill_group(pid)
                free += min(job.cores, cores)
                if report(job, status, used.ru_utime + used.ru_stime, verbose):
                    passed += 1
                else:
                    failed.append(job.name)
                continue
            for job in running.values():
                if not job.late and time.monotonic() - job.started > job.timeout:
                    job.late = True
                    kill_group(job.pid)
            time.sleep(0.02)
    finally:
        for pid in running:
            kill_group(pid)
    return passed, failed


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "programs", nargs="*", metavar="PROGRAM", help="test programs: pass = exit code 0"
    )
    parser.add_argument(
        "-k", metavar="PATTERN", help="only tests whose name matches this regular expression"
    )
    parser.add_argument("-j", type=int, default=len(os.sched_getaffinity(0)), metavar="CORES")
    parser.add_argument(
        "--suites", default=os.path.join(bench.TOP, "guest-tests", "suites"), metavar="DIR"
    )
    parser.add_argument("--no-suites", action="store_true", help="only the programs")
    parser.add_argument(
        "--timeout", type=float, default=300, help="seconds for each PROGRAM (default 300)"
    )
    parser.add_argument("-v", action="store_true", help="show the logs of passed tests too")
    parser.add_argument("-l", action="store_true", help="list the tests and stop")
    args = parser.parse_args()
    bench.enter_netns()
    suites = [] if args.no_suites else load_suites(args.suites)
    jobs = [program(os.path.abspath(p), args.timeout) for p in args.programs]
    # Those that need several cores first: between them a core idles while it waits for the next. Then the long ones, so that
    # no long one is left alone at the end.
    jobs += sorted(suites, key=lambda t: (-t.cores, -t.timeout))
    names = [job.name for job in jobs]
    twice = {n for n in names if names.count(n) > 1}
    if twice:
        sys.exit(f"runner: two tests have the same name: {', '.join(sorted(twice))}")
    jobs = [job for job in jobs if not args.k or re.search(args.k, job.name)]
    if args.l:
        print("\n".join(job.name for job in jobs))
        return 0
    if not jobs:
        sys.exit("runner: no test matches")
    if any(job in suites for job in jobs):
        emulator, reason = bench.pick_emulator()
        print(
            f"bench: {os.environ.get('GODWIT_EMULATOR') or emulator} ({reason}), {args.j} cores",
            flush=True,
        )
        try:
            bench.selfcheck()
        except bench.BenchError as e:
            sys.exit(f"runner: {e}")
    passed, failed = run_all(jobs, args.j, args.v)
    for name in failed:
        print(f"failed: {name}  (build/runs/{name}/)")
    print(f"{passed} passed, {len(failed)} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
