"""What a model's code may not do."""

from __future__ import annotations

from pathlib import Path

import pytest

from smidgen.evaluation.suite.sandbox import run_checks


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import socket\nsocket.socket()", "raises"),
        ("import urllib.request as r\nr.urlopen('http://127.0.0.1:9')", "raises"),
        ("import os\nos.system('true')", "raises"),
        ("import subprocess\nsubprocess.run(['true'])", "raises"),
        ("import os\nos.fork()", "raises"),
        ("open('/etc/passwd').read()", "raises"),
        ("open('out.txt', 'w')", "raises"),
        ("import os\nos.remove('{outside}')", "raises"),
        ("import ctypes", "raises"),
        ("x = bytearray(10 ** 10)", "raises MemoryError"),
        ("raise SystemExit(0)", "raises SystemExit"),
        ("def f(n):\n    return f(n + 1)\nf(0)", "raises RecursionError"),
        ("import os\nos._exit(0)", "ends its process"),
        ("print('{\"result\": [true]}')\nimport os\nos._exit(0)", "ends its process"),
    ],
)
def test_it_is_refused(code: str, reason: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("still here")
    verdict = run_checks(code.replace("{outside}", str(outside)), ["True"])
    assert not verdict.right
    assert reason in verdict.reason
    assert outside.read_text() == "still here"


def test_endless_code_is_ended() -> None:
    verdict = run_checks("while True: pass", ["True"], seconds=1)
    assert not verdict.right
    assert "longer than" in verdict.reason or "ends its process" in verdict.reason


def test_what_it_writes_is_bounded() -> None:
    """Whatever comes out of the process is held in this one."""
    flood = "import os\nwhile True:\n    try: os.write(1, b'x' * 2**20)\n    except OSError: break"
    assert run_checks(flood, ["True"]).reason == "ends its process"


def test_plain_code_runs_and_may_use_the_standard_library() -> None:
    assert run_checks("import math, collections\nx = math.gcd(12, 18)\nprint(x)", ["x == 6"]).right
    assert "runs, but not x == 7" in run_checks("x = 6", ["x == 6", "x == 7"]).reason
