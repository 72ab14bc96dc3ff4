"""What the command line leaves out of what libraries say."""

from __future__ import annotations

import logging
import warnings


def quieten() -> None:
    """Leave out what Lightning says on every run that no user of this project can act on."""
    warnings.filterwarnings("ignore", message="`isinstance.treespec, LeafSpec.` is deprecated")
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    warnings.filterwarnings("ignore", message="The dirpath has changed from")
    # scores are computed over all devices before they are logged
    warnings.filterwarnings("ignore", message="It is recommended to use `self.log")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda record: "litlogger" not in record.msg)
