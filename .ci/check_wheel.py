"""Check that a wheel holds the package skbert, its metadata, and nothing else."""

import sys
from zipfile import ZipFile


def check(wheel: str) -> None:
    names = ZipFile(wheel).namelist()
    metadata = [name for name in names if name.split("/")[0].endswith(".dist-info")]
    package = [name for name in names if name.startswith("skbert/")]
    foreign = sorted(set(names) - set(metadata) - set(package))
    unwanted = [name for name in package if not name.endswith((".py", "/py.typed"))]
    missing = [name for name in ("skbert/__init__.py", "skbert/py.typed") if name not in names]
    if not any(name.endswith("/licenses/LICENSE") for name in metadata):
        missing.append("LICENSE")
    if foreign or unwanted or missing:
        sys.exit(f"{wheel}: missing {missing}, outside skbert/ {foreign}, no source {unwanted}")
    print(f"{wheel}: {len(package)} files of skbert, {len(metadata)} of metadata")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"expected one wheel, got {sys.argv[1:]}")
    check(sys.argv[1])
