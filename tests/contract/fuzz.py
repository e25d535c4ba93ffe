"""Schemathesis against a real server: ten minutes of requests made from the document.

Not a test of the suite: it takes long, and finds something else every time. It needs a
package that the tests do not: ``pip install 'schemathesis>=4.32,<5'``. Then, in the
repository::

    python -m tests.contract.fuzz [seconds]

It starts uvicorn with the application of :mod:`.served` on a loopback port, lets
schemathesis read ``/openapi.json`` from it, and ends with schemathesis's exit code.
What it finds comes with a curl command; it is a mistake of the document or of the
server.

The application is :mod:`.served`'s, whose model is a script.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.integration.server import TOKEN, running_server, server_env

DURATION_S: Final = 600

CONFIG: Final = """
[checks.not_a_server_error]
# 503 is an answer that is documented, or else another check finds it.
expected-statuses = ["2xx", "3xx", "4xx", 503]
[checks.positive_data_acceptance]
# 400: a cwd that is no directory, an answer that does not fit what was asked. 403: a
# directory or mode that this server does not allow. 409, 412: somebody has answered,
# such an event was never sent. 422, 429: a key used twice, too many in a second.
expected-statuses = ["2xx", 400, 401, 403, 404, 409, 412, 422, 429, 503]

[[operations]]
include-name = "GET /sessions/{id}/stream"
# A wrong cursor in the query goes unnoticed beside a right one in the header, which
# wins; test_answers knows that.
checks.negative_data_rejection.enabled = false
"""


def main(duration_s: int) -> int:
    """Return schemathesis's exit code: 0 is that nothing was found."""
    program = Path(sys.executable).with_name("schemathesis")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        config = directory / "schemathesis.toml"
        config.write_text(CONFIG, encoding="utf-8")
        env = server_env({})
        with running_server(env, directory, "tests.contract.served:app") as it:
            command = [
                str(program),
                f"--config-file={config}",
                "run",
                f"{it.url}/openapi.json",
                f"--header=Authorization: Bearer {TOKEN}",
                f"--max-time={duration_s}",
                "--continue-on-failure",
                "--exclude-path=/admin/drain",  # it would be the end
            ]
            return subprocess.run(command, cwd=directory, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else DURATION_S))
