"""Write the suite's data files: `python -m smidgen.evaluation.suite.making [FOLDER]`.

The files are what is shipped and read; this package is where they come from, so that a change of wording or a further
category is one edit. The same code gives the same files, byte for byte.
"""

from smidgen.evaluation.suite.making.drafts import Draft, write_suite
from smidgen.evaluation.suite.making.every import every_draft

__all__ = ["Draft", "every_draft", "write_suite"]
