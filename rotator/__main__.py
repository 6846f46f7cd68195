"""``python -m rotator`` and the ``rotator`` command."""

from __future__ import annotations

import gc
import os


def main() -> None:
    """Run the command line."""
    # What imports allocate lives for ever: looking for garbage in it would cost a short command a tenth of its time.
    gc.set_threshold(50_000, 10, 10)
    # Looking for plugins of pydantic in every installed package would cost each command its tenth of a second.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    from rotator.cli import app

    app()


if __name__ == "__main__":
    main()
