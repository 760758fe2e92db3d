"""A virtual machine with this machine's root, read-only, and Debian's kernel, with all of cgroup v2.

It is emulated, and about twenty times slower. It can be reset at any moment; only what its kernel has written
to its disk survives that. A machine that has everything in memory and no disk can be suspended instead.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Self

from tests.faults import ramdisk
from tests.support import ROOT, wait_until

KERNEL = ROOT / "build/kernel"  # downloaded once
QEMU = "qemu-system-x86_64"
VIRTIOFSD = "/usr/libexec/virtiofsd"
_PACKAGE = "linux-image-cloud-amd64"  # its name contains the kernel's version
_INIT = Path(__file__).with_name("guest.sh")
_DISK_BYTES = 400 << 20
_LONGEST_LIFE = 3600  # seconds for one boot
_FILES = f"{VIRTIOFSD} --shared-dir / --socket-path {{socket}} --sandbox none --cache always"
_MACHINE = f"""
timeout --signal=KILL {_LONGEST_LIFE}
{QEMU} -nodefaults -no-user-config -no-reboot -display none -serial file:{{console}}
-accel tcg,thread=multi -cpu max -smp 2 -m 1536M
"""
# sharing files needs shared memory
_SHARING = """
-object memory-backend-memfd,id=memory,size=1536M,share=on -numa node,memdev=memory
-chardev socket,id=files,path={socket} -device vhost-user-fs-pci,chardev=files,tag=root
-drive file={disk},if=virtio,format=raw
"""
_IN_MEMORY = "-initrd {ramdisk}"
_RESET = "sysrq: Resetting"
_ENDED_WELL = "guest: ended well"


class Died(Exception):
    """The program in the machine failed; the text is what the console showed."""


def why_not() -> str | None:
    """Return what this machine lacks for a virtual machine; None if nothing."""
    if platform.machine() != "x86_64":
        return "the virtual machine is one for x86_64"
    if os.geteuid() != 0:
        return "only root can share all of this machine's files"
    missing = [
        name
        for name in (QEMU, VIRTIOFSD, "mkfs.ext4", "apt-get", "dpkg-deb", *ramdisk.PROGRAMS)
        if shutil.which(name) is None
    ]
    return f"not installed: {', '.join(missing)}" if missing else None


class Guest:
    """Make a machine, which is off at first, with its own disk or all `in_memory`."""

    def __init__(self, *, in_memory: bool = False) -> None:
        self._is_in_memory = in_memory
        self._kernel, self._module = _kernel()
        self._folder = Path(tempfile.mkdtemp(prefix="bgd-guest-"))
        self._disk = self._folder / "disk"
        with self._disk.open("wb") as disk:
            disk.truncate(_DISK_BYTES)
        subprocess.run(["mkfs.ext4", "-q", "-F", self._disk], check=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder)

    def run(self, *argv: str, **environ: str) -> str:
        """Boot and run a program of this tree; return what the console showed, after its end or a reset.

        Raises:
            Died: the program neither exited with 0 nor reset the machine.
        """
        script = self._folder / "script"
        words = [*(f"{name}={value}" for name, value in environ.items()), *argv]
        script.write_text(f"exec env {shlex.join(words)}\n")
        console = self._boot(script)
        if _ENDED_WELL not in console and _RESET not in console:
            raise Died(console)
        return console

    def _boot(self, script: Path) -> str:
        console, socket = self._folder / "console", self._folder / "files"
        machine = _MACHINE.format(console=console)
        if self._is_in_memory:
            archive = self._folder / "ramdisk"
            ramdisk.write(archive, script, _INIT)
            self._switch_on(machine + _IN_MEMORY.format(ramdisk=archive), script)
            return console.read_text(errors="replace")
        socket.unlink(missing_ok=True)
        files = subprocess.Popen(_FILES.format(socket=socket).split(), stderr=subprocess.DEVNULL)
        try:
            wait_until(socket.exists)
            self._switch_on(machine + _SHARING.format(socket=socket, disk=self._disk), script)
        finally:
            files.kill()
            files.wait()
        return console.read_text(errors="replace")

    def _switch_on(self, machine: str, script: Path) -> None:
        subprocess.run([*machine.split(), *self._kernel_options(script)], check=True)

    def _kernel_options(self, script: Path) -> list[str]:
        told = {"GUEST_TREE": ROOT, "GUEST_SCRIPT": script, "GUEST_PYTHON": sys.executable}
        root = f"rdinit={_INIT}"
        if not self._is_in_memory:
            told["GUEST_MODULE"] = self._module
            root = f"root=root rootfstype=virtiofs ro init={_INIT}"
        options = [root, "console=ttyS0 panic=-1 quiet", *(f"{name}={value}" for name, value in told.items())]
        return ["-kernel", str(self._kernel), "-append", " ".join(options)]


def _kernel() -> tuple[Path, Path]:
    """Return the kernel and its disk driver, which is a module."""
    if not KERNEL.exists():
        KERNEL.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=KERNEL.parent) as folder:
            _download(Path(folder))
            Path(folder, "files").rename(KERNEL)
    [kernel] = KERNEL.glob("boot/vmlinuz-*")
    [module] = KERNEL.glob("usr/lib/modules/*/kernel/drivers/block/virtio_blk.ko*")
    return kernel, module


def _download(folder: Path) -> None:
    """Download the kernel's package, and unpack it to `files`."""
    asked = subprocess.run(["apt-cache", "depends", _PACKAGE], capture_output=True, text=True, check=True)
    lines = asked.stdout.splitlines()
    name = next(line.split()[-1] for line in lines if "Depends: linux-image-" in line)
    subprocess.run(["apt-get", "download", "--quiet", name], cwd=folder, check=True)
    [package] = folder.glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", package, folder / "files"], check=True)
