"""What each kind of component must offer; structural, no base classes.

A component is a frozen dataclass whose fields are its YAML keys. Besides the methods below it may
have `check(self, recipe) -> Iterable[Problem]`: the constraints between its settings and the rest
of the recipe, found without torch and before any download.
"""
