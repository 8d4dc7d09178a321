"""Format ``container``: what ``docker build`` takes: the runner behind a small HTTP server, without rights."""

from __future__ import annotations

import shutil
from pathlib import Path

from evaluators.bundle import Manifest
from evaluators.standalone import HERE
from search.exports.format import Format, Options, Written
from search.exports.parts import needs_runner, no_v2_type, requirements, write_examples, write_json, write_runner
from search.exports.source import Source

PORT = 8080

_DOCKERFILE = """FROM python:{python}-slim-bookworm

# Wheels of torch for another accelerator than PyPI's come from an index of their own.
ARG PIP_EXTRA_INDEX_URL=""
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1
WORKDIR /srv/model
COPY requirements.txt .
RUN python -m pip install --disable-pip-version-check -r requirements.txt
COPY bundle bundle
COPY runner.py runtime.py runtime.json serve.py serve.json evidence.json ./
RUN useradd --system --uid 10001 --no-create-home server
USER 10001
EXPOSE {port}
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \\
  CMD ["python", "serve.py", "--check", "--port", "{port}"]
LABEL paretune.digest="{digest}" paretune.target="{target}"
CMD ["python", "serve.py", "--host", "0.0.0.0", "--port", "{port}"]
"""


def _refuse(manifest: Manifest) -> str | None:
    return needs_runner(manifest) or no_v2_type(manifest)


def _write(source: Source, folder: Path, options: Options) -> Written:
    name, manifest = options.name or source.name, source.manifest
    write_runner(source, folder)
    shutil.copyfile(HERE / "serve.py", folder / "serve.py")
    write_json(folder / "serve.json", {"name": name})
    (folder / "requirements.txt").write_text(requirements(manifest))
    (folder / "Dockerfile").write_text(_DOCKERFILE.format(
        python=manifest.environment.get("python", "3.11"), port=PORT, digest=manifest.digest,
        target=manifest.candidate.target,
    ))  # fmt: skip
    (folder / ".dockerignore").write_text("*\n!Dockerfile\n!requirements.txt\n!bundle\n!runner.py\n!runtime.py\n"
                                          "!runtime.json\n!serve.py\n!serve.json\n!evidence.json\n")  # fmt: skip
    threads = manifest.candidate.runtime.threads
    return Written(
        f"docker build -t {name.lower()} . && docker run --read-only --tmpfs /tmp --cpus {threads} -p {PORT}:{PORT} "
        f"{name.lower()}",
        write_examples(source, folder),
    )


FORMAT = Format("container", "a container context, Open Inference Protocol", _refuse, _write, frozenset({"name"}))
