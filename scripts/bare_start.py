"""The start of the archive that ``make_bare.py`` builds: unpack once to a private folder, and run evaluators there."""

import importlib.util
import os
import shutil
import stat
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

TAG = DIGEST = ""


def tag() -> str:
    system = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    return f"cp{sys.version_info.major}{sys.version_info.minor}-{system}"


def unpacked(archive: Path) -> Path:
    """Return the folder with the archive's payload; it is the user's own, and nobody else can write to it."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "paretune"
    caches.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder = caches / f"evaluators-{DIGEST}"
    if not folder.exists():
        temporary = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=caches))
        try:
            with zipfile.ZipFile(archive) as packed:
                names = [name for name in packed.namelist() if name.startswith("payload/")]
                packed.extractall(temporary, names)
            (temporary / "payload").chmod(0o700)
            try:
                (temporary / "payload").rename(folder)
            except OSError:
                if not folder.exists():  # else another process was quicker
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    found = folder.stat()
    if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        sys.exit(f"error: {folder} belongs to another user or can be written by others: remove it and start again")
    return folder


def main() -> None:
    if tag() != TAG:
        sys.exit(f"error: this archive is for {TAG}, and this Python is {tag()}: build it there with make bare")
    if importlib.util.find_spec("numpy") is None:
        sys.exit(f"error: NumPy is not installed for {sys.executable}: pip install numpy")
    folder = unpacked(Path(sys.argv[0]).resolve())
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    os.execve(sys.executable, [sys.executable, "-m", "evaluators", *sys.argv[1:]], environment)  # noqa: S606


main()
