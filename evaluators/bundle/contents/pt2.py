"""PT2 archives of torch: an exported program or an AOTInductor package, as a zip file of members that are known.

What torch does with one (2.13, torch/export/pt2_archive and torch/_inductor/package): an AOTInductor package is
unpacked to a temporary folder by the names of its members and its ``.so`` is loaded; without a ``.so`` its sources are
compiled with the flags that it brings. An exported program has its symbolic expressions evaluated by sympy, its
sample inputs unpickled (first as weights only and, if that fails, without any limit), and tensors that its
configuration marks ``use_pickle`` unpickled without a limit.
"""

from __future__ import annotations

import io
import os
import pickletools
import re
import stat
import zipfile
from pathlib import Path
from typing import BinaryIO

from evaluators.bundle.manifest import plain_json
from evaluators.bundle.names import why_not_a_name
from evaluators.bundle.tree import open_file
from evaluators.errors import IntegrityError

MOST_MEMBERS, MOST_JSON_BYTES, MOST_PICKLE_BYTES = 100_000, 64 * 2**20, 64 * 2**20
_END_OF_ARCHIVE, _END_BYTES = b"PK\x05\x06", 22
_NATIVE = r"data/aotinductor/[\w.-]+/[\w.-]+\.(so|cubin|hsaco|spv|metallib)"
_MEMBERS = re.compile(
    r"archive_format|archive_version|version|byteorder|\.data/(version|serialization_id|\w+)|"
    r"data/aotinductor/[\w.-]+/[\w.-]+(\.cpp|\.h|_metadata\.json|\.blob|\.bin)|" + _NATIVE + "|"
    r"data/weights/(weight_\d+|[\w.-]+_weights_config\.json)|"
    r"data/constants/(tensor_\d+|[\w.-]+_constants_config\.json)|"
    r"models/[\w.-]+\.json|data/sample_inputs/[\w.-]+\.pt"
)
_PICKLE_MEMBERS = re.compile(r"data\.pkl|data/\d+|version|byteorder|\.format_version|\.storage_alignment|\.data/\w+")
_TENSOR_GLOBALS = re.compile(
    r"torch\._utils _rebuild_(tensor_v2|parameter)|torch\._tensor _rebuild_from_type_v2|collections OrderedDict|"
    r"torch\.nn\.parameter Parameter|torch (\w+Storage|Tensor|Size|device|"
    r"(b?float|u?int|complex)\d+|bool)|torch\.storage (UntypedStorage|TypedStorage)"
)
_UNPICKLES = frozenset(("STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID"))


def check_pt2(folder: Path, name: str) -> bool:
    """Look at every member of an archive; return whether it holds compiled code.

    Raises:
        IntegrityError: it is no such archive, or a member is unknown, leaves it, is compressed, overlaps another, or is
            a pickle of anything but tensors.
    """
    with open_file(folder, name) as file, _archive(file, name) as archive:
        members = _members(archive, name, os.fstat(file.fileno()).st_size)
        for member, info in members.items():
            if not _MEMBERS.fullmatch(member):
                raise IntegrityError(f"{name} holds {member[:200]!r}, which no archive of a model holds")
            if member.endswith("_config.json"):
                _check_config(_read(archive, info, MOST_JSON_BYTES, name), f"{member} in {name}")
            elif member.startswith("data/sample_inputs/"):
                _check_pickled_tensors(_read(archive, info, MOST_PICKLE_BYTES, name), f"{member} in {name}")
        return _compiled(members, name)


def _archive(file: BinaryIO, name: str) -> zipfile.ZipFile:
    file.seek(max(0, file.seek(0, io.SEEK_END) - _END_BYTES))
    if not file.read().startswith(_END_OF_ARCHIVE):
        raise IntegrityError(f"{name} is no zip archive, or something follows its end")
    file.seek(0)
    if file.read(4) != b"PK\x03\x04":
        raise IntegrityError(f"{name} does not begin with its first member")
    try:
        return zipfile.ZipFile(file)
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise IntegrityError(f"{name} is no zip archive: {error}") from None


