"""Runs the server: ``python3 -m netconf CONFIG.json``."""

import asyncio
import json
import sys
from pathlib import Path

from .rpc import Rpcs
from .server import Server


def _main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    rpcs = Rpcs(
        settings["vtysh"],
        router_id=settings["router_id"],
        local_as=settings["local_as"],
        groups=settings.get("groups", {}),
    )
    asyncio.run(Server(settings, rpcs).run())


if __name__ == "__main__":
    _main()
