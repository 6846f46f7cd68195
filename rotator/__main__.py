"""``python -m rotator`` and the ``rotator`` command."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    from rotator.cli import app

    app()


if __name__ == "__main__":
    main()