def _members(archive: zipfile.ZipFile, name: str, total: int) -> dict[str, zipfile.ZipInfo]:
    """Return the members by their path below the archive's one folder, after looking at where each of them lies."""
    infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
    if not infos or len(infos) > MOST_MEMBERS:
        raise IntegrityError(f"{name} has {len(infos)} members; there must be 1 to {MOST_MEMBERS}")
    if (why := why_not_a_name([info.orig_filename for info in infos])) is not None:
        raise IntegrityError(f"{name} holds {why}")
    end = 0
    for info in infos:
        kind = stat.S_IFMT(info.external_attr >> 16)
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
            raise IntegrityError(
                f"{name} holds {info.filename!r} compressed or encrypted; torch stores members as they are"
            )
        if kind not in (0, stat.S_IFREG) or info.filename != info.orig_filename:
            raise IntegrityError(f"{name} holds {info.filename!r}, which is no plain file")
        if info.header_offset < end or info.header_offset + info.file_size > total:
            raise IntegrityError(f"{name} holds {info.filename!r}, which overlaps another member or the end")
        end = info.header_offset + info.file_size
        _check_header(archive, info, name)
    if infos[0].header_offset != 0 or len({info.filename.partition("/")[0] for info in infos}) != 1:
        raise IntegrityError(f"{name} must hold one folder, from its first byte on")
    return {info.filename.partition("/")[2]: info for info in infos}


def _check_header(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> None:
    """See that the member's own header says what the directory says: readers differ in which of them they believe."""
    try:
        archive.open(info).close()
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError) as error:
        raise IntegrityError(f"{name} says two things about {info.filename!r}: {error}") from None


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, most_bytes: int, name: str) -> bytes:
    if info.file_size > most_bytes:
        raise IntegrityError(f"{name} holds {info.filename!r} of {info.file_size} bytes, more than {most_bytes}")
    try:
        return archive.read(info)
    except (zipfile.BadZipFile, EOFError) as error:
        raise IntegrityError(f"{name} is damaged at {info.filename!r}: {error}") from None


def _check_config(text: bytes, what: str) -> None:
    """Refuse tensors that are stored as pickles, and paths of payloads that leave their folder."""
    content = plain_json(text, MOST_JSON_BYTES, what)
    payloads = content.get("config") if isinstance(content, dict) else None
    if not isinstance(payloads, dict):
        raise IntegrityError(f"{what} lists no payloads")
    for key, payload in payloads.items():
        path = payload.get("path_name") if isinstance(payload, dict) else None
        if not isinstance(path, str) or not re.fullmatch(r"(weight|tensor)_\d+", path):
            raise IntegrityError(f"{what} keeps {key[:100]!r} in {str(path)[:100]!r}, which is no file of tensors")
        if payload.get("use_pickle") is not False:
            raise IntegrityError(f"{what} keeps {key[:100]!r} as a pickle, which runs code when it is loaded")


def _check_pickled_tensors(content: bytes, what: str) -> None:
    """See that what ``torch.save`` wrote holds tensors in plain containers, and names nothing that could be called."""
    file = io.BytesIO(content)
    with _archive(file, what) as archive:
        members = _members(archive, what, len(content))
        for member in members:
            if not _PICKLE_MEMBERS.fullmatch(member):
                raise IntegrityError(f"{what} holds {member[:200]!r}, which torch.save does not write")
        if "data.pkl" not in members:
            raise IntegrityError(f"{what} holds no data.pkl")
        pickle = _read(archive, members["data.pkl"], MOST_PICKLE_BYTES, what)
    try:
        for opcode, argument, _ in pickletools.genops(pickle):
            if opcode.name in _UNPICKLES or (opcode.name == "GLOBAL" and not _TENSOR_GLOBALS.fullmatch(str(argument))):
                raise IntegrityError(f"{what} is a pickle that calls {str(argument or opcode.name)[:200]}")
    except ValueError as error:
        raise IntegrityError(f"{what} is no pickle of tensors: {error}") from None


def _compiled(members: dict[str, zipfile.ZipInfo], name: str) -> bool:
    """Whether the archive is a package of compiled code; each model of one must bring exactly one library."""
    models = {member.rpartition("/")[0] for member in members if member.startswith("data/aotinductor/")}
    for model in models:
        libraries = [member for member in members if member.startswith(f"{model}/") and member.endswith(".so")]
        if len(libraries) != 1:
            raise IntegrityError(
                f"{name} holds {len(libraries)} libraries in {model!r}; with none, loading it would compile its sources"
            )
    return bool(models)
