"""The command's frame: help, exit statuses, and errors in one line."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from typing import Any

import pytest

from smidgen.cli.main import COMMANDS, main
from smidgen.cli.tables import format_bytes, format_count


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(arguments)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_overview_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys)
    assert status == 0
    assert all(f"  {name} " in out for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([name, "--help"])
    assert exit_.value.code == 0
    assert f"smidgen {name}" in capsys.readouterr().out.split("xample", 1)[1]


def test_importing_a_command_loads_no_torch() -> None:
    names = [f"smidgen.cli.{name}" for name in COMMANDS]
    code = f"import sys, importlib; [importlib.import_module(n) for n in {names!r}]; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_wrong_usage_exits_with_2_and_suggests(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run(capsys, "genrate")
    assert (status, err) == (2, "smidgen: 'genrate' is not a command; did you mean 'generate'?\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "m", "x", "--temprature", "1"], "--temprature: no such option; did you mean '--temperature'?"),
        (["presets", "m", "x"], "'x': one argument too many; 'smidgen presets --help' shows what there is"),
        (["info"], "the following arguments are required: MODEL; 'smidgen info --help' shows what there is"),
        (["pretrain", "elite-tiny", "--max-tme", "1"], "--max-tme: no such option; did you mean '--max-time'?"),
        (["generate", "m", "x", "--qqqq=2"], "--qqqq: no such option; 'smidgen generate --help' shows what there is"),
    ],
)
def test_wrong_usage_of_a_command_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert capsys.readouterr().err == f"smidgen: {message}\n"


def test_a_users_mistake_is_one_line_and_exits_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "info", "elite-tiny", "--model.nm_layers", "3")
    assert (status, out) == (1, "")
    assert err == "smidgen: model.nm_layers: no such field; did you mean 'model.num_layers'?\n"


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(Exception, match="no such field"):
        main(["info", "elite-tiny", "--model.nm_layers", "3", "--debug"])


def test_a_missing_dependency_names_its_extra(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_args: Any) -> int:
        raise ModuleNotFoundError("No module named 'pydantic'", name="pydantic")

    monkeypatch.setattr(importlib.import_module("smidgen.cli.presets"), "run", fail)
    status, _, err = run(capsys, "presets")
    assert status == 1
    assert "pip install 'smidgen[train]'" in err


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{sys.executable} -m smidgen presets | head -1"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert result.stderr == ""
    assert result.stdout.startswith("preset")


def test_presets_as_json_and_as_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "presets", "--json")
    rows = {row["preset"]: row["parameters"] for row in json.loads(out)}
    assert rows["elite-112m"] == 112_085_760
    _, out, _ = run(capsys, "presets", "elite-112m")
    assert "hidden_size: 768" in out


def test_info_counts_and_obeys_overrides(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "info", "tilda-70m")
    assert "70,730,752" in out
    _, out, _ = run(capsys, "info", "elite-112m", "--model.num_layers", "6", "--json")
    figures = json.loads(out)
    assert figures["parameters"] == 37_748_736 + 768 + 6 * (4_718_592 + 1_474_560 + 1_536)
    assert figures["tokens_per_step"] == 8 * 16 * 2048


def test_units() -> None:
    assert [format_bytes(n) for n in (7, 1536, 3 * 2**30)] == ["7 B", "1.5 KiB", "3.0 GiB"]
    assert [format_count(n) for n in (7, 1234567, 2.5e9)] == ["7", "1.23M", "2.5B"]
