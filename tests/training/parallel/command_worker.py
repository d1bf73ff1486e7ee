"""Commands of the program, one after the other, on every rank: `command_worker.py COMMANDS.json`.

Each command comes with the port at which its ranks meet.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

from smidgen.cli.main import main

if __name__ == "__main__":
    torch.set_num_threads(1)
    for port, command in json.loads(Path(sys.argv[1]).read_text()):
        os.environ["MASTER_PORT"] = str(port)
        assert main(command) == 0, command
