"""Imported before LLaMA-Factory: it imports torchaudio even for text alone, and hasn't got it."""

from __future__ import annotations

import importlib.machinery
import sys
import types

sys.modules["torchaudio"] = types.ModuleType("torchaudio")
sys.modules["torchaudio"].__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
