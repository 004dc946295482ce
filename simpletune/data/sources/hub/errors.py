"""What the hub's refusals of a data set mean for a person, and what to do about them."""

from __future__ import annotations

from collections.abc import Iterator

from simpletune.data.sources import SourceError, shown
from simpletune.redact import redact

_LOCAL_WAY = 'or download it and set "dataset_name" to its folder'
_MIRROR = f'check the network, or name a mirror with "hf_endpoint" or HF_ENDPOINT; {_LOCAL_WAY}'
_LONGEST = 200


def told(error: BaseException, data_set: str, revision: str | None, endpoint: str) -> SourceError:
    """The error of a data set that `endpoint` doesn't give."""
    from huggingface_hub import errors

    if isinstance(error, SourceError):
        return error
    page = f"https://huggingface.co/datasets/{data_set}"
    accept = f"accept its terms at {page}, then run `hf auth login`; {_LOCAL_WAY}"
    for one in _chain(error):
        if isinstance(one, errors.GatedRepoError):
            return SourceError(f"{data_set} is gated: the hub gives it only to those who accepted its terms", accept)
        if isinstance(one, errors.RevisionNotFoundError):
            return SourceError(f"{data_set} has no revision {shown(str(revision))}", 'check "dataset_revision"')
        if isinstance(one, errors.RepositoryNotFoundError):
            message = f"{endpoint} has no data set {shown(data_set)}, or it is private"
            return SourceError(message, f"check the name, or run `hf auth login`; {_LOCAL_WAY}")
        if isinstance(one, errors.HFValidationError):
            message = f'"dataset_name" is {shown(data_set)}: neither a path nor a name on the hub'
            return SourceError(message, "a name on the hub is OWNER/NAME")
        if isinstance(one, errors.OfflineModeIsEnabled):
            return offline(data_set)
    again = f"run the same command again: it goes on where it stopped; {_MIRROR}"
    return SourceError(f"{shown(data_set)} can't be fetched from {endpoint}: {_said(error)}", again)


def offline(data_set: str) -> SourceError:
    message = f"{data_set} isn't on this machine yet, and HF_HUB_OFFLINE forbids asking the hub"
    return SourceError(message, f"unset HF_HUB_OFFLINE for the first run; {_LOCAL_WAY}")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _said(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return shown(redact(lines[0] if lines else type(error).__name__))[:_LONGEST]


def unreadable(error: BaseException, path: str) -> SourceError:
    """The error of a data set on this machine that the library can't make sense of."""
    return SourceError(f"{shown(path)} can't be read as a data set: {_said(error)}", "check that its files are whole")
