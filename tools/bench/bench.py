# SPDX-License-Identifier: MIT
"""Emulated (or KVM) machines that boot an ESP folder, behind one interface.

    host = Host("a", "path/to/esp", "build/runs/x")     # picks KVM with nested VT-x, else Bochs
    host.start()
    host.wait_for(r"net: listening on port 4789", timeout=60)
    ... talk to 127.0.0.1:host.port, which is 10.0.2.15:4789 of the machine ...
    host.stop()

Inside a machine 10.0.2.2 is the bench's loopback: Link(b).uri is how another machine reaches b.
"""
import ctypes
import hashlib
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(TOP, "build")
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(TOP, "tools", "image"))
sys.path.insert(0, HERE)
from mkesp import make_esp  # noqa: E402
from proxy import Proxy  # noqa: E402

BOCHS = os.path.join(BUILD, "bochs", "bochs")
OVMF_CODE = "/usr/share/OVMF/OVMF_CODE_4M.fd"
OVMF_VARS = "/usr/share/OVMF/OVMF_VARS_4M.fd"
OVMF_BOCHS = "/usr/share/ovmf/OVMF.fd"
GUEST_IP, BENCH_IP, CONTROL_PORT = "10.0.2.15", "10.0.2.2", 4789
DEFAULT_CPU = "corei7_skylake_x"
# Time limits are there to end what hangs. In the tests they are written for a quiet machine; this is for one that is not.
PATIENCE = 3
# For the godwit command: an emulated host may then need more than its 10 s for an answer.
PATIENT = ("--timeout", "60")
# Godwit's own bugs and exceptions, and the firmware's; lines of guests carry a prefix and never match.
FATAL = r"^\[ *\d+\.\d+\] .*; this host stops$|^!!!! X64 Exception Type.*"


class BenchError(Exception):
    """The bench itself cannot do what was asked (a tool is missing, a self-check failed)."""


class HostDied(BenchError):
    """The machine ended, or printed one of FATAL, while something was still expected of it."""


class HostTimeout(BenchError):
    """What was waited for did not come in time."""


_reserved = []


def free_port():
    """A loopback port, for TCP and UDP, that is free and stays ours until this process ends, also while nobody listens there.

    Not one of those that the kernel picks for connections: between two runs of a server a client's could take it. Reserved
    among all processes of this network namespace by the name of an abstract socket, as those are per namespace, too.
    """
    with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as f:
        low = int(f.read().split()[0])
    ports = range(10000, low) if low >= 12000 else range(10000, 65536)
    for _ in range(1000):
        port = random.SystemRandom().choice(ports)
        name = socket.socket(socket.AF_UNIX)
        try:
            name.bind(f"\0godwit-port-{port}")
            for kind in socket.SOCK_STREAM, socket.SOCK_DGRAM:
                with socket.socket(socket.AF_INET, kind) as s:
                    s.bind(("127.0.0.1", port))
        except OSError:
            name.close()
            continue
        _reserved.append(name)
        return port
    raise BenchError("no loopback port is free")


