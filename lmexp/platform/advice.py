"""What to type on this Linux distribution to install what is missing."""

import os
from pathlib import Path

_RELEASE = Path("/etc/os-release")
_INSTALL_COMPILER = {
    "debian": "apt-get install g++",
    "fedora": "dnf install gcc-c++",
    "arch": "pacman -S gcc",
    "suse": "zypper install gcc-c++",
}


def install_compiler() -> str:
    """Return the command that installs ``g++`` (and with it a C compiler) here; with sudo, unless typed by root."""
    family = next((name for name in _this_distribution() if name in _INSTALL_COMPILER), None)
    if family is None:
        return "install g++ with your package manager"
    return f"{'' if os.geteuid() == 0 else 'sudo '}{_INSTALL_COMPILER[family]}"


def _this_distribution() -> list[str]:
    """Return this distribution's id and those it resembles, nearest first; empty when it does not say."""
    if not _RELEASE.is_file():
        return []
    lines = (line.partition("=") for line in _RELEASE.read_text().splitlines())
    fields = {key: value.strip("\"'") for key, _, value in lines}
    # openSUSE calls itself "opensuse-leap" and resembles "suse opensuse"; RHEL and its clones resemble "fedora".
    return [fields.get("ID", ""), *fields.get("ID_LIKE", "").split()]
