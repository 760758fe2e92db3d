"""Class jobs: ordinary classes that do not know about bgd. What they print goes to the log."""
# ruff: noqa: T201 - printing is intended

import asyncio
import hashlib
import lzma
import re
import shutil
from collections import Counter
from pathlib import Path


class LogReport:
    def top_words(self, path: str, count: int = 10) -> list[list[str | int]]:
        """Return the most frequent words of a text file, as [word, times]."""
        words: Counter[str] = Counter()
        with Path(path).open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                words.update(re.findall(r"[^\W\d_]+", line.lower()))
        print(f"{path}: {words.total()} words, {len(words)} different")
        return [[word, times] for word, times in words.most_common(int(count))]


class Archive:
    @classmethod
    def compress(cls, folder: str, target: str) -> dict[str, str | int]:
        """Write all files of a folder to TARGET.tar.xz; return its path and size."""
        print(f"compressing {folder}")
        archive = Path(shutil.make_archive(target, "xztar", root_dir=folder))
        return {"path": str(archive), "bytes": archive.stat().st_size}

    @staticmethod
    def verify(path: str) -> int:
        """Read a compressed file and return the number of bytes in it; raise LZMAError if it is damaged."""
        with lzma.open(path) as content:
            return sum(len(block) for block in iter(lambda: content.read(1 << 20), b""))


class Checksums:
    async def of_files(self, folder: str) -> dict[str, str]:
        """Return the SHA-256 of every file below a folder; read several files at a time."""
        files = await asyncio.to_thread(_files_below, folder)
        sums = await asyncio.gather(*(asyncio.to_thread(_sha256, file) for file in files))
        return {str(file.relative_to(folder)): checksum for file, checksum in zip(files, sums, strict=True)}


class Flaky:
    def fetch(self, state_file: str, failures: int = 2) -> str:
        """Fail this many times, counted in a file, then succeed, like a server that restarts."""
        state = Path(state_file)
        tries = int(state.read_text()) + 1 if state.exists() else 1
        state.write_text(str(tries))
        print(f"try {tries}")
        if tries <= int(failures):
            raise ConnectionError(f"try {tries}: the server does not answer yet")
        return f"fetched at try {tries}"


def count_lines(path: str) -> int:
    """Return the number of lines of a file. A class job may also be a plain function."""
    with Path(path).open("rb") as lines:
        return sum(1 for _ in lines)


def _files_below(folder: str) -> list[Path]:
    return sorted(path for path in Path(folder).rglob("*") if path.is_file())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