def pick_emulator():
    """("kvm" or "bochs", reason in words)."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as f:
            flags = re.search(r"^flags\s*:(.*)$", f.read(), re.M)
        if not flags or " vmx " not in flags.group(1) + " ":
            return "bochs", "this CPU shows no VT-x"
        os.close(os.open("/dev/kvm", os.O_RDWR))
        with open("/sys/module/kvm_intel/parameters/nested", encoding="ascii") as f:
            if f.read().strip() not in ("Y", "1"):
                return "bochs", "nested VT-x is off (kvm_intel nested=0)"
    except OSError as e:
        return "bochs", f"KVM is not usable: {e}"
    return "kvm", "KVM with nested VT-x"


def enter_netns():
    """Re-execute the program inside its own network namespace where that is allowed (root)."""
    if os.environ.get("GODWIT_NETNS") or os.geteuid() != 0:
        return
    up = "ip link set lo up"
    if subprocess.run(
        ["unshare", "-n", "sh", "-c", up], stderr=subprocess.DEVNULL, check=False
    ).returncode:
        return
    os.environ["GODWIT_NETNS"] = "1"
    os.execvp(
        "unshare",
        ["unshare", "-n", "sh", "-c", up + ' && exec "$@"', "sh", sys.executable, *sys.argv],
    )


def _die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def tail(path, lines=25):
    """The last lines of a log, as text."""
    try:
        with open(path, "rb") as f:
            f.seek(0, os.SEEK_END)
            f.seek(max(0, f.tell() - 64 * 1024))
            return "\n".join(
                f.read().decode(errors="replace").replace("\r", "").splitlines()[-lines:]
            )
    except OSError:
        return ""


class Host:
    """One machine. Files: DIR/NAME.serial.log (COM1), DIR/NAME/ (image, emulator's own files).

    esp       folder (an image is made of it) or a ready .img
    emulator  None = the best that has VT-x; "bochs", "kvm", or "tcg" (QEMU without VT-x)
    cpu       Bochs CPU model; ignored by QEMU
    ips       Bochs: instructions per emulated second
    sync      Bochs: "slowdown" (time = instructions/ips, but never ahead of the wall clock) or "none" (an idle
              machine then races ahead of everybody it talks to; for tests without a network)
    memory    MiB
    cpus      number of CPUs
    port      loopback port that leads to 10.0.2.15:4789 of the machine; 0 = a free one
    lan       a port of the guests' LAN (lan.Lan.port()): card 1 is there; None = the machine has one card
    """

    def __init__(
        self,
        name,
        esp,
        directory,
        *,
        emulator=None,
        cpu=DEFAULT_CPU,
        ips=100_000_000,
        sync="slowdown",
        memory=512,
        cpus=1,
        port=0,
        lan=None,
    ):
        self.name, self.esp = name, os.path.abspath(esp)
        self.dir = os.path.join(os.path.abspath(directory), name)
        self.serial_path = os.path.join(os.path.abspath(directory), name + ".serial.log")
        self.emulator = emulator or os.environ.get("GODWIT_EMULATOR") or pick_emulator()[0]
        if self.emulator not in ("bochs", "kvm", "tcg"):
            raise BenchError(f"no such emulator: {self.emulator} (bochs, kvm or tcg)")
        self.cpu, self.ips, self.sync, self.memory, self.cpus = cpu, ips, sync, memory, cpus
        self.port, self.lan = port or free_port(), lan
        self.mac = "52:54:00:" + ":".join(
            f"{b:02x}" for b in hashlib.sha256(name.encode()).digest()[:3]
        )
        self.lan_mac = "52:54:01" + self.mac[8:]
        self.process = None
        self.started = None
        self.variables = None
        self._position = 0

    # Life

    def start(self):
        """Make the image and switch the machine on. Returns self."""
        os.makedirs(self.dir, exist_ok=True)
        disk = os.path.join(self.dir, "disk.img")
        if os.path.isdir(self.esp):
            make_esp(self._stage_variables() if self.variables else self.esp, disk)
        else:
            subprocess.run(["cp", "--sparse=always", self.esp, disk], check=True)
        open(self.serial_path, "wb").close()
        self._position = 0
        command = self._bochs() if self.emulator == "bochs" else self._qemu()
        with open(os.path.join(self.dir, "emulator.out"), "wb") as out:
            self.process = subprocess.Popen(
                command,
                cwd=self.dir,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                preexec_fn=_die_with_parent,
            )
        self.started = time.monotonic()
        return self

    def stop(self):
        """Pull the plug; the log stays. Harmless on a machine that is off."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def power_cut(self):
        """Pull the plug and switch it on again. What Godwit has written to the firmware's variables is kept."""
        if self.emulator == "bochs":
            self._save_variables()
        self.stop()
        return self.start()

    def _save_variables(self):
        """Bochs has no flash: OVMF keeps its variables in the machine's RAM. Play the chip: take Godwit's from there;
        variables/variables.c gives them back at the next start."""
        self.process.send_signal(signal.SIGSTOP)
        with open(OVMF_BOCHS, "rb") as f:
            header = f.read(0x58)  # of the volume and of the store in it, which RAM has like the image
        with open(f"/proc/{self.process.pid}/maps", encoding="ascii") as f:
            areas = [[int(n, 16) for n in line.split()[0].split("-")] for line in f if " rw-p " in line]
        stores = []
        with open(f"/proc/{self.process.pid}/mem", "rb", 0) as memory:
            for start, end in areas:
                if end - start < self.memory << 20:
                    continue
                memory.seek(start)
                ram = memory.read(end - start)
                at = ram.find(header)
                while at >= 0:
                    stores.append(ram[at + 0x64 : at + 0x10000])
                    at = ram.find(header, at + 1)
        if not stores:
            raise BenchError("OVMF's variables are not in the memory of Bochs")
        # There are copies; the one that was written to last is the longest.
        self.variables = max(map(godwit_variables, stores))[1]

    def _stage_variables(self):
        """The folder to boot: self.esp, with variables.c in front of Godwit."""
        folder = os.path.join(self.dir, "esp")
        boot = os.path.join(folder, "EFI", "BOOT")
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.esp, folder)
        os.rename(os.path.join(boot, "BOOTX64.EFI"), os.path.join(boot, "GODWIT.EFI"))
        build, source = ("selfcheck", "build.sh"), ("variables", "variables.c")
        subprocess.run(
            [os.path.join(HERE, *build), os.path.join(boot, "BOOTX64.EFI"), os.path.join(HERE, *source)], check=True
        )
        with open(os.path.join(folder, "variables"), "wb") as f:
            f.write(self.variables)
        return folder

    def alive(self):
        """True while the machine is on."""
        return self.process is not None and self.process.poll() is None

    def wait_exit(self, timeout=60):
        """Wait until the machine switches itself off."""
        timeout *= PATIENCE
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise HostTimeout(
                f"host {self.name} is still on after {timeout} s; last lines:\n{tail(self.serial_path, 8)}"
            ) from None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    # Serial log

    def serial(self):
        """All of COM1 so far, as text with plain newlines."""
        with open(self.serial_path, "rb") as f:
            text = f.read().decode(errors="replace")
        # The firmware's last line can lose its newline (and leave a NUL) to the next program's UART reset.
        return text.replace("\0", "").replace("\r\n", "\n").replace("\r", "\n")

    def wait_for(self, pattern, timeout=60, rewind=False):
        """Wait for a regular expression (multi-line mode) in whole lines of the log; returns the match.

        The search goes on behind the previous match, or from the start with rewind. HostDied if the machine
        ends or prints a fatal line first, HostTimeout if the time is over.
        """
        timeout *= PATIENCE
        expression, deadline = re.compile(pattern, re.M), time.monotonic() + timeout
        position = 0 if rewind else self._position
        while True:
            alive = self.alive()
            text = self.serial()
            whole = text if not alive else text[: text.rfind("\n") + 1]
            match = expression.search(whole, position)
            if match:
                self._position = match.end()
                return match
            fatal = re.search(FATAL, whole, re.M)
            if fatal:
                time.sleep(0.5)  # for the registers that follow
                raise HostDied(
                    f"host {self.name}: {fatal.group(0)}\n  while waiting for {pattern!r}"
                )
            if not alive:
                raise HostDied(
                    f"host {self.name} ended while waiting for {pattern!r}; {self.last_words()}"
                )
            if time.monotonic() > deadline:
                raise HostTimeout(
                    f"host {self.name}: no {pattern!r} in {timeout} s; last lines:\n{tail(self.serial_path, 8)}"
                )
            time.sleep(0.03)

    def last_words(self):
        if self.emulator == "bochs":
            words = re.findall(r">>PANIC<<.*", tail(os.path.join(self.dir, "bochs.log"), 400))
            if words:
                return "Bochs: " + words[-1]
        return "emulator: " + (
            tail(os.path.join(self.dir, "emulator.out"), 3).strip()
            or f"exit code {self.process.returncode}"
        )

    # Emulators

    def _bochs(self):
        if not os.path.exists(BOCHS):
            raise BenchError("build/bochs is missing. Run 'tools/deps.sh bochs'.")
        with open(os.path.join(self.dir, "slirp.conf"), "w", encoding="ascii") as f:
            f.write(
                "# slirp config\nrestricted = 0\nipv6_enabled = 0\n"
                f"hostfwd = tcp:127.0.0.1:{self.port}-{GUEST_IP}:{CONTROL_PORT}\n"
            )
        # Not ethmod=socket: it drops what is not for the card's own address, and a guest's frames never are.
        lan = self.lan and (
            f"e1000: card=1, enabled=1, mac={self.lan_mac}, ethmod=tuntap, ethdev=/dev/net/tun:{self.lan.tap}\n"
        )
        with open(os.path.join(self.dir, "bochsrc"), "w", encoding="ascii") as f:
            f.write(
                f"""plugin_ctrl: fw_cfg=1, e1000=1
config_interface: textconfig
display_library: rfb, options="timeout=0"
cpu: model={self.cpu}, count={self.cpus}, ips={self.ips}, reset_on_triple_fault=0, ignore_bad_msrs=1, cpuid_freq=ips, quantum=16
memory: guest={self.memory}, host={self.memory}
romimage: file={OVMF_BOCHS}, options=none
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
vga: extension=vbe, update_freq=1
fw_cfg: enabled=1
pci: enabled=1, chipset=i440fx
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=disk, path=disk.img, mode=flat
boot: disk
com1: enabled=1, mode=file, dev={self.serial_path}
port_e9_hack: enabled=1
speaker: enabled=0
e1000: card=0, enabled=1, mac={self.mac}, ethmod=slirp, script=slirp.conf
{lan or ""}log: bochs.log
panic: action=fatal
error: action=report, cpu0=ignore
info: action=ignore
clock: sync={self.sync}
"""
            )
        return [BOCHS, "-q", "-unlock", "-f", "bochsrc"]

    def _qemu(self):
        if not shutil.which("qemu-system-x86_64"):
            raise BenchError("qemu-system-x86_64 is missing. Run 'tools/deps.sh packages'.")
        if not self.started:  # firmware's variables live as long as this object
            shutil.copy(OVMF_VARS, os.path.join(self.dir, "vars.fd"))
        lan = (
            [
                "-netdev",
                f"tap,id=lan,ifname={self.lan.tap},script=no,downscript=no",
                "-device",
                f"e1000,netdev=lan,mac={self.lan_mac},romfile=",
            ]
            if self.lan
            else []
        )
        accel = (
            ["-accel", "kvm", "-cpu", "host,+vmx"]
            if self.emulator == "kvm"
            else ["-accel", "tcg", "-cpu", "max"]
        )
        return [
            "qemu-system-x86_64",
            *accel,
            "-machine",
            "q35",
            "-m",
            str(self.memory),
            "-smp",
            str(self.cpus),
            "-nodefaults",
            "-display",
            "none",
            "-drive",
            f"if=pflash,format=raw,readonly=on,file={OVMF_CODE}",
            "-drive",
            "if=pflash,format=raw,file=vars.fd",
            "-drive",
            "file=disk.img,format=raw,if=none,id=disk",
            "-device",
            "ide-hd,drive=disk,bootindex=0",
            "-netdev",
            f"user,id=net,hostfwd=tcp:127.0.0.1:{self.port}-{GUEST_IP}:{CONTROL_PORT}",
            "-device",
            f"e1000,netdev=net,mac={self.mac},romfile=",
            *lan,
            "-serial",
            f"file:{self.serial_path}",
            "-no-reboot",
        ]


