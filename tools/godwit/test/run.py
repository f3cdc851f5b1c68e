# SPDX-License-Identifier: MIT
"""Tests of the `godwit` command: run.py BINARY [NAME...]. Prints "ok NAME" or "FAIL NAME"."""
import concurrent.futures
import glob
import importlib
import os
import signal
import sys
import tempfile
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.dont_write_bytecode = True

from env import Env  # noqa: E402


WORKERS = 4  # most of a test's time is waiting


def run_one(binary, module, name):
    """Run one test; returns its line, and whether it passed."""
    module = importlib.import_module(module)
    title = f"{module.__name__[5:]}: {name[5:].replace('_', ' ')}"
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="godwit-test-") as folder:
        env = Env(binary, folder)
        try:
            if getattr(module, "NEEDS_CA", True):
                env.run("ca", "init", "--cluster", "lab", code=0)
            getattr(module, name)(env)
            assert not env.problems, env.problems
            return f"ok {title} ({time.monotonic() - begin:.1f} s)", True
        except Exception:  # any trouble at all fails the test
            return f"FAIL {title}\n{traceback.format_exc()}", False
        finally:
            env.close()


def main():
    if len(sys.argv) < 2 or not os.path.exists(sys.argv[1]):
        sys.exit("usage: run.py BINARY [NAME...]")
    # A shell's background job ignores Ctrl-C, and so would the commands that are to be interrupted here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    wanted, jobs = sys.argv[2:], []
    for path in sorted(glob.glob(os.path.join(HERE, "test_*.py"))):
        module = importlib.import_module(os.path.basename(path)[:-3])
        for name in vars(module):
            title = f"{module.__name__[5:]}: {name[5:].replace('_', ' ')}"
            if name.startswith("test_") and (not wanted or any(w in title for w in wanted)):
                jobs.append((sys.argv[1], module.__name__, name))
    passed = 0
    with concurrent.futures.ProcessPoolExecutor(WORKERS) as pool:
        for future in [pool.submit(run_one, *job) for job in jobs]:
            line, ok = future.result()
            print(line, flush=True)
            passed += ok
    print(f"{passed} of {len(jobs)} passed")
    sys.exit(0 if jobs and passed == len(jobs) else 1)


if __name__ == "__main__":
    main()
