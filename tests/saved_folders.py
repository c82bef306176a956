"""Changes to a saved folder, with the hashes that belong to them, as an attacker can make them."""

import hashlib
import json

from skbert.engine.files import manifest


def sign_again(folder, change=lambda content: None):
    """Let `change` have the manifest, and write it with the hashes of all that is there."""
    path = folder / "skbert.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["sha256"]
    for name in content["files"]:
        if (folder / name).is_file():
            content["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    change(content)
    signed = content | {"sha256": manifest.sha256_of_json(content)}
    path.write_text(json.dumps(signed), encoding="utf-8")
