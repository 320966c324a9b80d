"""Repository on the Hugging Face Hub -> local files; network faults -> messages."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from framework.core.consent import token_of
from framework.core.problems import Problem, RunFailed, UserError
from framework.models.folder import UNWANTED_FILES, WANTED_FILES

NAME = r"[A-Za-z0-9][\w.-]*"
REPOSITORY = re.compile(rf"(?P<repo>{NAME}/{NAME})(?:@(?P<revision>[\w./-]+))?")
"""`owner/name`, or `owner/name@revision`."""


def download_model(repo: str, revision: str, token_env: str) -> Path:
    """The repository's weights, configuration and tokenizer: no pickles, no code.

    Raises:
        UserError: it does not exist, may not be read, or has no such revision.
        RunFailed: the Hub can't be reached.
    """
    from huggingface_hub import snapshot_download

    return _download(
        lambda: snapshot_download(
            repo,
            revision=revision,
            token=_token(token_env),
            allow_patterns=list(WANTED_FILES),
            ignore_patterns=list(UNWANTED_FILES),
        ),
        what=f"{repo!r} at revision {revision!r}",
    )


def download_file(repo: str, file: str, revision: str, token_env: str) -> Path:
    """One file of the repository.

    Raises:
        UserError: it does not exist, may not be read, or has no such revision.
        RunFailed: the Hub can't be reached.
    """
    from huggingface_hub import hf_hub_download

    return _download(
        lambda: hf_hub_download(repo, file, revision=revision, token=_token(token_env)),
        what=f"{file!r} of {repo!r} at revision {revision!r}",
    )


def find_or_fetch_config(repo: str, revision: str, token_env: str) -> Path:
    """Folder of the repository's files on this machine; only config.json is downloaded if there is
    none.

    Raises:
        UserError: it does not exist, may not be read, or has no such revision.
        RunFailed: the Hub can't be reached.
    """
    from huggingface_hub import errors, snapshot_download

    try:
        found = Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except (errors.LocalEntryNotFoundError, errors.HFValidationError):
        found = None
    if found is not None and (found / "config.json").is_file():
        return found
    return download_file(repo, "config.json", revision, token_env).parent


def token_problems(token_env: str) -> tuple[Problem, ...]:
    """One problem when a variable is named that is not set."""
    if not token_env or os.environ.get(token_env):
        return ()
    return (
        Problem(
            key="model.source.token_env",
            what=f"the environment variable {token_env!r} is not set",
            hint=f"export {token_env}=hf_... before the run; "
            "the token itself never belongs in a recipe",
        ),
    )


def _token(token_env: str) -> str | None:
    """The named variable's token; None leaves it to the Hub's own login."""
    return token_of(token_env) if token_env else None


def _download(fetch: Callable[[], str], what: str) -> Path:
    from huggingface_hub import errors

    try:
        return Path(fetch())
    except errors.GatedRepoError as error:
        raise _wrong(
            f"{what} is gated", "accept its terms on the Hub, and name your token in `token_env`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise _wrong(
            f"the Hub knows no model {what}, or hides it",
            "check the spelling (`./name` for a local folder); a private model needs `token_env`",
        ) from error
    except errors.RevisionNotFoundError as error:
        hint = "write a branch, tag or commit"
        raise _wrong(f"the Hub has no such revision: {what}", hint) from error
    except errors.RemoteEntryNotFoundError as error:
        raise _wrong(f"the Hub has no such file: {what}", "check the file's name") from error
    except errors.HFValidationError as error:
        raise _wrong(f"{what} is not a Hub name: {error}", "write `owner/name`") from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        raise RunFailed(
            f"{what} can't be fetched from the Hub: {_first_line(error)}",
            hint="check the network (HF_ENDPOINT, proxies, HF_HUB_OFFLINE), "
            "or name a local folder as `./folder`",
        ) from error


def _wrong(what: str, hint: str) -> UserError:
    return UserError(Problem(key="model.source", what=what, hint=hint))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or repr(error)).partition("\n")[0]
