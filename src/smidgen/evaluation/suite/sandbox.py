"""Run a model's code in a process of its own that can do little and ends soon.

The process has no network, starts no programs, writes no files, sees none of our environment, and has limits of
processor time, memory and wall time. That bounds accidents and common mischief; it is no prison for an attacker, so
nothing runs unless the user asks for it (`--run-code`).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from smidgen.evaluation.suite.verdict import RIGHT, Verdict, wrong

SECONDS = 4
"""Wall time; processor time is half of it."""
MEMORY = 512 * 1024 * 1024
"""Bytes of address space."""
OUTPUT = 64 * 1024
"""Bytes that it may write to where its outcome is read from; to other files it writes none."""

_RUNNER = """
import ctypes, json, os, resource, sys
request = json.loads(sys.stdin.read())
sys.stdin.close()
# A network of its own, in which there is nothing; where the kernel refuses, the audit hook below refuses sockets.
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
try:
    ctypes.CDLL(None).unshare(CLONE_NEWUSER | CLONE_NEWNET)
except (AttributeError, OSError):
    pass
for limit, value in (
    (resource.RLIMIT_CPU, request["seconds"] // 2 or 1),
    (resource.RLIMIT_AS, request["memory"]),
    (resource.RLIMIT_FSIZE, request["output"]),
    (resource.RLIMIT_CORE, 0),
    (resource.RLIMIT_NPROC, 0),
    (resource.RLIMIT_NOFILE, 16),
):
    resource.setrlimit(limit, (value, value))
# Found before the hook is there: what the code may import is what lies in memory or in the standard library.
sys.setrecursionlimit(2000)
refused = ("socket.", "subprocess.", "os.", "shutil.", "ctypes.", "ftplib.", "smtplib.", "urllib.", "http.", "pty.",
           "sys._getframe", "gc.", "resource.", "signal.", "mmap.", "fcntl.", "webbrowser.", "glob.", "tempfile.",
           "builtins.input", "pathlib.", "syslog.", "import _posixsubprocess")
allowed = ("os.listdir", "os.scandir", "os.getxattr")

def hook(event, arguments):
    if event == "open":
        mode, flags = arguments[1], arguments[2]
        if isinstance(mode, str) and set(mode) & set("wax+"):
            raise PermissionError("writing is refused")
        path = os.fspath(arguments[0]) if not isinstance(arguments[0], int) else ""
        path = path.decode() if isinstance(path, bytes) else path
        if not path.startswith(libraries) or (isinstance(flags, int) and flags & 3):
            raise PermissionError("files are refused")
    elif event.startswith(refused) and event not in allowed:
        raise PermissionError(event + " is refused")
    elif event == "import" and arguments[0] in {"ctypes", "_ctypes", "socket", "_socket", "subprocess"}:
        raise PermissionError(arguments[0] + " is refused")

libraries = tuple(os.path.realpath(path) for path in {sys.prefix, sys.base_prefix, *sys.path} if path)
for name in ("ctypes", "_ctypes", "resource"):
    sys.modules.pop(name, None)
del ctypes, resource
report = sys.stdout
sys.addaudithook(hook)
sys.stdout = sys.stderr = open_null = type("Null", (), {"write": lambda s, t: len(t), "flush": lambda s: None})()
names = {"__name__": "answer"}
try:
    exec(compile(request["code"], "answer", "exec"), names)
    result = [bool(eval(check, names)) for check in request["checks"]]
    outcome = {"result": result}
except BaseException as error:
    outcome = {"error": type(error).__name__}
report.write(json.dumps({**outcome, "token": request["token"]}))
report.flush()
os._exit(0)
"""


def run_checks(code: str, checks: Sequence[str], seconds: int = SECONDS) -> Verdict:
    """Whether the code runs and every expression of `checks` is true after it."""
    token = os.urandom(16).hex()
    limits = {"seconds": seconds, "memory": MEMORY, "output": OUTPUT}
    request = json.dumps({"code": code, "checks": list(checks), "token": token, **limits})
    # A file, not a pipe: the kernel bounds what is written to it, and nothing of that is held in this process.
    with tempfile.TemporaryDirectory() as empty, tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _RUNNER],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.DEVNULL,
            cwd=empty,
            env={"PATH": ""},
            start_new_session=True,
            text=True,
        )
        try:
            process.communicate(request, timeout=seconds)
        except subprocess.TimeoutExpired:
            return wrong(f"runs longer than {seconds} s")
        finally:
            _end(process)
        output.seek(0)
        written = output.read()
    try:
        outcome = json.loads(written)
    except ValueError:
        return wrong("ends its process")
    if not isinstance(outcome, dict) or outcome.get("token") != token:
        return wrong("ends its process")
    if "error" in outcome:
        return wrong(f"raises {outcome['error']} when it runs")
    failed = [check for check, held in zip(checks, outcome["result"], strict=True) if not held]
    return wrong(f"runs, but not {failed[0]}") if failed else RIGHT


def _end(process: subprocess.Popen[str]) -> None:
    """End the process and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
