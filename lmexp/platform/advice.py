"""What to type on this Linux distribution to install what is missing."""

import os
from pathlib import Path

_RELEASE = Path("/etc/os-release")
# Distribution family -> (how to install, package of a threaded OpenBLAS, package of g++).
_FAMILIES = {
    "debian": ("apt-get install", "libopenblas0-pthread", "g++"),
    "fedora": ("dnf install", "openblas-threads", "gcc-c++"),
    "arch": ("pacman -S", "openblas", "gcc"),
    "suse": ("zypper install", "libopenblas_pthreads0", "gcc-c++"),
}


def install_blas() -> str:
    """Return the command that installs a threaded OpenBLAS here."""
    return _command(1, "install OpenBLAS with your package manager")


def install_compiler() -> str:
    """Return the command that installs ``g++`` (and with it a C compiler) here."""
    return _command(2, "install g++ with your package manager")


def _command(column: int, otherwise: str) -> str:
    """Build the command for this distribution's family, with sudo unless it is typed by root."""
    family = next((name for name in _this_distribution() if name in _FAMILIES), None)
    if family is None:
        return otherwise
    sudo = "" if os.geteuid() == 0 else "sudo "
    return f"{sudo}{_FAMILIES[family][0]} {_FAMILIES[family][column]}"


def _this_distribution() -> list[str]:
    """Return this distribution's id and those it resembles, nearest first; empty when it does not say."""
    if not _RELEASE.is_file():
        return []
    lines = (line.partition("=") for line in _RELEASE.read_text().splitlines())
    fields = {key: value.strip("\"'") for key, _, value in lines}
    # openSUSE calls itself "opensuse-leap" and resembles "suse opensuse"; RHEL and its clones resemble "fedora".
    return [fields.get("ID", ""), *fields.get("ID_LIKE", "").split()]
