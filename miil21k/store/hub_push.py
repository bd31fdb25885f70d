"""A folder into a repository of the Hub, through the Hub's own client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from miil21k import __version__
from miil21k.environment import silence_telemetry
from miil21k.errors import DownloadError, UploadError, UsageError
from miil21k.store.cache import is_offline
from miil21k.store.http_download import require_answer
from miil21k.store.hub import endpoint, progress_bars, reason_of
from miil21k.zoo.names import HUB_PREFIX

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["push_folder", "repository"]

silence_telemetry()


def repository(name: str) -> str:
    """Return OWNER/REPOSITORY of a name as users write it, with or without `hf-hub:`; raises UsageError for another."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    repo = name.removeprefix(HUB_PREFIX)
    try:
        validate_repo_id(repo)
    except HFValidationError:
        repo = ""
    if repo.count("/") != 1:
        raise UsageError(f"'{name}' names no repository of the Hub: write OWNER/REPOSITORY, such as anna/my-birds.")
    return repo


def push_folder(
    folder: Path,
    names: Sequence[str],
    repo: str,
    *,
    private: bool = False,
    token: str | None = None,
    revision: str | None = None,
    message: str = "Add a model of miil21k",
    progress: bool = False,
) -> str:
    """Upload these files of `folder` in one commit, and return the address of the commit.

    The repository and the branch `revision` are made where there are none; private counts for a new one alone. token:
    else the one of `hf auth login` or HF_TOKEN. Raises UsageError when the network is off limits, UploadError when the
    Hub does not answer or refuses.
    """
    if is_offline(None):
        raise UsageError("push needs the Hub, but the network is off limits (HF_HUB_OFFLINE); --dry-run needs none.")
    from huggingface_hub import HfApi

    try:
        require_answer(endpoint())
        api = HfApi(endpoint=endpoint(), token=token, library_name="miil21k", library_version=__version__)
        where = {"revision": revision, "commit_message": message}
        with progress_bars(progress):
            api.create_repo(repo, private=private or None, exist_ok=True)
            if revision is not None:
                api.create_branch(repo, branch=revision, exist_ok=True)
            done = api.upload_folder(repo_id=repo, folder_path=folder, allow_patterns=list(names), **where)
    except DownloadError as error:
        raise UploadError(f"The Hub at {endpoint()} cannot be reached: {str(error).rstrip('.')}.") from None
    except Exception as error:  # see `download_from_hub`: its errors have no common base
        raise UploadError(_refusal(repo, error)) from error
    return str(done.commit_url)


def _refusal(repo: str, error: Exception) -> str:
    """Return what the Hub's answer means and what to do."""
    cause: BaseException = error
    while getattr(cause, "response", None) is None and cause.__cause__ is not None:
        cause = cause.__cause__  # of an upload, the client says only which file it was
    status = getattr(getattr(cause, "response", None), "status_code", None)
    owner = repo.partition("/")[0]
    if status == 401:
        return (
            f"The Hub does not know who pushes to '{repo}' (HTTP 401): log in with 'hf auth login', or give --token or "
            "HF_TOKEN, a token with the right to write."
        )
    if status == 403:
        return (
            f"The Hub does not let you write to '{repo}' (HTTP 403): the token needs the right to write, and you must "
            f"be '{owner}' or belong to it."
        )
    if status == 404:
        return f"The Hub has no repository '{repo}' that you may see (HTTP 404): check the name and the token."
    return f"The Hub did not take '{repo}': {reason_of(cause)}. Run the command again: nothing is sent twice."
