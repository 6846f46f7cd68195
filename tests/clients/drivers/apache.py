"""Apache with mod_auth_openidc as Debian has it, protecting a location with access tokens."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.clients.drivers import server

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.clients.drivers.line import Setup

MODULES = Path("/usr/lib/apache2/modules")


def start(setup: Setup, home: Path, port: int) -> tuple[str, Sequence[str], str]:
    program = shutil.which("apache2", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if not program or not (MODULES / "mod_auth_openidc.so").exists():
        sys.exit("missing: apt-get install apache2 libapache2-mod-auth-openidc")
    file = server.written(
        "apache.conf",
        home / "apache.conf",
        home=home,
        port=port,
        modules=MODULES,
        # Apache refuses to work as root; www-data is whom Debian makes for it.
        user="User www-data\nGroup www-data" if os.geteuid() == 0 else "",
        url=setup.url,
        issuer=setup.issuer,
        ca=home / "ca.pem",
    )
    return version(), [program, "-f", str(file), "-D", "FOREGROUND"], "/api"


def version() -> str:
    asked = ["dpkg-query", "-W", "-f", "${Version}", "libapache2-mod-auth-openidc"]
    told = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    return f"mod_auth_openidc {told.partition('-')[0]}"


server.run(start)
