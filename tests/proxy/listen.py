"""A peer in a process of its own: copies a stream to its output.

``python listen.py HOST PORT PATH TOKEN``; it knows nothing of this repository, so that
it can run in a network of its own.
"""

from __future__ import annotations

import http.client
import sys


def main() -> None:
    host, port, path, token = sys.argv[1:]
    connection = http.client.HTTPConnection(host, int(port))
    connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
    response = connection.getresponse()
    while data := response.read1():
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
