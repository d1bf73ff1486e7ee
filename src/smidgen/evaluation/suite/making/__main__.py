"""`python -m smidgen.evaluation.suite.making [FOLDER]`: write the data files, by default the package's."""

import sys
from pathlib import Path

from smidgen.evaluation.suite.making import every_draft, write_suite

write_suite(every_draft(), Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "data")
