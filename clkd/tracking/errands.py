"""A courier's other end: the program that brings runs into MLflow as it is told (`clkd.tracking.courier`)."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import Connection

from clkd.tracking.courier import Advance, Begin, Reply
from clkd.tracking.store import told
from clkd.tracking.upload import Upload

NEEDED = ("mlflow.data.meta_dataset", "mlflow.store.tracking.sqlalchemy_store", "clkd.tracking.figures")


def main() -> None:
    """Do what comes down the line until nobody holds its other end."""
    logging.basicConfig(format="clkd: %(message)s", stream=sys.stderr)
    line = Connection(int(sys.argv[1]))
    _get_ready()
    upload = None
    with suppress(EOFError):
        while True:
            upload, reply = _carry_out(line.recv(), upload)
            line.send(reply)


def _get_ready() -> None:
    """Load what every run needs. Who lacks a part of it is told so when it is used."""
    with suppress(ImportError):
        for name in NEEDED:
            import_module(name)


def _carry_out(order: Begin | Advance, upload: Upload | None) -> tuple[Upload | None, Reply]:
    """What is to be asked next time, and what to answer."""
    try:
        if isinstance(order, Begin):
            os.environ.clear()
            os.environ.update(order.environment)
            upload = None
            upload = Upload(order.directory, order.destination)
        else:
            assert upload is not None, "its begin failed, which was told"
            upload.advance(order.otherwise)
    except Exception as error:  # whoever asked decides what it means
        return upload, Reply({}, upload.events if upload else 0, told(error))
    return upload, Reply(upload.found, upload.events)


if __name__ == "__main__":
    main()
