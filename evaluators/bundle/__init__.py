"""Bundle: what a trial builds and a deployment ships — files, and a manifest that hashes every one of them.

``open_bundle`` is the gate before every load; ``read_manifest`` checks the same files without asking whether they may
run here. docs/bundles.md describes the format and what is refused.
"""

from __future__ import annotations

from evaluators.bundle.manifest import MANIFEST, SCHEMA_VERSION, Manifest, Preprocessing
from evaluators.bundle.names import bundle_name, is_named_after
from evaluators.bundle.opening import compressed_bytes, open_bundle, read_manifest, size_bytes, write_manifest

__all__ = [
    "MANIFEST",
    "SCHEMA_VERSION",
    "Manifest",
    "Preprocessing",
    "bundle_name",
    "compressed_bytes",
    "is_named_after",
    "open_bundle",
    "read_manifest",
    "size_bytes",
    "write_manifest",
]
