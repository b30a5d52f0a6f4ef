"""A process of its own for one run: ``python -m lmexp.worker``.

The frozen run arrives as one JSON line on standard input; progress leaves as JSON lines on standard output. Standard
input stays open as long as the driver lives: when it closes, the run ends as ``interrupted``.
"""

import dataclasses
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from lmexp import platform, results
from lmexp.config import from_mapping
from lmexp.errors import UserError
from lmexp.signals import take_stops_as_interrupts


def main() -> int:
    """Run what the driver sends; return 0 when the run is done or another process has it, else 1 (2: user error)."""
    take_stops_as_interrupts()
    platform.prepare()
    from lmexp.run import Observation, run

    message = json.loads(sys.stdin.readline())
    frozen = from_mapping(message["run"], Path(message["folder"]))
    threading.Thread(target=_interrupt_when_driver_ends, daemon=True).start()

    def tell(observation: Observation) -> None:
        _say(dataclasses.asdict(observation))

    with results.claim(frozen.folder) as ours:
        if not ours or results.is_done(frozen.folder):  # another driver was quicker
            return 0
        try:
            row = run(frozen, tell)
        except UserError as error:
            print(error, file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            return 1
    return 0 if row["status"] == "ok" else 1


def _say(message: dict[str, Any]) -> None:
    try:
        print(json.dumps(message), flush=True)
    except BrokenPipeError:
        # The driver is gone. Its end of standard input closes too, and that ends the run in an orderly way.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def _interrupt_when_driver_ends() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
