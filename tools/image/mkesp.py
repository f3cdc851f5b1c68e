#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Make a bootable disk image (GPT, one FAT EFI system partition) from a folder. No root, no mount.

    tools/image/mkesp.py FOLDER OUT.img [--free 4M]

Everything in FOLDER lands in the root of the partition. The image boots under OVMF in Bochs and QEMU,
and from a USB stick (write it with dd). The same folder gives the same layout and the same GUIDs.
"""
import argparse
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import uuid
import zlib

SECTOR = 512
FIRST_LBA = 2048  # 1 MiB, where partitions are expected to start
CYLINDER = 16 * 63 * SECTOR  # Bochs counts disks in whole cylinders
ESP_TYPE = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
NAMESPACE = uuid.UUID("6f0d7c0e-5d7a-4b52-9a55-676f64776974")


def parse_size(text):
    """'64M' -> bytes; K, M and G are powers of 1024."""
    unit = {"K": 10, "M": 20, "G": 30}.get(text[-1:].upper())
    return int(text[:-1]) << unit if unit else int(text)


def folder_bytes(folder):
    """Bytes that the folder's files take on a FAT volume with 4 KiB clusters, directories included."""
    total = 0
    for root, dirs, files in os.walk(folder):
        total += 4096 * (1 + len(dirs))
        for name in files:
            total += (os.path.getsize(os.path.join(root, name)) + 4095) // 4096 * 4096
    return total


def gpt_header(lba, other_lba, entries_lba, last_lba, disk_guid, entries_crc):
    """One GPT header sector (UEFI specification, "GPT Header")."""

    def pack(crc):
        return struct.pack(
            "<8sIIIIQQQQ16sQIII",
            b"EFI PART",
            0x10000,
            92,
            crc,
            0,
            lba,
            other_lba,
            34,
            last_lba,
            disk_guid.bytes_le,
            entries_lba,
            128,
            128,
            entries_crc,
        )

    return pack(zlib.crc32(pack(0))).ljust(SECTOR, b"\0")


def write_gpt(f, sectors, part_sectors):
    """Protective MBR, both GPTs, one partition from FIRST_LBA on."""
    entry = struct.pack(
        "<16s16sQQQ72s",
        ESP_TYPE.bytes_le,
        uuid.uuid5(NAMESPACE, "esp").bytes_le,
        FIRST_LBA,
        FIRST_LBA + part_sectors - 1,
        0,
        "godwit".encode("utf-16le"),
    )
    entries = entry.ljust(128 * 128, b"\0")
    crc, disk = zlib.crc32(entries), uuid.uuid5(NAMESPACE, "disk")
    mbr = bytearray(SECTOR)
    mbr[446:462] = struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xEE, b"\xff\xff\xff", 1, sectors - 1)
    mbr[510:512] = b"\x55\xaa"
    f.seek(0)
    f.write(bytes(mbr) + gpt_header(1, sectors - 1, 2, sectors - 34, disk, crc) + entries)
    f.seek((sectors - 33) * SECTOR)
    f.write(entries + gpt_header(sectors - 1, 1, sectors - 33, sectors - 34, disk, crc))


def make_esp(folder, out, free=4 << 20):
    """Write the image of folder to out, with at least free bytes of room. Raises on any error."""
    for tool in ("mkfs.fat", "mcopy"):
        if not shutil.which(tool, path=os.environ.get("PATH", "") + ":/sbin:/usr/sbin"):
            raise RuntimeError(f"{tool} is missing. Run 'tools/deps.sh packages'.")
    env = dict(
        os.environ, PATH=os.environ.get("PATH", "") + ":/sbin:/usr/sbin", MTOOLS_SKIP_CHECK="1"
    )
    # 33 MiB is the least that mkfs.fat makes a clean FAT32 of, the one type every firmware must read.
    size = max(folder_bytes(folder) * 102 // 100 + free, 36 << 20)
    size = (size + (1 << 20)) & ~((1 << 20) - 1)
    total = -(-(size + (FIRST_LBA + 34) * SECTOR) // CYLINDER) * CYLINDER
    with tempfile.TemporaryDirectory(dir=os.path.dirname(os.path.abspath(out))) as tmp:
        fat = os.path.join(tmp, "fat")
        with open(fat, "wb") as f:
            f.truncate(size)
        subprocess.run(
            [
                "mkfs.fat",
                "-F",
                "32",
                "-s",
                "1",
                "-n",
                "GODWIT",
                "-i",
                "60d31700",
                "-h",
                str(FIRST_LBA),
                fat,
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            env=env,
        )
        names = sorted(os.path.join(folder, n) for n in os.listdir(folder))
        subprocess.run(["mcopy", "-s", "-Q", "-i", fat] + names + ["::/"], check=True, env=env)
        image = os.path.join(tmp, "img")
        # dd keeps the holes: most of the volume is empty.
        subprocess.run(
            ["dd", f"if={fat}", f"of={image}", "bs=1M", "seek=1", "conv=sparse", "status=none"],
            check=True,
        )
        with open(image, "r+b") as f:
            f.truncate(total)
            write_gpt(f, total // SECTOR, size // SECTOR)
        os.replace(image, out)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder")
    parser.add_argument("out")
    parser.add_argument(
        "--free", type=parse_size, default=4 << 20, help="room left on the volume (default 4M)"
    )
    args = parser.parse_args()
    if not os.path.isdir(args.folder) or not os.listdir(args.folder):
        sys.exit(f"mkesp: {args.folder} is not a folder with files in it")
    try:
        make_esp(args.folder, args.out, args.free)
    except (RuntimeError, subprocess.CalledProcessError) as e:
        sys.exit(f"mkesp: {e}")


if __name__ == "__main__":
    main()
