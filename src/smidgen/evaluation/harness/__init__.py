"""Smidgen's models in lm-evaluation-harness: `--model smidgen --model_args pretrained=DIR`.

`python -m smidgen.evaluation.harness …` is lm_eval's own command line with this model known to it; where lm_eval looks
for models among the entry points `lm_eval.models`, plain `lm_eval` finds it too. Importing this package registers it.
"""

from smidgen.evaluation.harness.lm import SmidgenLM

__all__ = ["SmidgenLM"]
