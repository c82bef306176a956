"""Check that a wheel holds the package skbert, its metadata, and nothing else."""

import sys
from pathlib import Path
from zipfile import ZipFile

WEIGHTS = "skbert/weights/minilm_sentiment.safetensors"
MOST_BYTES = 2.5e6


def check(wheel: str) -> None:
    names = ZipFile(wheel).namelist()
    metadata = [name for name in names if name.split("/")[0].endswith(".dist-info")]
    package = [name for name in names if name.startswith("skbert/")]
    foreign = sorted(set(names) - set(metadata) - set(package))
    unwanted = [
        name for name in package if not name.endswith((".py", "/py.typed")) and name != WEIGHTS
    ]
    expected = ("skbert/__init__.py", "skbert/py.typed", WEIGHTS)
    missing = [name for name in expected if name not in names]
    if not any(name.endswith("/licenses/LICENSE") for name in metadata):
        missing.append("LICENSE")
    if foreign or unwanted or missing:
        sys.exit(f"{wheel}: missing {missing}, outside skbert/ {foreign}, no source {unwanted}")
    n_bytes = Path(wheel).stat().st_size
    if n_bytes >= MOST_BYTES:
        sys.exit(f"{wheel}: {n_bytes:,} bytes; at most {MOST_BYTES:,.0f} are allowed")
    print(
        f"{wheel}: {n_bytes:,} bytes, {len(package)} files of skbert, {len(metadata)} of metadata"
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"expected one wheel, got {sys.argv[1:]}")
    check(sys.argv[1])
