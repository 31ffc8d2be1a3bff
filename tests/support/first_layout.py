"""Writes models as the first layout had them: `<name>/<version>/manifest.json` and the files it lists."""

import hashlib
import json
from pathlib import Path


def write_model(models_dir: Path, name: str, version: str, files: dict[str, bytes]) -> Path:
    """One model of that layout; returns its directory."""
    directory = models_dir / name / version
    directory.mkdir(parents=True)
    for file, content in files.items():
        (directory / file).write_bytes(content)
    manifest = {
        "schema_version": 1,
        "source": "a test",
        "created": 1_700_000_000,
        "licence": {"name": "MIT", "url": None},
        "files": [
            {
                "name": file,
                "sha256": hashlib.sha256(content).hexdigest(),
                "size": len(content),
            }
            for file, content in files.items()
        ],
        "facts": {},
    }
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory
