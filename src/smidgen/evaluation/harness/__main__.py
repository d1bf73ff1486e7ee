"""`python -m smidgen.evaluation.harness …`: lm_eval's command line, with Smidgen's models."""

from lm_eval.__main__ import cli_evaluate

import smidgen.evaluation.harness  # noqa: F401 (registers the model)

cli_evaluate()
