# SPDX-License-Identifier: MIT
"""Hosts that are enrolled with the real `godwit ca`, and an operator who can run `godwit`: what demo and bench share.

    cluster = Cluster("build/demo")
    b = cluster.host("b")
    a = cluster.host("a", guest_section, {"vmlinuz": "build/linux/vmlinuz"})
    a.start(); b.start()
    cluster.godwit("migrate", "web", "b")
"""
import json
import os
import shutil
import subprocess

import bench

GODWIT = os.path.join(bench.BUILD, "godwit")
GODWIT_EFI = os.path.join(bench.BUILD, "godwit.efi")
HOST_CONF = f"""[host]
name = {{name}}
[network]
mode = static
address = {bench.GUEST_IP}/24
gateway = {bench.BENCH_IP}
"""


class CommandFailed(bench.BenchError):
    """The godwit command ended with an error; the text says which."""


class Cluster:
    """A CA, an operator's state folder and hosts, all in one directory that is emptied first."""

    def __init__(self, directory, name="demo"):
        self.dir, self.hosts = os.path.abspath(directory), {}
        self.state = os.path.join(self.dir, "operator")
        for path in (GODWIT, GODWIT_EFI):
            if not os.path.exists(path):
                raise bench.BenchError(
                    f"{os.path.relpath(path, bench.TOP)} is missing. Run 'make deps' and 'make'."
                )
        try:
            if os.path.isdir(self.dir):
                shutil.rmtree(self.dir)
            os.makedirs(self.dir)
        except PermissionError:
            raise bench.BenchError(
                f"{self.dir} belongs to another user. Remove it: sudo rm -r {self.dir}"
            ) from None
        self.godwit("ca", "init", "--cluster", name)

    def env(self):
        """Environment in which the godwit command acts as this cluster's admin."""
        return {**os.environ, "GODWIT_DIR": self.state}

    def host(self, name, guests="", files=None, link=False, **options):
        """Enrol a host and make its boot disk; not started. options: see bench.Host.

        guests  more of godwit.conf
        files   {name in \\godwit: path}
        link    other hosts reach it through a bench.Link, host.link
        """
        esp = os.path.join(self.dir, "esp-" + name)
        host = bench.Host(name, esp, self.dir, **options)
        host.link = bench.Link(host) if link else None
        peer_port = host.link.port if link else host.port
        addresses = {"--address": f"127.0.0.1:{host.port}"}
        addresses["--peer-address"] = f"{bench.BENCH_IP}:{peer_port}"
        self.godwit("ca", "enroll", name, *(x for pair in addresses.items() for x in pair))
        shutil.copytree(os.path.join(self.state, "esp", name), esp)
        boot, home = os.path.join(esp, "EFI", "BOOT"), os.path.join(esp, "godwit")
        os.makedirs(boot)
        shutil.copy(GODWIT_EFI, os.path.join(boot, "BOOTX64.EFI"))
        with open(os.path.join(home, "godwit.conf"), "w", encoding="ascii") as f:
            f.write(HOST_CONF.format(name=name) + guests)
        for target, source in (files or {}).items():
            if not os.path.exists(source):
                raise bench.BenchError(f"{source} is missing. Run 'make deps' and 'make'.")
            shutil.copy(source, os.path.join(home, target))
        self.hosts[name] = host
        return host

    def godwit(self, *args):
        """Run the godwit command to its end and return what it printed; CommandFailed if it fails."""
        done = subprocess.run(
            [GODWIT, *args],
            env=self.env(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=600,
            check=False,
        )
        if done.returncode:
            raise CommandFailed(
                f"'godwit {' '.join(args)}' ended with {done.returncode}: "
                + (done.stderr or done.stdout).strip()
            )
        return done.stdout

    def query(self, *args):
        """The same with --json, parsed."""
        return json.loads(self.godwit(*args, "--json"))

    def stop(self):
        """Everything off. Harmless when it is."""
        for host in self.hosts.values():
            host.stop()
            if host.link:
                host.link.close()
