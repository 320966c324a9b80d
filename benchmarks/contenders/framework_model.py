"""RECIPE -> prints the folder in which this framework has its model, in Hugging Face layout."""

from __future__ import annotations

import sys

from framework.recipe.resolve import resolve

print(resolve(sys.argv[1]).model.source.fetch())
