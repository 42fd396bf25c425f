"""How large what is installed is, and what it asks of the machine."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from figures import Figure

if TYPE_CHECKING:
    from bench import Bench

TITLE = "Size"

TEXT = """
What installing adds to an empty environment, dependencies included, how many packages that are, our
wheel and the program `expman` if it is built, and the newest version of glibc that a symbol of the
package's own libraries and programs needs (here: its own, not its dependencies').
Wheel and glibc are those of the wheel that `just wheel` makes, where it has made one.
"""

FIGURES = [
    Figure("installed MB", "installed_mb", "{:.1f}"),
    Figure("packages", "packages", compared=False),
    Figure("wheel MB", "wheel_mb", "{:.1f}", aim=15),
    Figure("`expman` MB", "program_mb", "{:.1f}", aim=15),
    Figure("glibc", "glibc", "2.{:.0f}", compared=False, aim=28),
]

BARE = re.compile(r"^(pip|setuptools|wheel|pkg_resources|_distutils_hack|distutils-precedence)")

OWN = {
    "expman-mesh": ("monarch_like", "expman_mesh"),
    "expman-rs 1.3.0": ("expman", "expman_rs"),
    "expman-rs 0.5.3": ("expman", "expman_rs"),
}
"""What a package's own files lie in; the pyarrow there is ours, for reading back."""


def names(bench: Bench) -> list[str]:
    return bench.names("ours", "tracker")


def run(bench: Bench, name: str, turn: int) -> dict[str, Any] | None:
    if turn:
        return None
    environment = bench.environment(name)
    (site,) = environment.glob("lib/python3*/site-packages")
    own = OWN.get(name)
    parts = [p for p in site.iterdir() if not BARE.match(p.name) and p.name != "__pycache__"]
    if own is not None:
        parts = [p for p in parts if p.name.split("-")[0].split(".")[0] in own]
    files = [f for part in parts for f in ([part] if part.is_file() else part.rglob("*"))]
    files = [f for f in files if f.is_file() and f.suffix != ".pyc"]
    done: dict[str, Any] = {
        "installed_mb": sum(f.stat().st_size for f in files) / 1e6,
        "packages": sum(p.name.endswith(".dist-info") for p in parts),
    }
    package = bench.contenders[name].package or name
    libraries = [f for f in files if own or f.relative_to(site).parts[0] == package]
    if own is not None and bench.contenders[name].kind != "ours":
        libraries += [f for f in (environment / "bin").glob("exp*") if f.is_file()]
    needs = [minor for f in libraries if (minor := glibc(f)) is not None]
    if needs:
        done["glibc"] = max(needs)
    if bench.contenders[name].kind == "ours":
        done.update(built(bench.root))
    return done


def built(root: Path) -> dict[str, float]:
    """Our wheel and program, where they stand."""
    found: dict[str, float] = {}
    for folder in ("wheels", "published"):
        for wheel in (root / "target" / folder).glob("expman_mesh-*.whl"):
            found["wheel_mb"] = wheel.stat().st_size / 1e6
            if folder == "published":
                found.update(needs_of(wheel))
    program = root / "target" / "release" / "expman"
    if program.is_file():
        found["program_mb"] = program.stat().st_size / 1e6
    return found


def needs_of(wheel: Path) -> dict[str, float]:
    """What the libraries in a wheel ask of the machine."""
    with zipfile.ZipFile(wheel) as files:
        needs = [newest(files.read(name)) for name in files.namelist() if name.endswith(".so")]
    return {"glibc": max(minor for minor in needs if minor is not None)}


def glibc(path: Path) -> int | None:
    """The newest `GLIBC_2.N` that an ELF file names; None when it is none or names none."""
    with open(path, "rb") as file:
        if file.read(4) != b"\x7fELF":
            return None
        return newest(file.read())


def newest(data: bytes) -> int | None:
    """The newest `GLIBC_2.N` that is named there."""
    minors = [int(n) for n in re.findall(rb"\x00GLIBC_2\.(\d+)(?:\.\d+)?(?=\x00)", data)]
    return max(minors, default=None)
