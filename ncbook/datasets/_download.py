"""A download that gives up within seconds without network, and says what happened. Called by modules of data sets."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Callable

PROBE_SECONDS, STALL_SECONDS = 3, 60  # to answer at all; without a byte, once it runs


class NotWanted(RuntimeError):
    """What came is not what it should be; the message says what it is."""


def attempt(url: str, fetch: Callable[[], None], probe: str | None = None) -> str:
    """Run a download; returns "downloaded", or what went wrong in words.

    Args:
        url: where it comes from, as told to the reader.
        fetch: downloads; an OSError or RuntimeError is a failure.
        probe: address asked first; None: ``url``.
    """
    before = socket.getdefaulttimeout()
    try:
        # Without network, torchvision would wait for minutes; ask once, for a few seconds.
        urllib.request.urlopen(urllib.request.Request(probe or url, method="HEAD"), timeout=PROBE_SECONDS).close()
        socket.setdefaulttimeout(STALL_SECONDS)
        fetch()
    except NotWanted as error:
        return f"the download from {url} is {error}"
    except (OSError, RuntimeError) as error:
        return f"the download from {url} failed: {error}"
    finally:
        socket.setdefaulttimeout(before)
    return "downloaded"
