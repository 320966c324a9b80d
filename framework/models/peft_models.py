"""Model -> whether it is one of peft's, which takes seconds to import and so isn't, to find out."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeGuard

if TYPE_CHECKING:
    from peft import PeftModel


def is_peft_model(model: object) -> TypeGuard[PeftModel]:
    """Whether peft made it: where nothing has imported peft, it has made none."""
    peft = sys.modules.get("peft")
    return peft is not None and isinstance(model, peft.PeftModel)
