"""Send to the trackers what they have not received: of a run that ended while a service could not be reached, or of one
that was never tracked.

Example: smidgen track runs/demo
         smidgen track runs/demo --tracking.trackers '[wandb]' --tracking.project stories

A training sends its figures itself; this is for afterwards.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from smidgen.cli.fields import describe_fields

OVERRIDES = True


def configure(parser: argparse.ArgumentParser) -> None:
    parser.usage = "smidgen track RUN [--tracking.trackers '[wandb]' …]"
    parser.add_argument("run", metavar="RUN", help="run folder")
    parser.epilog = f"Fields of the configuration that may be given as flags:\n{describe_fields(['tracking'])}"


def run(args: argparse.Namespace) -> int:
    from smidgen.config import load_config
    from smidgen.folders.run import RunFolder, is_run_folder
    from smidgen.runtime.errors import ConfigError, TrainingError
    from smidgen.training.tracking import make_forwarders

    folder = Path(args.run)
    if not is_run_folder(folder):
        raise TrainingError(f"{folder}: is no run folder; name one that 'smidgen pretrain' made")
    config = load_config(folder, args.overrides)
    forwarders = make_forwarders(config, folder)
    if not forwarders:
        raise ConfigError("tracking.trackers = []: nobody to send to; add --tracking.trackers '[tensorboard]'")
    # A training that goes on sends its figures itself: nothing may be sent twice.
    with RunFolder(folder).locked():
        for forwarder in forwarders:
            name = forwarder.tracker.name
            try:
                sent = forwarder.send_all(config)
            except Exception as error:  # whatever a service or its library may raise
                reason = " ".join(str(error).split()) or type(error).__name__
                raise TrainingError(f"{name}: {reason}; try again when it can be reached") from error
            print(f"{name}: {sent} lines sent" if sent else f"{name}: has everything")
    return 0
