"""The bill of materials of wafermon.pyz, in CycloneDX 1.6 (JSON).

The same archive makes the same document: no time but SOURCE_DATE_EPOCH, no random serial number.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from typing import Any, Optional

_MIT = [{"license": {"id": "MIT"}}]


def document(
    *,
    version: str,
    name: str,
    content: bytes,
    contents: str,
    pyyaml: Optional[tuple[str, str]],
    epoch: int,
) -> dict[str, Any]:
    """Describe the file.

    Args:
        version: of wafermon.
        name: of the file.
        content: of the file.
        contents: the digest of its list of contents.
        pyyaml: version and digest of what is bundled, if it is.
        epoch: time of the sources, Unix seconds.
    """
    digest = hashlib.sha256(content).hexdigest()
    wafermon = {
        "type": "application",
        "bom-ref": f"pkg:pypi/wafermon@{version}",
        "name": "wafermon",
        "version": version,
        "purl": f"pkg:pypi/wafermon@{version}",
        "licenses": _MIT,
        "hashes": [{"alg": "SHA-256", "content": digest}],
        "properties": [
            {"name": "wafermon:file", "value": name},
            {"name": "wafermon:contents-sha256", "value": contents},
        ],
    }
    parts = [] if pyyaml is None else [_pyyaml(*pyyaml)]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'sha256:{digest}')}",
        "version": 1,
        "metadata": {
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch)),
            "component": wafermon,
        },
        "components": parts,
        "dependencies": [
            {"ref": wafermon["bom-ref"], "dependsOn": [part["bom-ref"] for part in parts]},
            *({"ref": part["bom-ref"]} for part in parts),
        ],
    }


def _pyyaml(version: str, contents: str) -> dict[str, Any]:
    return {
        "type": "library",
        "bom-ref": f"pkg:pypi/pyyaml@{version}",
        "name": "PyYAML",
        "version": version,
        "description": "its pure Python part",
        "purl": f"pkg:pypi/pyyaml@{version}",
        "licenses": _MIT,
        "properties": [{"name": "wafermon:contents-sha256", "value": contents}],
    }
