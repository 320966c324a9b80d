"""A reward of your own: the nearer the number, the better."""


def reward(prompt: list[dict[str, str]], completion: str, columns: dict[str, str]) -> float:
    """1 for the right number, less the farther it is, 0 for anything that is no number."""
    try:
        distance = abs(int(completion.strip()) - int(columns["answer"]))
    except ValueError:
        return 0.0
    return 1 / (1 + distance)