def godwit_variables(store):
    """(end of the last variable, Godwit's as variables.c wants them) of an OVMF variable store, whose header is left out."""
    vendor, found, at = bytes.fromhex("521c3b6f0e8d9a4c9e2751d83ab470c6"), b"", 0
    while store[at : at + 2] == b"\xaa\x55":
        name, data = struct.unpack_from("<II", store, at + 36)
        # State 3Fh: added, and neither deleted nor about to be.
        if store[at + 2] == 0x3F and store[at + 44 : at + 60] == vendor:
            found += store[at + 60 : at + 60 + name] + struct.pack("<I", data) + store[at + 60 + name : at + 60 + name + data]
        at = (at + 60 + name + data + 3) & ~3
    return at, found


class Link(Proxy):
    """The wire to a host: other machines reach it at link.uri. Controls: see proxy.Proxy."""

    def __init__(self, host):
        super().__init__(("127.0.0.1", host.port))
        self.uri = f"tcp:{BENCH_IP}:{self.port}"


def selfcheck(emulator=None, cpu=DEFAULT_CPU):
    """Prove once per machine that the emulator divides, and exits on CPUID. Cached; BenchError names what is broken."""
    emulator = emulator or os.environ.get("GODWIT_EMULATOR") or pick_emulator()[0]
    digest = hashlib.sha256(f"{emulator} {cpu} {os.uname().release}".encode())
    for path in (
        os.path.join(HERE, "selfcheck", "selfcheck.c"),
        os.path.join(BUILD, "bochs", "preload.so"),
        os.path.join(BUILD, "bochs", "version"),
        OVMF_BOCHS,
        OVMF_CODE,
    ):
        if os.path.exists(path):
            with open(path, "rb") as f:
                digest.update(f.read())
    folder = os.path.join(BUILD, "bench")
    stamp = os.path.join(folder, f"selfcheck-{emulator}-{digest.hexdigest()[:16]}.ok")
    if os.path.exists(stamp):
        return
    boot = os.path.join(folder, "esp", "EFI", "BOOT")
    os.makedirs(boot, exist_ok=True)
    subprocess.run(
        [os.path.join(HERE, "selfcheck", "build.sh"), os.path.join(boot, "BOOTX64.EFI")], check=True
    )
    with Host("selfcheck", os.path.join(folder, "esp"), folder, emulator=emulator, cpu=cpu) as host:
        host.start().wait_for(r"selfcheck: done", timeout=90)
        text = host.serial()
    broken = [line for line in text.splitlines() if "BROKEN" in line or "failed" in line]
    if emulator == "tcg":
        broken = [line for line in broken if "no VMX" not in line]
    if broken or "selfcheck: idiv ok" not in text:
        raise BenchError(
            f"the {emulator} bench is broken, no test result would mean anything: "
            + "; ".join(broken)
        )
    open(stamp, "w", encoding="ascii").close()
