# SPDX-License-Identifier: MIT
"""Tests of the `godwit` command: run.py BINARY [NAME...]. Prints "ok NAME" or "FAIL NAME"."""
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


def main():
    if len(sys.argv) < 2 or not os.path.exists(sys.argv[1]):
        sys.exit("usage: run.py BINARY [NAME...]")
    # A shell's background job ignores Ctrl-C, and so would the commands that are to be interrupted here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    wanted = sys.argv[2:]
    failed = done = 0
    for path in sorted(glob.glob(os.path.join(HERE, "test_*.py"))):
        module = importlib.import_module(os.path.basename(path)[:-3])
        for name, function in list(vars(module).items()):
            title = f"{module.__name__[5:]}: {name[5:].replace('_', ' ')}"
            if not name.startswith("test_") or (wanted and not any(w in title for w in wanted)):
                continue
            begin = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="godwit-test-") as folder:
                env = Env(sys.argv[1], folder)
                try:
                    if getattr(module, "NEEDS_CA", True):
                        env.run("ca", "init", "--cluster", "lab", code=0)
                    function(env)
                    assert not env.problems, env.problems
                    print(f"ok {title} ({time.monotonic() - begin:.1f} s)", flush=True)
                except Exception:  # any trouble at all fails the test
                    failed += 1
                    print(f"FAIL {title}\n{traceback.format_exc()}", flush=True)
                finally:
                    env.close()
            done += 1
    print(f"{done - failed} of {done} passed")
    sys.exit(1 if failed or not done else 0)


if __name__ == "__main__":
    main()
